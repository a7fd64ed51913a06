"""Restore, undo and checkpoint: other states take the place of the live databases.

Which replaced states are kept for undo, `undo_history` says.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from ..clones.catalog import load_catalog
from ..clones.copying import copy_databases
from ..clones.names import new_identity, spare_name, unfinished_name
from ..clones.records import Record
from ..clones.spares import plan_spare, wants_spare
from ..clones.transitions import CopyJob
from ..conf import config
from ..connections.reconnect import handle_announced_restore
from ..errors import NothingToUndoError, ObstacleError, PgsnapError
from ..messages import Message, join_messages, message
from ..postgres.advisory_locks import describe_lock_holder, release_lock, try_acquire_lock
from ..postgres.server import Server, server_errors
from ..postgres.session import Session
from ..postgres.targets import Target, group_by_server
from ..reporting import Reporter
from ..safety import check_server_allowed
from ..signals import pre_restore
from .context import ServerContext, choose_targets, find_undos
from .manage import delete
from .operation import finish_operation, open_operation, plan_copy_job
from .queries import check_counted, find_snapshot_in
from .replace_live import IncomingDatabase, ReplaceRequest, match_with_live, replace_live
from .take import take
from .types import AnyMember, Snapshot, Undo


def restore(
    name: str | Snapshot | None = None,
    *,
    databases: Sequence[str] | None = None,
    undo: bool | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    last_look: Callable[[], None] | None = None,
) -> Snapshot:
    """Bring the live databases back to a snapshot, and return that.

    1. A spare is found, or a clone of the copy made. If it stops here, the next operation drops
       an unfinished clone.
    2. What comes in is set up like the live databases. Sessions on these are ended, and one
       transaction per server swaps. What was live becomes the undo.
    3. The server is sent off to make the next spare, and to drop the older undo.
    4. Django forgets what it knew of the old databases.

    Args:
        name: The snapshot's name; None for the newest; or a snapshot as it was found, for that one
            whatever has its name by now.
        databases: Aliases; None for all that the snapshot holds.
        undo: Whether to keep what is replaced; None for the setting ``UNDO``.
        wait_s: How long to wait for busy sessions and other operations, in seconds; None for the
            setting ``WAIT_S``.
        force: Whether to end busy sessions too.
        reporter: Who hears about progress and warnings.
        last_look: Called when nobody is left on the live databases, right before the swap, and
            again if somebody came in between. It may read them through Django.

    Raises:
        SnapshotNotFoundError: There is none of that name.
        PgsnapError: Other subclasses say what stood in the way. Nothing has changed then.
    """
    request = ReplaceRequest(keep_undo=undo, wait_s=wait_s, force=force, last_look=last_look)
    return restore_as(name, databases, request, reporter)


def restore_as(
    wanted: str | Snapshot | None,
    databases: Sequence[str] | None,
    request: ReplaceRequest,
    reporter: Reporter | None = None,
    *,
    consume: bool = False,
) -> Snapshot:
    """Do what `restore` says; where the copy is consumed, it is swapped in itself."""
    about = choose_targets(databases)
    name = wanted.name if isinstance(wanted, Snapshot) else wanted
    pre_restore.send(sender=Snapshot, aliases=tuple(target.alias for target in about), name=name)
    with open_operation(
        f"restore {name or ''}", about, wait_s=request.wait_s, reporter=reporter
    ) as contexts:
        snapshot = find_snapshot_in(contexts, wanted)
        check_counted(contexts, snapshot.outside)
        check_complete(snapshot, databases)
        copies = match_with_live(contexts, snapshot.members)
        incoming = copies if consume else _obtain_clones(copies)
        replaced, drops = replace_live(incoming, request, snapshot)
        for each in copies:
            record = each.member.record
            release_lock(each.context.workers[record.source], spare_name(record.identity))
        current = () if consume else snapshot.members
        finish_operation(contexts, current=current, drops=drops)
    handle_announced_restore(replaced, contexts[0].reporter)
    return snapshot


def check_complete(
    snapshot: Snapshot, databases: Sequence[str] | None, verb: str = "restore"
) -> None:
    """Refuse to work with a part of a snapshot that nobody has asked for as such."""
    if databases is not None or snapshot.is_complete:
        return
    here = ", ".join(snapshot.aliases)
    options = " ".join(f"--database {alias}" for alias in snapshot.aliases)
    command = f"./manage.py pgsnap {verb} {snapshot.name} {options}"
    if snapshot.completeness == "partly outside":
        raise ObstacleError(
            "The snapshot {name!r} also holds what these settings do not name: {parts}.",
            hint="Use settings that name all its databases, or choose only that of {here} "
            "({command}).",
            name=snapshot.name,
            parts=join_messages("; ", snapshot.elsewhere),
            here=here,
            command=command,
        )
    raise ObstacleError(
        "Of the snapshot {name!r} only the part of {here} is there.",
        hint="Choose that part ({command}), or delete the snapshot.",
        name=snapshot.name,
        here=here,
        command=command,
    )


def _obtain_clones(copies: Sequence[IncomingDatabase]) -> list[IncomingDatabase]:
    """Return a spare in the place of each copy, or else a clone made now."""
    reporter = copies[0].context.reporter
    spares = [each.context.obtain_spare(each.member.record) for each in copies]
    lacking = [each for each, spare in zip(copies, spares, strict=True) if spare is None]
    jobs = [plan_clone(each.context, each.member, owner=each.database.owner) for each in lacking]
    if jobs:
        copy_databases(jobs, reporter)
        record = lacking[0].member.record
        reporter.note(
            message("Copied {name!r}, {reason}.", name=record.name, reason=_why_no_spare(record))
        )
    by_server = group_by_server(jobs).items()
    found = {server: load_catalog(group[0].watcher).databases for server, group in by_server}
    made = {
        each.database.name: found[job.server][job.clone.name]
        for each, job in zip(lacking, jobs, strict=True)
    }
    return [
        replace(each, database=spare or made[each.database.name])
        for each, spare in zip(copies, spares, strict=True)
    ]


def _why_no_spare(record: Record) -> Message:
    spares = config().spares
    if not spares:
        return message("since PGSNAP['SPARES'] is 0")
    if not wants_spare(record):
        return message("since PGSNAP['SPARE_MAX_BYTES'] allows no spare of a database as large")
    return message(
        "since it had no spare; the {count} snapshots last taken or restored have one", count=spares
    )


def plan_clone(context: ServerContext, member: AnyMember, *, owner: str) -> CopyJob:
    """Return how a copy is cloned under an unfinished name, and take the lock of that name."""
    name = unfinished_name(new_identity())
    clone = replace(plan_spare(member.database), name=name, owner=owner)
    try_acquire_lock(context.workers[member.record.source], clone.name)
    return plan_copy_job(context, member.record, clone)


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

    The replaced states are counted from the newest; one is also known by its set id, whatever was
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
        chosen = _choose_undo(contexts, number, set_id)
        replaced, drops = replace_live(match_with_live(contexts, chosen.members), request)
        finish_operation(contexts, drops=drops)
    handle_announced_restore(replaced, contexts[0].reporter)
    return chosen


def _choose_undo(contexts: Sequence[ServerContext], number: int, set_id: str | None) -> Undo:
    found = find_undos(contexts)
    if not found:
        check_counted(contexts, None)
        databases = ", ".join(repr(name) for context in contexts for name in context.sources)
        raise NothingToUndoError(
            "There is nothing to undo: no restore of {databases} has left a replaced state.",
            hint="See ./manage.py pgsnap list for snapshots to restore.",
            databases=databases,
        )
    if set_id is not None:
        matching = [undo for undo in found if undo.set_id == set_id]
    else:
        matching = [undo for place, undo in enumerate(found, start=1) if place == number]
    if not matching:
        wanted = number if set_id is None else repr(set_id)
        raise NothingToUndoError(
            "There is no replaced state {wanted}; kept: {count}.",
            hint="See ./manage.py pgsnap undo --list.",
            wanted=wanted,
            count=len(found),
        )
    chosen = matching[0]
    check_counted(contexts, chosen.outside)
    if chosen.completeness == "partly outside":
        others = join_messages("; ", chosen.elsewhere)
        raise ObstacleError(
            "That state is one with what is not asked for here: {others}. A part alone is not "
            "brought back.",
            hint="Undo it for all its databases, with settings that name them, or choose "
            "another state (./manage.py pgsnap undo --list).",
            others=others,
        )
    return chosen


# The databases whose checkpoints this thread is inside of.
_inside: Final = threading.local()


@contextmanager
def checkpoint(*, databases: Sequence[str] | None = None) -> Iterator[Snapshot]:
    """Take a snapshot on entry, and restore it on exit, whatever happens in between.

    The copy itself is swapped in, so nothing is copied twice and no snapshot stays behind. What
    the block did can be had back by `undo`.

    Raises:
        ObstacleError: Another thread or process is inside a checkpoint of one of the databases:
            two blocks that overlap cannot both be taken back.
        PgsnapError: Other subclasses say what stood in the way. If that is on exit, the snapshot
            stays.
    """
    with _only_block(choose_targets(databases)):
        snapshot = _take_checkpoint(databases)
        try:
            yield snapshot
        finally:
            # A process that ends inside the block has no threads any more to restore with.
            if not sys.is_finalizing():
                request = ReplaceRequest()
                restore_as(snapshot, snapshot.aliases, request, consume=True)


@contextmanager
def _only_block(about: Sequence[Target]) -> Iterator[None]:
    """Refuse a block that overlaps with one of another thread or process."""
    outer: frozenset[tuple[Server, str]] = getattr(_inside, "places", frozenset())
    new = [target for target in about if (target.server, target.name) not in outer]
    with ExitStack() as stack:
        for server, group in group_by_server(new).items():
            check = partial(check_server_allowed, targets=group)
            with server_errors():
                session = stack.enter_context(server.session("checkpoint", before_creating=check))
                for target in group:
                    _lock_block(session, target.name)
        _inside.places = outer | {(target.server, target.name) for target in new}
        try:
            yield
        finally:
            _inside.places = outer


def _lock_block(session: Session, database: str) -> None:
    lock = f"checkpoint of {database}"
    if not try_acquire_lock(session, lock):
        raise ObstacleError(
            "Another thread or process is inside a checkpoint of {database!r}: {holder}. Two that "
            "overlap cannot both be taken back.",
            hint="Let it end before this begins, or take a snapshot instead.",
            database=database,
            holder=describe_lock_holder(session, lock),
        )


def _take_checkpoint(databases: Sequence[str] | None) -> Snapshot:
    name = f"checkpoint-{new_identity()}"
    try:
        return take(name, databases=databases, pin=True, spare=False)
    except BaseException:
        # The snapshot is there already where a receiver of post_take fails.
        with suppress(PgsnapError):
            delete(name, force=True)
        raise
