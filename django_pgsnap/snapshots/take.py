"""Take: copy the live databases, as of one moment, into a named snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import django
import psycopg

from ..clones import names, transitions
from ..clones.catalog import load_catalog
from ..clones.copying import CopyResult, copy_databases, list_terminators
from ..clones.records import CopyRecord, Strategy, validate_note
from ..clones.spares import cancel_spare
from ..clones.strategy import CopyRates, check_strategy, choose_strategy
from ..clones.transitions import Clone, CopyJob, join_statements, publish_copy, unpublish
from ..errors import ServerUnavailableError, SnapshotExistsError
from ..git import Checkout, read_checkout
from ..messages import message
from ..postgres.advisory_locks import acquire_lock, wait_until_connectable
from ..postgres.backends import open_temporary_session
from ..postgres.inspection import (
    Contents,
    check_collation,
    check_nothing_attached,
    check_privileges,
    measure_databases,
    read_contents,
)
from ..postgres.properties import Properties, read_properties
from ..postgres.server import Server
from ..postgres.session import Query, Session, start_in_thread
from ..postgres.targets import Target, group_by_server
from ..reporting import Reporter
from ..signals import post_take, pre_take
from .context import ServerContext, choose_targets, group_copies
from .operation import finish_operation, open_operation, report_terminated
from .queries import report_finished
from .types import CopyMember, Snapshot, group_members


@dataclass(frozen=True, kw_only=True)
class TakeRequest:
    """What a take was asked for; see `take`."""

    name: str
    note: str
    pinned: bool
    strategy: Strategy | None
    force: bool


@dataclass(frozen=True, kw_only=True)
class TakePart:
    """One live database's part of a take; ``rates`` are how fast the server copied before."""

    context: ServerContext
    target: Target
    identity: str
    contents: Contents
    rates: CopyRates
    properties: Properties
    job: CopyJob

    def rates_after(self, how: CopyResult) -> CopyRates:
        """Return how fast the server copies, with what this copy has shown."""
        job = self.job
        return self.rates.tried(job.clone.strategy, how.strategy, job.size_bytes, how.seconds)


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
        note: A remark to show in lists.
        replace: Whether to take the place of a snapshot of the same name.
        pin: Whether pruning shall leave it.
        spare: Whether to keep a ready-made clone, if the settings want spares.
        strategy: How the server copies; None for the best it has.
        wait_s: How long to wait for busy sessions and other operations, in seconds; None for the
            setting ``WAIT_S``.
        force: Whether to end busy sessions too.
        reporter: Who hears about progress and warnings.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. Nothing has changed then.
    """
    about = choose_targets(databases)
    name = None if name is None else names.validate_name(name)
    validate_note(note)
    pre_take.send(sender=Snapshot, aliases=tuple(target.alias for target in about), name=name)
    with open_operation(f"take {name or ''}", about, wait_s=wait_s, reporter=reporter) as contexts:
        name, replaced = _settle_name(contexts, name, replace=replace)
        request = TakeRequest(name=name, note=note, pinned=pin, strategy=strategy, force=force)
        now, snapshot = _take(contexts, request, replaced)
        left = finish_operation(
            now,
            current=snapshot.members if spare else (),
            drops={
                server: [names.to_drop_name(member.record.identity) for member in members]
                for server, members in group_by_server(replaced).items()
            },
            is_fresh=True,
        )
    report_finished(left)
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


def _take(
    contexts: Sequence[ServerContext], request: TakeRequest, replaced: Sequence[CopyMember]
) -> tuple[list[ServerContext], Snapshot]:
    """Return the servers as they are now, and the snapshot that there is."""
    for context in contexts:
        _check(context)
    parts = [part for context in contexts for part in _plan_parts(context, request)]
    taken_at = contexts[0].read_clock()
    # In a large working copy git takes as long as the server.
    code = start_in_thread(read_checkout)
    jobs = [part.job for part in parts]
    reporter = contexts[0].reporter
    copied = copy_databases(jobs, reporter)
    try:
        for part in parts:
            name, final_name = part.job.clone.name, names.copy_name(part.identity)
            (present,) = read_properties(part.context.watcher, name)
            part.context.set_up(name, part.properties, present, final_name=final_name)
        records = build_records(parts, copied, request, code.result(), taken_at)
        _publish(list(zip(parts, records, strict=True)), replaced)
    except BaseException:
        for part in parts:
            # Where even that fails, the next operation takes it for the leftover that it is.
            with suppress(psycopg.Error):
                part.job.session.execute(transitions.drop_database(part.job.clone.name))
        raise
    report_terminated(list_terminators(jobs), reporter)
    now = [context.reloaded() for context in contexts]
    copies = [copy for context in now for copy in context.copies()]
    made = [copy for copy in copies if copy.record.set_id == records[0].set_id]
    (snapshot,) = group_members(Snapshot, made)
    return now, snapshot


def _check(context: ServerContext) -> None:
    context.check_whole(context.sources)
    for target in context.targets:
        context.live(target)
        check_collation(context.watcher, target.name)
    check_nothing_attached(context.watcher, context.sources)
    check_privileges(context.watcher, context.sources)


def _publish(made: Sequence[tuple[TakePart, CopyRecord]], replaced: Sequence[CopyMember]) -> None:
    """Make the clones a snapshot, and the members of the one that it replaces none any more.

    On one server that is one transaction. On several, the old ones go when all the new ones are
    there: if we are killed before, the new snapshot is incomplete, or both exist and the newer
    counts; if anything fails, what is incomplete is taken back.
    """
    contexts = {part.context.server: part.context for part, _ in made}
    for member in replaced:
        cancel_spare(contexts[member.server].watcher, member.record)
    publishing = [
        (part.context, publish_copy(part.job.clone.name, record)) for part, record in made
    ]
    unpublishing = [(contexts[each.server], unpublish(each.record)) for each in replaced]
    if len(contexts) == 1:
        _send(publishing + unpublishing)
        return
    try:
        _send(publishing)
    except BaseException:
        _take_back(made)
        raise
    _send(unpublishing)


def _take_back(made: Sequence[tuple[TakePart, CopyRecord]]) -> None:
    """Unpublish what is published of a snapshot, unless all of it is.

    A message may have done its work though its sender was interrupted, so the servers are asked,
    from sessions that nothing has happened to yet. What is unpublished waits to be dropped.
    """
    published: list[tuple[Server, CopyRecord]] = []
    for part, record in made:
        server = part.context.server
        with suppress(ServerUnavailableError), server.session("take back") as session:
            if record.database in load_catalog(session).databases:
                published.append((server, record))
    if len(published) == len(made):
        return
    lost = (psycopg.Error, ServerUnavailableError)
    for server, record in published:
        with suppress(*lost), server.session("take back") as session:
            session.execute(unpublish(record))
            session.execute(transitions.drop_database(names.to_drop_name(record.identity)))


def _send(statements: Sequence[tuple[ServerContext, Query]]) -> None:
    by_server: dict[Server, tuple[Session, list[Query]]] = {}
    for context, statement in statements:
        by_server.setdefault(context.server, (context.main, []))[1].append(statement)
    for session, group in by_server.values():
        session.execute(join_statements(group))


def _plan_parts(context: ServerContext, request: TakeRequest) -> Iterator[TakePart]:
    terminator = context.terminator(context.sources, force=request.force)
    newest = _newest_copy(context)
    rates = CopyRates()
    if newest:
        rates = CopyRates(clone=newest.clone_rate, file_copy=newest.file_copy_rate)
    sizes = measure_databases(context.watcher, context.sources)
    for target in context.targets:
        identity = names.new_identity()
        size = sizes.get(target.name)
        (present,) = read_properties(context.watcher, target.name)
        contents = _inspect(context, target)
        clone = Clone(
            source=target.name,
            name=names.unfinished_name(identity),
            owner=present.owner,
            strategy=request.strategy
            or choose_strategy(context.watcher, size, rates, relations=contents.relations),
        )
        check_strategy(context.watcher, clone.strategy)
        # Whoever sweeps leftovers sees by this lock that the clone is not one.
        acquire_lock(context.workers[target.alias], clone.name, context.wait_s)
        yield TakePart(
            context=context,
            target=target,
            identity=identity,
            contents=contents,
            rates=rates,
            properties=present,
            job=CopyJob(
                clone=clone,
                size_bytes=size or 0,
                session=context.workers[target.alias],
                watcher=context.watcher,
                server=context.server,
                terminator=terminator,
                bytes_per_s=newest.bytes_per_s if newest else 0.0,
            ),
        )


def _newest_copy(context: ServerContext) -> CopyRecord | None:
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


def build_records(
    parts: Sequence[TakePart],
    copied: Sequence[CopyResult],
    request: TakeRequest,
    code: Checkout,
    taken_at: datetime,
) -> list[CopyRecord]:
    """Return what each copy shall know of itself."""
    set_id = names.new_identity()
    return [
        CopyRecord(
            identity=part.identity,
            set_id=set_id,
            members=len(parts),
            parts=tuple(each.context.part(each.target) for each in parts),
            name=request.name,
            alias=part.target.alias,
            source=part.target.name,
            taken_at=taken_at,
            size_bytes=part.job.size_bytes,
            note=request.note,
            pinned=request.pinned,
            strategy=how.strategy,
            seconds=how.seconds,
            clone_rate=rates.clone,
            file_copy_rate=rates.file_copy,
            git_branch=code.branch,
            git_commit=code.commit,
            git_dirty=code.dirty,
            django=django.get_version(),
            postgresql=part.context.watcher.server_name,
            migrations=part.contents.migrations or (),
            knows_migrations=part.contents.migrations is not None,
            comment=part.properties.comment,
            connection_limit=part.properties.connection_limit,
        )
        for part, how in zip(parts, copied, strict=True)
        for rates in [part.rates_after(how)]
    ]
