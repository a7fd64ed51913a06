"""Replacing: other databases take the place of the live ones, on all servers or on none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..report import Reporter
from ..server import Server
from . import operation
from .incoming import Incoming
from .outgoing import UndoSet
from .replacement import Replacement, Request
from .site import Site


def replace_live(
    incoming: Sequence[Incoming], request: Request, reporter: Reporter
) -> dict[Server, list[str]]:
    """Put databases in the place of the live ones.

    1. The incoming databases are set up like the live ones. If it stops here, nothing has changed.
    2. Sessions that idle on the live databases are ended, those that work waited for.
    3. One transaction per server swaps. If a later server fails, the earlier ones swap back.

    Returns:
        For each server, the databases that nobody needs any more.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. Nothing has changed then.
    """
    # What is replaced on all servers becomes one undo.
    undo = UndoSet.of(len(incoming)) if request.keep_undo else None
    work = [Replacement(site, group, request, undo, reporter) for site, group in _by_site(incoming)]
    for replacement in work:
        replacement.check()
    for replacement in work:
        replacement.prepare()
    _perform_all(work)
    operation.report_ended([replacement.evictor for replacement in work], reporter)
    return {replacement.site.server: replacement.drops for replacement in work}


def _perform_all(work: Sequence[Replacement]) -> None:
    """Swap on all servers, or on none."""
    try:
        for replacement in work:
            replacement.perform(alone=len(work) == 1, first=replacement is work[0])
    except BaseException:
        if len(work) == 1:
            raise
        # A message may have done its work though its sender was interrupted.
        done = [replacement for replacement in work if replacement.is_done()]
        if len(done) < len(work):
            for replacement in reversed(done):
                replacement.put_back()
        raise


def _by_site(incoming: Iterable[Incoming]) -> list[tuple[Site, list[Incoming]]]:
    groups: dict[int, tuple[Site, list[Incoming]]] = {}
    for each in incoming:
        groups.setdefault(id(each.site), (each.site, []))[1].append(each)
    return list(groups.values())
