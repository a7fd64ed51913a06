"""Housekeeping: rename, pin, annotate, refill, delete and prune snapshots."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ..clones.copying import copy_databases
from ..clones.for_tests import drop_template
from ..clones.names import spare_name, validate_name
from ..clones.records import CopyRecord, UndoRecord, validate_note
from ..clones.spares import (
    cancel_spare,
    describe_taken_name,
    drop_leftovers,
    plan_spare,
    wait_for_spare,
)
from ..clones.transitions import CopyJob, rewrite_comment, unpublish
from ..errors import ConfigurationError, ObstacleError, SnapshotExistsError, SnapshotPinnedError
from ..messages import join_messages, message
from ..postgres.advisory_locks import acquire_lock
from ..postgres.inspection import check_privileges
from ..reporting import Reporter
from .context import (
    ServerContext,
    choose_targets,
    execute_together,
    find_snapshots,
    find_undos,
    read_contexts,
)
from .operation import finish_operation, open_operation, plan_copy_job
from .queries import find_snapshot_in
from .types import CopyMember, Snapshot, Undo


def rename(old: str, new: str, *, reporter: Reporter | None = None) -> Snapshot:
    """Give a snapshot another name."""
    validate_name(new)
    with _operation(f"rename {old}", reporter) as contexts:
        snapshot = find_snapshot_in(contexts, old)
        others = [member.record for context in contexts for member in context.copies()]
        if any(record.name == new and record.set_id != snapshot.set_id for record in others):
            raise SnapshotExistsError(
                "There is a snapshot {new!r} already.",
                hint="Choose another name, or delete that one first.",
                new=new,
            )
        # An undo says which snapshot took its place.
        undos = [
            (context, renamed)
            for context in contexts
            for each in context.undos()
            if (renamed := _renamed(each.record, old, new)) != each.record
        ]
        return _rewrite(contexts, snapshot, undos, name=new)


def _renamed(record: UndoRecord, old: str, new: str) -> UndoRecord:
    facts = ("name", "based_on", "successor_based_on")
    changed: dict[str, Any] = {each: new for each in facts if getattr(record, each) == old}
    return replace(record, **changed)


def pin(name: str, *, pinned: bool = True, reporter: Reporter | None = None) -> Snapshot:
    """Keep a snapshot from being pruned, or allow it again."""
    with _operation(f"pin {name}", reporter) as contexts:
        return _rewrite(contexts, find_snapshot_in(contexts, name), pinned=pinned)


def annotate(name: str, note: str, *, reporter: Reporter | None = None) -> Snapshot:
    """Change a snapshot's note."""
    validate_note(note)
    with _operation(f"note {name}", reporter) as contexts:
        return _rewrite(contexts, find_snapshot_in(contexts, name), note=note)


def delete(
    *unwanted: str | Snapshot, force: bool = False, reporter: Reporter | None = None
) -> list[Snapshot]:
    """Delete snapshots, their spares and the templates made of them, and give their space back.

    1. All are looked up, those that are no names by what they are, whatever has their names by
       now. If one is not there or, without ``force``, pinned, nothing happens.
    2. One transaction per server makes the snapshots none any more. If it stops after this, the
       next operation drops what is left of them.
    3. Their databases are dropped, and what interrupted operations left.
    """
    names = " ".join(each if isinstance(each, str) else each.name for each in unwanted)
    with _operation(f"delete {names}", reporter) as contexts:
        found = [find_snapshot_in(contexts, each) for each in unwanted]
        to_drop = list({each.set_id: each for each in found}.values())
        pinned = [repr(snapshot.name) for snapshot in to_drop if snapshot.pinned]
        if pinned and not force:
            raise SnapshotPinnedError(
                "Pinned: {names}.",
                hint="Unpin it first, or delete it all the same with --force.",
                names=", ".join(pinned),
            )
        delete_in(contexts, to_drop)
    return to_drop


def delete_in(contexts: Sequence[ServerContext], to_drop: Sequence[Snapshot]) -> None:
    """Delete snapshots in the course of an operation."""
    if not to_drop:
        return
    parts = [part for snapshot in to_drop for part in lock_all_parts(contexts, snapshot)]
    names = ", ".join(snapshot.name for snapshot in to_drop)
    contexts[0].reporter.step(message("Dropping {name}", name=names))
    for context, record in parts:
        cancel_spare(context.watcher, record)
    execute_together((context, unpublish(record)) for context, record in parts)
    for context in contexts:
        records = [record for where, record in parts if where is context]
        if records:
            _drop_deleted(context, records)


def _drop_deleted(context: ServerContext, records: Sequence[CopyRecord]) -> None:
    identities = {record.identity for record in records}
    owners = {context.catalog.databases[record.database].owner for record in records}
    for template in context.catalog.templates():
        record = template.record
        if record.snapshot in identities and not drop_template(context.main, record):
            context.reporter.warn(
                message(
                    "The template {database!r}, made of {name!r}, is in use by a test run. The "
                    "next operation after that run drops it.",
                    database=record.database,
                    name=record.name,
                )
            )
    drop_leftovers(context.main, context.reloaded().leftovers(owners), context.reporter)


def _rewrite(
    contexts: Sequence[ServerContext],
    snapshot: Snapshot,
    undos: Sequence[tuple[ServerContext, UndoRecord]] = (),
    **facts: Any,
) -> Snapshot:
    """Write facts to all parts of a snapshot, and undos, those of a server in one transaction."""
    parts = lock_all_parts(contexts, snapshot)
    for context, record in parts:
        wait_for_spare(context.main, record, context.reporter)
    changed = [(context, replace(record, **facts)) for context, record in parts]
    execute_together((context, rewrite_comment(each)) for context, each in (*changed, *undos))
    written = {record.identity: record for _, record in changed}

    def rewritten(members: Sequence[CopyMember]) -> tuple[CopyMember, ...]:
        return tuple(
            replace(each, database=replace(each.database, record=written[each.record.identity]))
            for each in members
        )

    members, outside = rewritten(snapshot.members), rewritten(snapshot.outside)
    return replace(snapshot, members=members, outside=outside, **facts)


def lock_all_parts(
    contexts: Sequence[ServerContext], snapshot: Snapshot
) -> list[tuple[ServerContext, CopyRecord]]:
    """Return all parts of a snapshot, those of databases outside of the settings locked too.

    Refused is a part that is out of reach, another role's, or that another operation works on.
    """
    if snapshot.unreachable:
        raise ObstacleError(
            "A part of the snapshot {name!r} is out of reach of these settings: {parts}. "
            "Nothing has changed.",
            hint="Do this with settings whose DATABASES name that database too.",
            name=snapshot.name,
            parts=join_messages("; ", snapshot.unreachable),
        )
    check_parts_outside(contexts, snapshot)
    by_server = {context.server: context for context in contexts}
    for member in snapshot.outside:
        context, source = by_server[member.server], member.record.source
        # The copy of one that we have the lock of may belong to a former owner, and be outside too.
        if source not in context.sources:
            acquire_lock(context.main, source, context.wait_s, context.reporter)
    members = (*snapshot.members, *snapshot.outside)
    return [(by_server[member.server], member.record) for member in members]


def check_parts_outside(contexts: Sequence[ServerContext], whole: Snapshot | Undo) -> None:
    """Refuse to change a whole that has a part which is another role's to change."""
    for context in contexts:
        names = [each.database.name for each in whole.outside if each.server == context.server]
        if names:
            check_privileges(context.main, names)


def _operation(
    purpose: str, reporter: Reporter | None
) -> AbstractContextManager[list[ServerContext]]:
    """Hold the locks of all the project's databases, without disturbing who uses them."""
    return open_operation(purpose, choose_targets(None), disturbs_live=False, reporter=reporter)


def refill(
    name: str | None = None,
    *,
    databases: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Snapshot:
    """Make the spare of a snapshot, so that its next restore only has to rename; drop other spares.

    Without a name it is the snapshot last taken or restored.

    Raises:
        CopyFailedError: The server could not make the spare.
        ObstacleError: Another database has the spare's name.
    """
    about = choose_targets(databases)
    with open_operation("refill", about, disturbs_live=False, reporter=reporter) as contexts:
        wanted = current_snapshot(contexts) if name is None else name
        snapshot = find_snapshot_in(contexts, wanted)
        jobs = [job for context in contexts for job in _plan_spares(context, snapshot)]
        if jobs:
            step = message("Making the spare of {name}", name=snapshot.name)
            copy_databases(jobs, contexts[0].reporter, step=step)
        members = tuple(replace(member, spare="ready") for member in snapshot.members)
        finish_operation(contexts, current=members)
    return replace(snapshot, members=members)


def current_snapshot(contexts: Sequence[ServerContext]) -> str | None:
    """Return the name of the snapshot last restored, unless another was taken since."""
    copies = [copy.record for context in contexts for copy in context.copies()]
    last = next(iter(find_undos(contexts)), None)
    if last is None or any(copy.taken_at > last.taken_at for copy in copies):
        return None
    return last.name if any(copy.name == last.name for copy in copies) else None


def _plan_spares(context: ServerContext, snapshot: Snapshot) -> Iterator[CopyJob]:
    for member in (each for each in snapshot.members if each.server == context.server):
        copy = member.record
        if context.obtain_spare(copy):
            continue
        if taken := context.reloaded().catalog.databases.get(spare_name(copy.identity)):
            raise ObstacleError(
                describe_taken_name(copy, taken),
                hint="Let that role drop or rename it. A restore works meanwhile, and copies "
                "afresh.",
            )
        yield plan_copy_job(context, copy, plan_spare(member.database))


def prune(
    *,
    keep: int | None = None,
    older_than: timedelta | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> list[Snapshot]:
    """Delete snapshots that are not pinned, nor partly out of reach, the oldest first; return them.

    Those above the age ``older_than`` go, or as many that the others occupy no more than
    ``max_bytes``, spares not counted; ``keep`` protects the newest from that, pinned ones not
    counted. With ``keep`` alone, all but the newest go. A dry run only tells which would.

    Raises:
        ConfigurationError: No limit is given, or one below zero.
    """
    if keep is None and older_than is None and max_bytes is None:
        raise ConfigurationError(
            "Pruning needs a limit.", hint="Give --keep, --older-than or --max-size."
        )
    age_s = older_than.total_seconds() if older_than is not None else None
    for name, limit in (("keep", keep), ("older_than", age_s), ("max_bytes", max_bytes)):
        if limit is not None and limit < 0:
            raise ConfigurationError(
                "Pruning cannot go by {name} = {limit}.",
                hint="Give 0 or more.",
                name=name,
                limit=limit,
            )
    limits = keep, older_than, max_bytes
    if dry_run:
        seen = [(each, each.read_clock()) for each in read_contexts("prune", choose_targets(None))]
        return _choose_to_prune([context for context, _ in seen], seen[0][1], *limits)
    with _operation("prune", reporter) as contexts:
        unwanted = _choose_to_prune(contexts, contexts[0].read_clock(), *limits)
        delete_in(contexts, unwanted)
    return unwanted


def _choose_to_prune(
    contexts: Sequence[ServerContext],
    now: datetime,
    keep: int | None,
    older_than: timedelta | None,
    max_bytes: int | None,
) -> list[Snapshot]:
    """Return which snapshots, newest first, shall go; arguments as for `prune`."""
    found = [each for each in find_snapshots(contexts) if not each.unreachable]
    loose = [snapshot for snapshot in found if not snapshot.pinned][keep or 0 :]
    if older_than is None and max_bytes is None:
        return loose
    unwanted = []
    occupied = sum(snapshot.size_bytes for snapshot in found)
    for snapshot in reversed(loose):
        is_old = older_than is not None and now - snapshot.taken_at > older_than
        if is_old or (max_bytes is not None and occupied > max_bytes):
            unwanted.append(snapshot)
            occupied -= snapshot.size_bytes
    return unwanted
