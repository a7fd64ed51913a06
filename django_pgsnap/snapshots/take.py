"""Take: copy the live databases, as of one moment, into a named snapshot."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import django
import psycopg

from ..clones import names
from ..clones.catalog import load_catalog
from ..clones.copying import copy_databases, list_terminators
from ..clones.records import CopyRecord, Strategy, validate_note
from ..clones.spares import cancel_spare
from ..clones.strategy import check_strategy, choose_strategy, note_rates
from ..clones.transitions import Clone, CopyJob, drop_database, publish_copy, unpublish
from ..errors import ServerUnavailableError, SnapshotExistsError
from ..git import Checkout, read_checkout
from ..messages import message
from ..postgres.advisory_locks import acquire_lock, wait_until_connectable
from ..postgres.backends import open_temporary_session
from ..postgres.inspection import (
    Contents,
    check_nothing_attached,
    check_privileges,
    measure_databases,
    read_contents,
)
from ..postgres.properties import Properties, read_properties
from ..postgres.session import start_in_thread
from ..postgres.targets import Target
from ..reporting import Reporter
from ..signals import post_take, pre_take
from .context import ServerContext, choose_targets, execute_together, find_snapshots, group_copies
from .operation import finish_operation, open_operation, plan_copy_job, report_terminated
from .types import CopyMember, Snapshot


@dataclass(frozen=True, kw_only=True)
class TakePart:
    context: ServerContext
    record: CopyRecord  # what its copy knows of itself, but for how copying went
    properties: Properties
    job: CopyJob


def take(
    name: str | None = None,
    *,
    databases: Sequence[str] | None = None,
    note: str = "",
    replace: bool = False,
    pin: bool = False,
    spare: bool = True,
    strategy: Strategy | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Snapshot:
    """Take a snapshot of the live databases, and return it.

    1. Sessions that idle on the live databases are ended, those that work waited for.
    2. The databases are cloned, under names that say "unfinished". If it stops here, the next
       operation drops the clones.
    3. One transaction per server gives the clones their names and comments, and takes those of
       a replaced snapshot away. From here on the snapshot exists.
    4. The server is sent off to make spares, and to drop what was replaced.

    Args:
        name: The snapshot's name; None for ``snap1``, ``snap2``, ….
        databases: Aliases; None for all that the settings name.
        note: A text to show in lists.
        replace: Whether to take the place of a snapshot of the same name.
        pin: Whether pruning shall leave it.
        spare: Whether to make a spare, if the settings want spares.
        strategy: How the server copies; None for the best it has.
        wait_s: How long to wait for busy sessions and other operations, in seconds; None for the
            setting ``WAIT_S``.
        force: Whether to end busy sessions too.
        reporter: Who hears about progress and warnings.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. Nothing has changed then.
    """
    about = choose_targets(databases)
    if name is not None:
        names.validate_name(name)
    validate_note(note)
    pre_take.send(sender=Snapshot, aliases=tuple(target.alias for target in about), name=name)
    with open_operation(f"take {name or ''}", about, wait_s=wait_s, reporter=reporter) as contexts:
        name, replaced = _settle_name(contexts, name, replace=replace)
        parts = _plan_all(contexts, strategy, force=force, name=name, note=note, pinned=pin)
        snapshot = _take(contexts, parts, replaced)
        current = snapshot.members if spare else ()
        drops = [(each.server, names.to_drop_name(each.record.identity)) for each in replaced]
        finish_operation(contexts, current=current, drops=drops)
    post_take.send(sender=Snapshot, snapshot=snapshot)
    return snapshot


def _settle_name(
    contexts: Sequence[ServerContext], name: str | None, *, replace: bool
) -> tuple[str, list[CopyMember]]:
    """Return the name to use, and the members of the snapshot that has it now."""
    members = [member for context in contexts for member in context.project_copies()]
    if name is None:
        return names.first_free_name(member.record.name for member in members), []
    existing = [each for each in group_copies(contexts, members) if each.name == name]
    if existing and not replace:
        raise SnapshotExistsError(
            "There is a snapshot {name!r} already, taken {taken_at}.",
            hint="Choose another name, or take its place with --replace.",
            name=name,
            taken_at=existing[0].taken_at,
        )
    about = {(context.server, target.name) for context in contexts for target in context.targets}
    parts = [part for snapshot in existing for part in (*snapshot.members, *snapshot.outside)]
    kept = sorted(
        {part.alias for part in parts if (part.server, part.record.source) not in about}
        | {part.alias for snapshot in existing for part in snapshot.unreachable}
    )
    if kept:
        raise SnapshotExistsError(
            "The snapshot {name!r} also holds {others}, which would be lost.",
            hint="Take all its databases, or choose another name.",
            name=name,
            others=", ".join(kept),
        )
    return name, parts


def _plan_all(
    contexts: Sequence[ServerContext], strategy: Strategy | None, *, force: bool, **described: Any
) -> list[TakePart]:
    """Plan each part, if nothing stands in the way; all records say what is told."""
    targets = [(context, target) for context in contexts for target in context.targets]
    described |= {
        "set_id": names.new_identity(),
        "members": len(targets),
        "parts": tuple(context.part(target) for context, target in targets),
        "taken_at": contexts[0].read_clock(),
        "django": django.get_version(),
    }
    return [
        part
        for context in contexts
        for part in _plan_parts(context, strategy, described, force=force)
    ]


def _plan_parts(
    context: ServerContext,
    strategy: Strategy | None,
    described: Mapping[str, Any],
    *,
    force: bool,
) -> Iterator[TakePart]:
    watcher, terminator = context.watcher, context.terminator(context.sources, force=force)
    context.check_whole(context.sources)
    check_nothing_attached(watcher, context.sources)
    check_privileges(watcher, context.sources)
    newest = _find_newest_copy(context)
    sizes = measure_databases(watcher, context.sources)
    for target in context.targets:
        size, session = sizes.get(target.name), context.workers[target.name]
        (properties,) = read_properties(watcher, target.name)
        contents = _inspect(context, target)
        record = CopyRecord(
            identity=names.new_identity(),
            alias=target.alias,
            source=target.name,
            size_bytes=size or 0,
            postgresql=watcher.server_release,
            migrations=contents.migrations or (),
            knows_migrations=contents.migrations is not None,
            comment=properties.comment,
            connection_limit=properties.connection_limit,
            clone_rate=newest.clone_rate if newest else 0.0,
            file_copy_rate=newest.file_copy_rate if newest else 0.0,
            **described,
        )
        clone = Clone(
            source=target.name,
            name=names.unfinished_name(record.identity),
            owner=properties.owner,
            strategy=strategy
            or choose_strategy(watcher, size, newest, relations=contents.relations),
        )
        check_strategy(watcher, clone.strategy)
        # Whoever sweeps leftovers sees by this lock that the clone is not one.
        acquire_lock(session, clone.name, context.wait_s)
        job = plan_copy_job(context, record, clone, terminator=terminator, earlier=newest)
        yield TakePart(context=context, record=record, properties=properties, job=job)


def _find_newest_copy(context: ServerContext) -> CopyRecord | None:
    """Return the newest copy on the server, which knows how fast that copies."""
    records = [
        copy.record
        for copy in context.catalog.copies()
        # Other projects' copies say what their owners like.
        if copy.trusted or copy.record.source in context.sources
    ]
    return max(records, key=lambda record: record.taken_at, default=None)


def _inspect(context: ServerContext, target: Target) -> Contents:
    wait_until_connectable(context.watcher, target.name, context.wait_s)
    try:
        with open_temporary_session(
            context.server, context.watcher, target.name, "looking inside"
        ) as inside:
            contents = read_contents(inside)
    except ServerUnavailableError as error:
        why = message("Taken without its list of migrations: {cause}", cause=error.message)
        context.reporter.warn(why)
        return Contents(migrations=None, unlogged=())
    if contents.unlogged:
        context.reporter.warn(
            message(
                "Unlogged tables of {name!r} come back empty if the server crashes after the "
                "take: {tables}.",
                name=target.name,
                tables=", ".join(contents.unlogged),
            )
        )
    return contents


def _take(
    contexts: Sequence[ServerContext], parts: Sequence[TakePart], replaced: Sequence[CopyMember]
) -> Snapshot:
    # In a large working copy git takes as long as the server.
    code = start_in_thread(read_checkout)
    jobs = [part.job for part in parts]
    reporter = contexts[0].reporter
    done, seconds = copy_databases(jobs, reporter)
    try:
        for part in parts:
            name, final_name = part.job.clone.name, part.record.database
            (present,) = read_properties(part.context.watcher, name)
            part.context.set_up(name, part.properties, present, final_name=final_name)
        made = [
            _completed(part, job.clone.strategy, seconds, code.result())
            for part, job in zip(parts, done, strict=True)
        ]
        _publish(made, replaced)
    except BaseException:
        for part in parts:
            # Where even that fails, the next operation takes it for the leftover that it is.
            with suppress(psycopg.Error):
                part.job.session.execute(drop_database(part.job.clone.name))
        raise
    report_terminated(list_terminators(jobs), reporter)
    found = find_snapshots([context.reloaded() for context in contexts])
    return next(each for each in found if each.set_id == parts[0].record.set_id)


def _completed(part: TakePart, used: Strategy, seconds: float, code: Checkout) -> TakePart:
    record = dataclasses.replace(
        part.record,
        strategy=used,
        seconds=seconds,
        git_branch=code.branch,
        git_commit=code.commit,
        git_dirty=code.dirty,
    )
    return dataclasses.replace(part, record=note_rates(record, part.job.clone.strategy))


def _publish(made: Sequence[TakePart], replaced: Sequence[CopyMember]) -> None:
    """Make the clones a snapshot, and the members of the one that it replaces none any more.

    On one server that is one transaction. On several, the old ones go when all the new ones are
    there: if we are killed before, the new snapshot is incomplete, or both exist and the newer
    counts; if anything fails, what is incomplete is taken back.
    """
    contexts = {part.context.server: part.context for part in made}
    for member in replaced:
        cancel_spare(contexts[member.server].watcher, member.record)
    publishing = [(each.context, publish_copy(each.job.clone.name, each.record)) for each in made]
    unpublishing = [(contexts[each.server], unpublish(each.record)) for each in replaced]
    if len(contexts) == 1:
        execute_together(publishing + unpublishing)
        return
    try:
        execute_together(publishing)
    except BaseException:
        _take_back(made)
        raise
    execute_together(unpublishing)


def _take_back(made: Sequence[TakePart]) -> None:
    """Unpublish what is published of a snapshot, unless all of it is.

    A message may have done its work though its sender was interrupted, so the servers are asked,
    from sessions that nothing has happened to yet. What is unpublished waits to be dropped.
    """
    published = []
    for part in made:
        server = part.context.server
        with suppress(ServerUnavailableError), server.session("take back") as session:
            if part.record.database in load_catalog(session).databases:
                published.append((server, part.record))
    if len(published) == len(made):
        return
    for server, record in published:
        unreachable = suppress(psycopg.Error, ServerUnavailableError)
        with unreachable, server.session("take back") as session:
            session.execute(unpublish(record))
            session.execute(drop_database(names.to_drop_name(record.identity)))
