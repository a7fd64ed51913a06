"""One server's part of an operation: its sessions, and what of ours is on it.

What every operation begins and ends with: sessions, locks, and a look at the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from ..clones.catalog import AnyDatabase, Catalog, Database, RecordT, load_catalog
from ..clones.names import spare_name
from ..clones.records import Record
from ..connections.reconnect import (
    aliases_sharing_database,
    check_not_in_atomic,
    close_connections,
    repair_pools,
)
from ..errors import ConfigurationError, DatabaseBusyError, DatabaseMissingError, ObstacleError
from ..postgres.advisory_locks import (
    HeldTooLongError,
    LockHolder,
    acquire_lock,
    lock_key,
    read_catalog_lock_holders,
)
from ..postgres.backends import BackendTerminator
from ..postgres.parallel import start_in_thread
from ..postgres.server import Server, server_errors
from ..postgres.session import Session
from ..postgres.targets import Target, group_by_server, list_targets, live_database_names
from ..reporting import Reporter
from ..safety import check_enabled, check_server_address, prefer_test_databases
from .types import CopyMember, Member, SpareState, UndoMember


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """One server's part of an operation.

    Attributes:
        server: The server.
        targets: The live databases on it that the operation is about.
        watcher: A session that looks on and ends others.
        workers: A session per alias; it holds the lock of its live database.
        catalog: The server's databases once the locks were held.
    """

    server: Server
    targets: tuple[Target, ...]
    watcher: Session
    workers: dict[str, Session]
    catalog: Catalog

    @property
    def sources(self) -> list[str]:
        """Names of the live databases."""
        return [target.name for target in self.targets]

    @property
    def main(self) -> Session:
        """The session that sends what concerns all databases of the server."""
        return self.workers[self.targets[0].alias]

    def reloaded(self) -> ServerContext:
        """Return the same with the catalog as it is now."""
        return replace(self, catalog=load_catalog(self.watcher))

    def live(self, target: Target) -> AnyDatabase:
        """Return a live database's catalog row.

        Raises:
            DatabaseMissingError: It does not exist.
        """
        database = self.catalog.get(target.name)
        if database is None:
            raise DatabaseMissingError(
                f"The database {target.name!r} of the alias {target.alias!r} does not exist on the "
                f"server at {self.server}.",
                hint="Create it (createdb, then manage.py migrate), or restore a snapshot of it.",
            )
        return database

    def copies(self) -> list[CopyMember]:
        """Return the members of snapshots of these live databases."""
        return build_members(
            self.server, self.targets, self.catalog, self.catalog.copies(self.sources)
        )

    def project_copies(self) -> list[CopyMember]:
        """Return the members of snapshots of all the project's databases on this server."""
        known = [target for target in list_targets() if target.server == self.server]
        sources = {target.name for target in (*known, *self.targets)}
        return build_members(self.server, known, self.catalog, self.catalog.copies(sources))

    def undos(self) -> list[UndoMember]:
        """Return the members of undos of these live databases."""
        present = self.catalog
        return build_members(self.server, self.targets, present, present.undos(self.sources))


def build_members(
    server: Server,
    known: Sequence[Target],
    present: Catalog,
    databases: Sequence[Database[RecordT]],
    building: frozenset[int] = frozenset(),
) -> list[Member[RecordT]]:
    """Return published databases as members; ``building`` has the lock keys that are held."""
    aliases = {target.name: target.alias for target in known}
    return [
        Member(
            alias=aliases.get(database.record.source, database.record.alias),
            database=database,
            server=server,
            spare=_spare_state(database.record, present, building),
        )
        for database in databases
    ]


def _spare_state(record: Record, present: Catalog, building: frozenset[int]) -> SpareState:
    if present.spare(record.identity):
        return "ready"
    return "building" if lock_key(spare_name(record.identity)) in building else "none"


def choose_targets(aliases: Sequence[str] | None) -> list[Target]:
    """Return the targets of an operation, if it is allowed here at all.

    Raises:
        ConfigurationError: An alias cannot be used.
        NotEnabledError: The settings switch snapshots off.
    """
    found = list_targets(aliases)
    if aliases is None:
        found = prefer_test_databases(found)
    check_enabled(found)
    return found


@contextmanager
def open_operation(
    purpose: str,
    about: Sequence[Target],
    *,
    wait_s: float,
    disturbs_live: bool = True,
    reporter: Reporter | None = None,
) -> Iterator[list[ServerContext]]:
    """Hold the locks of live databases, and what the work on them needs.

    All sessions are opened before anything is locked: clients that have to wait later on would
    fill the server's connection slots. Locks are taken in the order of names, so that two
    operations never wait for each other.

    Args:
        purpose: What others are told that it is about.
        about: The live databases.
        wait_s: How long to wait for another operation, in seconds.
        disturbs_live: Whether sessions on the live databases will be ended, Django's own too.
        reporter: Who hears for which other operation it waits.

    Raises:
        InsideTransactionError: It disturbs, and this thread is inside ``transaction.atomic``.
        NotEnabledError: A server is at a public address.
        OperationRunningError: Another operation is at work on one of the databases.
        ServerUnavailableError: A server cannot be reached.
    """
    with server_errors(), ExitStack() as stack:
        if disturbs_live:
            aliases = aliases_sharing_database(target.alias for target in about)
            check_not_in_atomic(aliases)
            close_connections(aliases)
            stack.callback(repair_pools, aliases)
        opened = [
            _open(stack, purpose, server, group, wait_s)
            for server, group in group_by_server(about).items()
        ]
        _lock(opened, wait_s, reporter)
        with _lock_errors(opened):
            contexts = [sessions.context() for sessions in opened]
            for context in contexts:
                _check_ours(context)
            yield contexts


@contextmanager
def open_for_reading(purpose: str, server: Server, group: Sequence[Target]) -> Iterator[Session]:
    """Yield a session to look at some live databases on a server, without their locks.

    Raises:
        NotEnabledError: The server is at a public address.
        ServerUnavailableError: It cannot be reached.
    """
    with server_errors(), server.session(purpose) as session:
        check_server_address(session, group)
        yield session


@dataclass(frozen=True, kw_only=True)
class _OpenSessions:
    """The sessions of an operation on one server."""

    server: Server
    targets: tuple[Target, ...]
    watcher: Session
    workers: dict[str, Session]

    def lock_holders(self) -> list[LockHolder]:
        """Return who else holds locks on our databases' catalog entries."""
        ours = [worker.pid for worker in self.workers.values()]
        present = load_catalog(self.watcher)
        names = [target.name for target in self.targets]
        databases = [each.name for each in (*present.copies(names), *present.undos(names))]
        return read_catalog_lock_holders(self.watcher, [*names, *databases], ours)

    def context(self) -> ServerContext:
        return ServerContext(
            server=self.server,
            targets=self.targets,
            watcher=self.watcher,
            workers=self.workers,
            catalog=load_catalog(self.watcher),
        )


def _open(
    stack: ExitStack, purpose: str, server: Server, group: Sequence[Target], wait_s: float
) -> _OpenSessions:
    """Open the sessions on one server at the same time; that is much of what a restore takes."""

    def session() -> Session:
        return server.session(purpose, lock_timeout_s=wait_s)

    others = [start_in_thread(session) for _ in group]
    for each in others:
        stack.callback(each.add_done_callback, _close)
    watcher = stack.enter_context(session())
    check_server_address(watcher, group)
    workers = {target.alias: each.result() for target, each in zip(group, others, strict=True)}
    return _OpenSessions(server=server, targets=tuple(group), watcher=watcher, workers=workers)


def _close(opening: Future[Session]) -> None:
    if not opening.exception():
        opening.result().close()


def _lock(opened: Sequence[_OpenSessions], wait_s: float, reporter: Reporter | None) -> None:
    wanted = [
        (target.name, str(sessions.server), sessions.workers[target.alias])
        for sessions in opened
        for target in sessions.targets
    ]
    for name, _, worker in sorted(wanted, key=lambda each: each[:2]):
        acquire_lock(worker, name, wait_s, reporter)


@contextmanager
def _lock_errors(opened: Sequence[_OpenSessions]) -> Iterator[None]:
    """Name who holds what we waited for in vain."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, HeldTooLongError) as error:
        holders = "".join(f"\n  {holder}" for each in opened for holder in each.lock_holders())
        raise DatabaseBusyError(
            "Another session is copying one of the databases, or has not committed an ALTER "
            f"DATABASE, COMMENT or GRANT of it:{holders or ' it has just ended.'}",
            hint="Commit or end it (SELECT pg_terminate_backend(pid)), or wait longer with --wait.",
        ) from error


def _check_ours(context: ServerContext) -> None:
    """Refuse where it is not clear which databases are ours to rename and drop.

    Raises:
        ConfigurationError: ``DATABASES`` names a copy, a spare or an undo.
        ObstacleError: The live database is gone, and several roles claim to have copies of it.
    """
    present = context.catalog
    named = live_database_names()
    for database in (
        *present.copies(context.sources),
        *present.undos(context.sources),
        *present.spares(),
    ):
        if database.name in named:
            raise ConfigurationError(
                f"DATABASES names {database.name!r}, which holds a snapshot, a spare or an undo.",
                hint="Take that alias out: snapshots are there to be renamed and dropped.",
            )
    for source in context.sources:
        if disputed := present.disputed(source):
            claims = ", ".join(f"{each.name!r} of {each.owner!r}" for each in disputed)
            raise ObstacleError(
                f"The database {source!r} is gone, and several roles have what looks like copies "
                f"of it: {claims}.",
                hint=f"Say whose count: CREATE DATABASE {sql.Identifier(source).as_string(None)} "
                "OWNER …; then try again.",
            )


def report_terminated(terminators: Iterable[BackendTerminator], reporter: Reporter) -> None:
    """Tell how many sessions were ended."""
    count = sum(
        len(terminator.ended) for terminator in {id(each): each for each in terminators}.values()
    )
    if count:
        reporter.note(f"Ended {count} session{'s' if count > 1 else ''} on the live database.")
