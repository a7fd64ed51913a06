"""Refilling: make the spare in the foreground, and see what goes wrong if it does."""

from __future__ import annotations

from collections.abc import Sequence

from ..clones.copying import copy_databases
from ..clones.spares import obtain_spare, plan_spare
from ..clones.strategy import CopyJob
from ..conf import config
from ..postgres.preconditions import check_collation
from ..postgres.session import Session
from ..reporting import Reporter
from . import queries
from .context import ServerContext, choose_targets, open_operation
from .follow_up import start_follow_up
from .queries import find_snapshot_in
from .types import CopyMember, Snapshot, UndoMember, undos_of


def refill(
    name: str | None = None,
    *,
    databases: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Snapshot:
    """Make the spare of a snapshot, unless it is there; other spares are dropped.

    Args:
        name: The snapshot's name; None for the one last taken or restored.
        databases: Aliases; None for all that the settings name.
        reporter: Who hears about progress.

    Returns:
        The snapshot, whose next restore only has to rename.

    Raises:
        SnapshotNotFoundError: There is none of that name.
        CopyFailedError: The server could not make the spare.
    """
    reporter = reporter or Reporter()
    about = choose_targets(databases)
    with open_operation("refill", about, wait_s=config().wait_s, disturbs_live=False) as contexts:
        copies = [copy for context in contexts for copy in context.copies()]
        undos = [undo for context in contexts for undo in context.undos()]
        wanted = current_snapshot(copies, undos) if name is None else name
        snapshot = find_snapshot_in(contexts, wanted)
        jobs = [job for context in contexts for job in _jobs(context, snapshot, reporter)]
        if jobs:
            copy_databases(jobs, reporter, step=f"Making the spare of {snapshot.name}")
        for context in contexts:
            here = [member for member in snapshot.members if member.server == context.server]
            start_follow_up(context, current=here, drops=(), spare=True, reporter=reporter)
    return queries.get(snapshot.name, databases=databases)


def current_snapshot(copies: Sequence[CopyMember], undos: Sequence[UndoMember]) -> str | None:
    """Return the name of the snapshot last restored, unless another was taken since."""
    last = undos_of(undos)
    if not last or any(copy.record.taken_at > last[0].taken_at for copy in copies):
        return None
    restored = last[0].name
    return restored if any(copy.record.name == restored for copy in copies) else None


def _jobs(context: ServerContext, snapshot: Snapshot, reporter: Reporter) -> list[CopyJob]:
    return [
        _job(context, member)
        for member in snapshot.members
        if member.server == context.server
        and obtain_spare(_worker(context, member), context.watcher, member.record, reporter) is None
    ]


def _job(context: ServerContext, member: CopyMember) -> CopyJob:
    check_collation(context.watcher, member.database.name)
    return CopyJob(
        clone=plan_spare(member.database, member.record),
        size_bytes=member.record.size_bytes,
        session=_worker(context, member),
        watcher=context.watcher,
        server=context.server,
        terminator=None,
    )


def _worker(context: ServerContext, member: CopyMember) -> Session:
    (alias,) = (each.alias for each in context.targets if each.name == member.record.source)
    return context.workers[alias]
