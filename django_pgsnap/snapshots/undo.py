"""Undo: swap back what a restore or an undo replaced; `undo_history` says what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..connections.reconnect import handle_announced_restore
from ..errors import NothingToUndoError, ObstacleError
from ..messages import join_messages
from ..reporting import Reporter
from ..signals import pre_restore
from .context import ServerContext, choose_targets, find_undos
from .operation import finish_operation, open_operation
from .queries import report_finished
from .replace_live import ReplaceRequest, match_with_live, replace_live
from .types import Snapshot, Undo


def undo(
    number: int = 1,
    *,
    set_id: str | None = None,
    databases: Sequence[str] | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    last_look: Callable[[], None] | None = None,
) -> Undo:
    """Swap back a state that a restore or an undo replaced; doing it again leads back.

    The kept states are counted from the newest; one is also known by its set id, whatever was
    restored meanwhile. ``wait_s``, ``force``, ``reporter`` and ``last_look`` are as for `restore`.
    Returned is the state that became live.

    Raises:
        NothingToUndoError: No restore left one, or not so many are kept.
        ObstacleError: It also holds databases that are not asked for.
        PgsnapError: Other subclasses say what stood in the way. Nothing has changed then.
    """
    about = choose_targets(databases)
    request = ReplaceRequest(
        keep_undo=True, by_undo=True, wait_s=wait_s, force=force, last_look=last_look
    )
    pre_restore.send(sender=Snapshot, aliases=tuple(target.alias for target in about), name=None)
    with open_operation("undo", about, wait_s=request.wait_s, reporter=reporter) as contexts:
        chosen = _choose(contexts, number, set_id)
        replaced, drops = replace_live(match_with_live(contexts, chosen.members), request)
        left = finish_operation(contexts, drops=drops)
    handle_announced_restore(replaced, contexts[0].reporter)
    report_finished(left)
    return chosen


def _choose(contexts: Sequence[ServerContext], number: int, set_id: str | None) -> Undo:
    found = find_undos(contexts)
    if not found:
        databases = ", ".join(repr(name) for context in contexts for name in context.sources)
        raise NothingToUndoError(
            "There is nothing to undo: no restore of {databases} has left a replaced state.",
            hint="See ./manage.py pgsnap list for snapshots to restore.",
            databases=databases,
        )
    if set_id is not None:
        number = 1 + next((at for at, undo in enumerate(found) if undo.set_id == set_id), -1)
    if not 0 < number <= len(found):
        wanted = number if set_id is None else repr(set_id)
        raise NothingToUndoError(
            "There is no replaced state {wanted}; kept: {count}.",
            hint="See them with pgsnap undo --list.",
            wanted=wanted,
            count=len(found),
        )
    chosen = found[number - 1]
    if chosen.completeness == "partly outside":
        others = join_messages("; ", (part.description for part in chosen.elsewhere))
        raise ObstacleError(
            "That state is one with what is not asked for here: {others}. A part alone is not "
            "brought back.",
            hint="Undo it for all its databases, with settings that name them, or choose "
            "another state (pgsnap undo --list).",
            others=others,
        )
    return chosen
