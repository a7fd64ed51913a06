"""Undo: swap back what the last restore replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import arrivals, signals
from ..errors import NothingToUndoError
from ..report import Reporter
from . import aftermath, operation, replacing
from .incoming import Incoming, arrivals_of, matched_with_live
from .model import Snapshot, Undo, undos_of
from .replacement import Request
from .site import Site


def undo(
    *,
    databases: Sequence[str] | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    last_look: Callable[[], None] | None = None,
) -> Undo:
    """Swap back what the last restore replaced; doing it again is the redo.

    Args:
        databases: Aliases; None for all that the settings name.
        wait_s: As for `restore`.
        force: As for `restore`.
        reporter: As for `restore`.
        last_look: As for `restore`.

    Returns:
        The undo that became live.

    Raises:
        NothingToUndoError: No restore left one.
        PgsnapError: Other subclasses say what stood in the way. Nothing has changed then.
    """
    about = operation.chosen(databases)
    request = Request.of(keep_undo=True, wait_s=wait_s, force=force, last_look=last_look)
    reporter = reporter or Reporter()
    signals.pre_restore.send(
        sender=Snapshot, aliases=tuple(target.alias for target in about), name=None
    )
    with operation.operation("undo", about, wait_s=request.wait_s, reporter=reporter) as sites:
        last = _last_undo(sites)
        incoming = [
            Incoming.of(site, target, member, member.database)
            for site, target, member in matched_with_live(sites, last.members)
        ]
        arriving = arrivals_of(incoming, None)
        arrivals.expect(arriving)
        drops = replacing.replace_live(incoming, request, reporter)
        for site in sites:
            aftermath.send_off(
                site, current=(), drops=drops.get(site.server, ()), spare=False, reporter=reporter
            )
    arrivals.meet_expected(arriving)
    return last


def _last_undo(sites: Sequence[Site]) -> Undo:
    found = undos_of([member for site in sites for member in site.undos()])
    if not found:
        databases = ", ".join(repr(name) for site in sites for name in site.sources)
        raise NothingToUndoError(
            f"There is nothing to undo: no restore of {databases} has left an undo.",
            hint="See pgsnap list for snapshots to restore.",
        )
    return found[0]
