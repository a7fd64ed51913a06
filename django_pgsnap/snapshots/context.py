"""One server in an operation or a look: its sessions, its live databases, and what is ours there.

What every operation begins and ends with: sessions, locks, a look at the catalog, and statements
that the server finishes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Self

import psycopg
from psycopg import sql

from ..clones.background import BackgroundStatements
from ..clones.catalog import (
    NO_DATABASES,
    AnyDatabase,
    Catalog,
    Database,
    RecordT,
    load_catalog,
)
from ..clones.names import spare_name
from ..clones.records import CopyRecord, Part, UndoRecord
from ..clones.spares import describe_taken_name, plan_spare, wants_spare
from ..conf import config
from ..connections.reconnect import (
    aliases_sharing_database,
    check_not_in_atomic,
    close_connections,
    repair_pools,
)
from ..errors import (
    ConfigurationError,
    DatabaseBusyError,
    DatabaseMissingError,
    ObstacleError,
    PgsnapError,
)
from ..messages import join_messages, message
from ..postgres.advisory_locks import (
    HeldTooLongError,
    LockHolder,
    acquire_lock,
    lock_key,
    read_catalog_lock_holders,
    read_lock_holders,
)
from ..postgres.backends import BackendTerminator
from ..postgres.parallel import start_in_thread
from ..postgres.server import Server, server_errors
from ..postgres.session import Session
from ..postgres.targets import (
    Target,
    group_by_server,
    list_targets,
    live_database_names,
    merge_servers,
)
from ..reporting import Reporter
from ..safety import check_enabled, check_server_allowed, prefer_test_databases
from .types import (
    AnyMember,
    CopyMember,
    Member,
    Snapshot,
    SpareState,
    Undo,
    UndoMember,
    snapshots_of,
    undos_of,
)


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """One server: our sessions on it, the live databases that we ask about, and what is ours.

    Attributes:
        targets: The live databases.
        watcher: A maintenance session that looks on and ends others.
        workers: In an operation, a session per alias that holds the lock of its live database.
        catalog: The server's databases; in an operation as they are once the locks are held.
        holders: Who holds which advisory lock; in an operation nobody is looked for.
    """

    server: Server
    targets: tuple[Target, ...]
    watcher: Session
    workers: Mapping[str, Session] = field(default_factory=dict)
    catalog: Catalog = NO_DATABASES
    holders: Mapping[int, LockHolder] = field(default_factory=dict)

    @classmethod
    def read(cls, server: Server, watcher: Session, targets: Iterable[Target]) -> Self:
        """Return a server as it is now."""
        # Whoever works on a database takes its lock first and gives it back last. So what was
        # free before we look, and is a leftover when we look, is at most about to be dropped.
        before = read_lock_holders(watcher)
        return cls(
            server=server,
            watcher=watcher,
            targets=tuple(targets),
            catalog=load_catalog(watcher),
            holders={**before, **read_lock_holders(watcher)},
        )

    def reloaded(self) -> Self:
        """Return the same with the catalog as it is now."""
        return replace(self, catalog=load_catalog(self.watcher))

    @property
    def sources(self) -> list[str]:
        """Names of the live databases."""
        return [target.name for target in self.targets]

    @property
    def present(self) -> list[str]:
        """Names of those live databases that exist."""
        return [name for name in self.sources if name in self.catalog.databases]

    @property
    def main(self) -> Session:
        """The session that sends what concerns all databases of the server."""
        return self.workers[self.targets[0].alias]

    def worker(self, member: AnyMember) -> Session:
        """Return the session that holds the lock of a member's live database."""
        (alias,) = (each.alias for each in self.targets if each.name == member.record.source)
        return self.workers[alias]

    def live(self, target: Target) -> AnyDatabase:
        """Return a live database's catalog row.

        Raises:
            DatabaseMissingError: It does not exist.
        """
        database = self.catalog.databases.get(target.name)
        if database is None:
            raise DatabaseMissingError(
                "The database {name!r} of the alias {alias!r} does not exist on the server at "
                "{server}.",
                hint="Create it (createdb, then manage.py migrate), or restore a snapshot of it.",
                name=target.name,
                alias=target.alias,
                server=self.server,
            )
        return database

    def check_whole(self, names: Iterable[str]) -> None:
        """Refuse live databases on which a DROP DATABASE was interrupted.

        Raises:
            ObstacleError: One of them can only be dropped.
        """
        for name in names:
            if name in self.catalog.databases and not self.catalog.databases[name].is_valid:
                drop = sql.SQL("DROP DATABASE {};").format(sql.Identifier(name)).as_string(None)
                raise ObstacleError(
                    "A DROP DATABASE of {name!r} was interrupted: part of it is gone, and "
                    "nobody can connect to it any more.",
                    hint="Drop it ({drop}), then restore a snapshot, or create it anew.",
                    name=name,
                    drop=drop,
                )

    def copies(self, *, everyone: bool = False) -> list[CopyMember]:
        """Return the members of snapshots of these live databases, or of all on the server."""
        return self._members(self.catalog.copies(None if everyone else self.sources))

    def undos(self, *, everyone: bool = False) -> list[UndoMember]:
        """Return the members of undos of these live databases, or of all on the server."""
        return self._members(self.catalog.undos(None if everyone else self.sources))

    def parts(self, kind: type[RecordT]) -> list[Member[RecordT]]:
        """Return the parts of sets on the server, whoever's; see `Catalog.parts`."""
        return self._members(self.catalog.parts(kind, self.system))

    def project_copies(self) -> list[CopyMember]:
        """Return the members of snapshots of all the project's databases on this server."""
        known = [target for target in list_targets() if target.server.is_same_as(self.server)]
        here = replace(self, targets=(*known, *self.targets))
        return here.copies()

    @property
    def system(self) -> str:
        """Identifier of the server, which no other has."""
        return str(self.watcher.identity.system)

    def part(self, target: Target) -> Part:
        """Return what a live database's part of a set is known by."""
        return Part(target.alias, target.name, self.system, self.live(target).owner_oid)

    def leftovers(self) -> list[AnyDatabase]:
        """Return what interrupted operations left, and nobody is at work on."""
        return [
            database
            for database in self.catalog.leftovers(self.sources, live_database_names())
            if not self.is_locked(database.name)
        ]

    def is_locked(self, database: str) -> bool:
        """Tell whether somebody is at work on a database."""
        return lock_key(database) in self.holders

    def _members(self, databases: Iterable[Database[RecordT]]) -> list[Member[RecordT]]:
        aliases = {target.name: target.alias for target in reversed(self.targets)}
        return [
            Member(
                alias=aliases.get(database.record.source, database.record.alias),
                database=database,
                server=self.server,
                spare=self._spare_state(database.record.identity),
            )
            for database in databases
        ]

    def _spare_state(self, identity: str) -> SpareState:
        if identity in self.catalog.spares:
            return "ready"
        return "building" if self.holders and self.is_locked(spare_name(identity)) else "none"


def find_snapshots(contexts: Iterable[ServerContext], *, everyone: bool = False) -> list[Snapshot]:
    """Return the snapshots of the databases that are asked about, as wholes, newest first."""
    there = list(contexts)
    members = [copy for context in there for copy in context.copies(everyone=everyone)]
    return group_copies(there, members)


def group_copies(
    contexts: Sequence[ServerContext], members: Iterable[CopyMember]
) -> list[Snapshot]:
    """Return the snapshots that these copies are of, with what else there is of them."""
    return snapshots_of(
        members,
        [part for context in contexts for part in context.parts(CopyRecord)],
        [context.system for context in contexts],
    )


def find_undos(contexts: Iterable[ServerContext], *, everyone: bool = False) -> list[Undo]:
    """Return the kept states of the databases that are asked about, as wholes, newest first."""
    there = list(contexts)
    return undos_of(
        [undo for context in there for undo in context.undos(everyone=everyone)],
        [part for context in there for part in context.parts(UndoRecord)],
        [context.system for context in there],
    )


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
    return merge_servers(found, are_named=aliases is not None)


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
            _open(stack, purpose, server, group, wait_s, may_create=disturbs_live)
            for server, group in group_by_server(about).items()
        ]
        _lock(opened, wait_s, reporter)
        with _lock_errors(opened):
            contexts = [context.reloaded() for context in opened]
            for context in contexts:
                _check_ours(context)
            yield contexts


def read_contexts(purpose: str, about: Sequence[Target]) -> Iterator[ServerContext]:
    """Yield one server after the other as it is now, without anybody's locks.

    Raises:
        NotEnabledError: A server is at a public address.
        ServerUnavailableError: A server cannot be reached.
    """
    for server, group in group_by_server(about).items():
        with server_errors(), server.session(purpose) as session:
            check_server_allowed(session, group)
            yield ServerContext.read(server, session, group)


def _open(
    stack: ExitStack,
    purpose: str,
    server: Server,
    group: Sequence[Target],
    wait_s: float,
    *,
    may_create: bool,
) -> ServerContext:
    """Open the sessions on one server at the same time; that is much of what a restore takes."""

    def check(session: Session) -> None:
        check_server_allowed(session, group)

    def session() -> Session:
        before_creating = check if may_create else None
        return server.session(purpose, lock_timeout_s=wait_s, before_creating=before_creating)

    others = [start_in_thread(session) for _ in group]
    for each in others:
        stack.callback(each.add_done_callback, _close)
    watcher = stack.enter_context(session())
    check(watcher)
    workers = {target.alias: each.result() for target, each in zip(group, others, strict=True)}
    return ServerContext(server=server, targets=tuple(group), watcher=watcher, workers=workers)


def _close(opening: Future[Session]) -> None:
    if not opening.exception():
        opening.result().close()


def _lock(opened: Sequence[ServerContext], wait_s: float, reporter: Reporter | None) -> None:
    wanted = [
        (target.name, str(context.server), context.workers[target.alias])
        for context in opened
        for target in context.targets
    ]
    for name, _, worker in sorted(wanted, key=lambda each: each[:2]):
        acquire_lock(worker, name, wait_s, reporter)


@contextmanager
def _lock_errors(opened: Sequence[ServerContext]) -> Iterator[None]:
    """Name who holds what we waited for in vain."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, HeldTooLongError) as error:
        holders = [holder.description for each in opened for holder in _lock_holders(each)]
        raise DatabaseBusyError(
            "Another session is copying one of the databases, or has not committed an ALTER "
            "DATABASE, COMMENT or GRANT of it:{holders}",
            hint="Commit or end it (SELECT pg_terminate_backend(pid)), or wait longer with --wait.",
            holders=join_messages("\n  ", ["", *holders]) or message(" it has just ended."),
        ) from error


def _lock_holders(context: ServerContext) -> list[LockHolder]:
    """Return who else holds locks on the catalog entries of the databases that we work on."""
    now = context.reloaded()
    members = (*now.copies(), *now.undos())
    names = [*now.sources, *(member.database.name for member in members)]
    return read_catalog_lock_holders(
        now.watcher, names, [worker.pid for worker in now.workers.values()]
    )


def _check_ours(context: ServerContext) -> None:
    """Refuse where ``DATABASES`` names what is ours to rename and drop.

    Raises:
        ConfigurationError: ``DATABASES`` names a copy, a spare or an undo.
    """
    present = context.catalog
    named = live_database_names()
    for database in (
        *present.copies(context.sources),
        *present.undos(context.sources),
        *present.spares.values(),
    ):
        if database.name in named:
            raise ConfigurationError(
                "DATABASES names {name!r}, which holds a snapshot, a spare or an undo.",
                hint="Take that alias out: snapshots are there to be renamed and dropped.",
                name=database.name,
            )


def report_terminated(terminators: Iterable[BackendTerminator], reporter: Reporter) -> None:
    """Tell how many sessions were ended."""
    count = sum(
        len(terminator.ended) for terminator in {id(each): each for each in terminators}.values()
    )
    if count:
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
    drops: Mapping[Server, Sequence[str]],
    reporter: Reporter,
) -> list[ServerContext]:
    """Have spares made of the current copies, and have dropped what nobody needs.

    The server finishes both by itself. Leftovers of interrupted operations go along. The
    operation's sessions are used up, and with them its locks are given back. The operation itself
    is done by now, so whatever goes wrong here is only reported.

    Args:
        contexts: The servers' parts of the operation.
        current: The copies that are to have spares; those of other snapshots are dropped then,
            but for as many as ``SPARES`` says.
        drops: Databases that the operation has made superfluous.
        reporter: Who hears what went wrong.

    Returns:
        The servers as the operation leaves them; none if one could not be looked at.
    """
    left = []
    for context in contexts:
        here = [member for member in current if member.server == context.server]
        try:
            now = context.reloaded()
            _send_off(now, here, drops.get(context.server, ()), reporter)
            left.append(now)
        except (PgsnapError, psycopg.Error) as error:
            reporter.warn(
                message(
                    "Done, but the server could not be told to make the spare or to drop what "
                    "is left over: {cause} The next operation makes up for it.",
                    cause=str(error).strip(),
                )
            )
    return left if len(left) == len(contexts) else []


def _send_off(
    now: ServerContext,
    current: Sequence[CopyMember],
    drops: Sequence[str],
    reporter: Reporter,
) -> None:
    wanted = [member for member in current if wants_spare(member.record)]
    superfluous = [
        *drops,
        *(_other_spares(now, wanted) if wanted else ()),
        *(left.name for left in now.leftovers()),
    ]
    sessions = [now.watcher, *now.workers.values()]
    most = len(sessions) + _EXTRA_SESSIONS
    background = BackgroundStatements(now.server, sessions)
    for member in wanted:
        clone = plan_spare(member.database)
        if member.record.identity in now.catalog.spares:
            continue
        if taken := now.catalog.databases.get(clone.name):
            reporter.warn(describe_taken_name(member.record, taken))
        else:
            background.make(clone)
    for name in list(dict.fromkeys(superfluous))[: most - len(wanted)]:
        background.drop(name)
    background.send_all()


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
