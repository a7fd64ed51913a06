"""An operation on live databases: what each begins with, and what each ends with."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

import psycopg

from ..clones.catalog import AnyDatabase, load_catalog
from ..clones.records import Record
from ..clones.spares import describe_taken_name, plan_spare, send_off, wants_spare
from ..clones.transitions import Clone, CopyJob, close_database
from ..conf import config
from ..connections.reconnect import check_not_in_atomic, close_connections, repair_pools
from ..errors import ConfigurationError, DatabaseBusyError, PgsnapError
from ..messages import join_messages, message
from ..postgres.advisory_locks import (
    LockHolder,
    acquire_lock,
    lock_if_free,
    read_catalog_lock_holders,
)
from ..postgres.backends import BackendTerminator
from ..postgres.inspection import check_collation
from ..postgres.server import Server, server_errors
from ..postgres.session import Session, start_in_thread
from ..postgres.targets import (
    Target,
    aliases_sharing_database,
    group_by_server,
    live_database_names,
)
from ..reporting import Reporter
from ..safety import check_server_allowed
from .context import ServerContext
from .queries import sum_up
from .types import CopyMember


@contextmanager
def open_operation(
    purpose: str,
    about: Sequence[Target],
    *,
    wait_s: float | None = None,
    disturbs_live: bool = True,
    reporter: Reporter | None = None,
) -> Iterator[list[ServerContext]]:
    """Hold the locks of live databases, and what the work on them needs.

    All sessions are opened before anything is locked: clients that have to wait later on would fill
    the server's connection slots. Locks are taken in the order of names, so that two operations
    never wait for each other. If the operation disturbs the live databases, Django's own sessions
    on them are closed.

    Raises:
        InsideTransactionError: It disturbs, and this thread is inside ``transaction.atomic``.
        NotEnabledError: A server is at a public address.
        OperationRunningError: Another operation is at work on one of the databases.
        ServerUnavailableError: A server cannot be reached.
    """
    wait_s = config().wait_s if wait_s is None else wait_s
    with server_errors(), ExitStack() as stack:
        if disturbs_live:
            aliases = aliases_sharing_database([target.alias for target in about])
            check_not_in_atomic(aliases)
            close_connections(aliases)
            stack.callback(repair_pools, aliases)
        opened = [
            _open(stack, purpose, group, wait_s, reporter or Reporter(), may_create=disturbs_live)
            for group in group_by_server(about).values()
        ]
        wanted = [(context, target) for context in opened for target in context.targets]
        for context, target in sorted(wanted, key=lambda each: (each[1].name, str(each[0].server))):
            session = context.workers[target.name]
            acquire_lock(session, target.name, context.wait_s, context.reporter)
        with _lock_errors(opened):
            contexts = [context.reloaded() for context in opened]
            for context in contexts:
                _check_ours(context)
                _shut_open_copies(context)
            yield contexts


def _open(
    stack: ExitStack,
    purpose: str,
    group: Sequence[Target],
    wait_s: float,
    reporter: Reporter,
    *,
    may_create: bool,
) -> ServerContext:
    """Open the sessions on one server at the same time; that is much of what a restore takes."""
    server = group[0].server
    check = partial(check_server_allowed, targets=group)
    before = check if may_create else None
    open_session = partial(server.session, purpose, lock_timeout_s=wait_s, before_creating=before)
    others = [start_in_thread(open_session) for _ in group]
    for each in others:
        stack.callback(each.add_done_callback, _close)
    watcher = stack.enter_context(open_session())
    check(watcher)
    return ServerContext(
        server=server,
        targets=tuple(group),
        watcher=watcher,
        workers={target.name: each.result() for target, each in zip(group, others, strict=True)},
        reporter=reporter,
        wait_s=wait_s,
    )


def _close(opening: Future[Session]) -> None:
    if not opening.exception():
        opening.result().close()


@contextmanager
def _lock_errors(opened: Sequence[ServerContext]) -> Iterator[None]:
    """Name who holds what we waited for in vain."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        holders = [holder for each in opened for holder in _lock_holders(each)]
        raise DatabaseBusyError(
            "Another session is copying one of the databases, or has not committed an ALTER "
            "DATABASE, COMMENT or GRANT of it:{holders}",
            hint="Commit or end it (SELECT pg_terminate_backend(pid)), or wait longer with --wait.",
            holders=join_messages("\n  ", ["", *holders]) or message(" it has just ended."),
        ) from error


def _lock_holders(context: ServerContext) -> list[LockHolder]:
    """Return who else holds locks on the catalog entries of the databases that we work on."""
    now = context.reloaded()
    names = [*now.sources, *(each.database.name for each in (*now.copies(), *now.undos()))]
    ours = [worker.pid for worker in now.workers.values()]
    return read_catalog_lock_holders(now.watcher, names, ours)


def _check_ours(context: ServerContext) -> None:
    named, catalog = live_database_names(), context.catalog
    for database in (*catalog.copies(), *catalog.undos(), *catalog.spares.values()):
        if database.name in named:
            raise ConfigurationError(
                "DATABASES names {name!r}, which holds a snapshot, a spare or a replaced state.",
                hint="Take that alias out: snapshots are there to be renamed and dropped.",
                name=database.name,
            )


def _shut_open_copies(context: ServerContext) -> None:
    """Shut what a diff that was killed has left open, or somebody else has opened."""
    catalog, watcher = context.catalog, context.watcher
    for database in (*catalog.copies(context.sources), *catalog.undos(context.sources)):
        if not database.is_shut:
            try:
                _shut_if_open(watcher, database.name)
            except psycopg.Error:
                # It is left to its owner, or to whoever is altering or dropping it just now.
                if watcher.broken:
                    raise


def _shut_if_open(session: Session, name: str) -> None:
    with lock_if_free(session, name) as is_ours:
        # A diff may have shut it meanwhile. Shutting it again would cost the sums that are kept.
        now = load_catalog(session).databases.get(name) if is_ours else None
        if now is not None and not now.is_shut:
            session.execute(close_database(name))


def report_terminated(terminators: Iterable[BackendTerminator], reporter: Reporter) -> None:
    if count := sum(len(each.ended) for each in terminators):
        one = message("Ended 1 session on the live database.")
        several = message("Ended {count} sessions on the live database.", count=count)
        reporter.note(one if count == 1 else several)


# Each statement beyond the operation's own sessions takes a connection of the server. What is left
# over the next operation sends off.
_EXTRA_SESSIONS: Final = 4


def finish_operation(
    contexts: Sequence[ServerContext],
    *,
    current: Sequence[CopyMember] = (),
    drops: Sequence[tuple[Server, str]] = (),
) -> None:
    """Have spares made of the current copies, and have dropped what nobody needs.

    The server finishes both by itself. Spares of other snapshots are dropped, but for as many as
    ``SPARES`` says, and so are leftovers of interrupted operations. The operation's sessions are
    used up, and with them its locks are given back. The operation itself is done by now, so
    whatever goes wrong here is only reported. The reporter hears what there is then, unless one of
    the servers could not be looked at.
    """
    left = []
    for context in contexts:
        here = [member for member in current if member.server == context.server]
        try:
            now = context.reloaded()
            _send_off(now, here, [name for server, name in drops if server == context.server])
            left.append(now)
        except (PgsnapError, psycopg.Error) as error:
            context.reporter.warn(
                message(
                    "Done, but the server could not be told to make the spare or to drop what "
                    "is left over: {cause} The next operation makes up for it.",
                    cause=str(error).strip(),
                )
            )
    if len(left) == len(contexts):
        contexts[0].reporter.finished(sum_up(left))


def _send_off(now: ServerContext, current: Sequence[CopyMember], drops: Sequence[str]) -> None:
    wanted = [member for member in current if wants_spare(member.record)]
    superfluous = [
        *drops,
        *(_other_spares(now, wanted) if wanted else ()),
        *(left.name for left in now.leftovers()),
    ]
    sessions = [now.watcher, *now.workers.values()]
    work: list[Clone | str] = []
    for member in wanted:
        if member.record.identity in now.catalog.spares:
            continue
        clone = plan_spare(member.database)
        if taken := now.catalog.databases.get(clone.name):
            now.reporter.warn(describe_taken_name(member.record, taken))
        else:
            work.append(clone)
    most = len(sessions) + _EXTRA_SESSIONS - len(wanted)
    send_off(now.server, [*work, *list(dict.fromkeys(superfluous))[:most]], sessions)


def plan_copy_job(
    context: ServerContext,
    record: Record,
    clone: Clone,
    *,
    terminator: BackendTerminator | None = None,
    earlier: Record | None = None,
) -> CopyJob:
    """Return how the session that holds the lock of a record's live database makes a clone.

    Progress is estimated by how fast an earlier copy was made, or else the record's own.
    """
    check_collation(context.watcher, [clone.source])
    return CopyJob(
        clone=clone,
        size_bytes=record.size_bytes,
        session=context.workers[record.source],
        watcher=context.watcher,
        server=context.server,
        terminator=terminator,
        bytes_per_s=(earlier or record).bytes_per_s,
    )


def _other_spares(now: ServerContext, kept: Sequence[CopyMember]) -> list[str]:
    """Return the spares of these live databases' copies that are neither kept nor recent."""
    needed = {member.record.identity for member in kept}
    by_snapshot: dict[str, list[AnyDatabase]] = {}
    for member in now.copies():
        # Anyone may call a database like a spare of ours; what the catalog gives is one.
        spare = now.catalog.spares.get(member.record.identity)
        if member.record.identity not in needed and spare is not None:
            by_snapshot.setdefault(member.record.set_id, []).append(spare)
    # A restore uses a spare up, so the youngest is of the snapshot that was last of use.
    ranked = sorted(
        by_snapshot.values(), key=lambda spares: max(each.oid for each in spares), reverse=True
    )
    return [spare.name for spares in ranked[config().spares - 1 :] for spare in spares]
