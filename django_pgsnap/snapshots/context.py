"""One server as we see it: our sessions, its live databases, and what is ours there."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Self, get_args

from psycopg import sql

from ..clones.catalog import NO_DATABASES, AnyDatabase, Catalog, Database, RecordT, load_catalog
from ..clones.for_tests import list_comments
from ..clones.names import spare_name
from ..clones.records import CopyRecord, Part, Record, TemplateRecord, UndoRecord
from ..clones.spares import lock_spare
from ..clones.transitions import join_statements
from ..errors import DatabaseMissingError, ObstacleError
from ..postgres.advisory_locks import LockHolder, lock_key, read_lock_holders
from ..postgres.backends import BackendTerminator
from ..postgres.inspection import measure_databases
from ..postgres.properties import Properties, apply_properties
from ..postgres.server import Server, server_errors
from ..postgres.session import Query, Session
from ..postgres.targets import (
    Target,
    group_by_server,
    list_targets,
    live_database_names,
    merge_servers,
)
from ..reporting import Reporter
from ..safety import check_enabled, check_server_allowed, prefer_test_databases
from .types import CopyMember, Member, Snapshot, SpareState, Undo, UndoMember, group_members

# As a number, since a role may have settings of its own for how a date is written.
_NOW: Final = sql.SQL(
    "SELECT (extract(epoch FROM pg_catalog.clock_timestamp())"
    " OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """One server: our sessions on it, the live databases that we ask about, and what is ours."""

    server: Server
    targets: tuple[Target, ...]
    watcher: Session  # a maintenance session that looks on and ends others
    # In an operation, the session that holds the lock of each live database, by its name.
    workers: Mapping[str, Session] = field(default_factory=dict)
    # The server's databases; in an operation as they are once the locks are held.
    catalog: Catalog = NO_DATABASES
    # Who holds which advisory lock; in an operation nobody is looked for.
    holders: Mapping[int, LockHolder] = field(default_factory=dict)
    everyone: bool = False  # whether other projects' databases are asked about, too
    reporter: Reporter = field(default_factory=Reporter)  # who hears about progress and warnings
    wait_s: float = 0.0  # how long an operation waits for others, in seconds

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
    def asked(self) -> list[str] | None:
        """Names of the live databases whose copies are asked about; None for any project's."""
        return None if self.everyone else self.sources

    @property
    def present(self) -> list[str]:
        """Names of those live databases that exist."""
        return [name for name in self.sources if name in self.catalog.databases]

    @property
    def main(self) -> Session:
        """The session that sends what concerns all databases of the server."""
        return self.workers[self.targets[0].name]

    def terminator(self, databases: Collection[str], *, force: bool) -> BackendTerminator:
        """Return what ends idle backends on databases, and waits for busy ones."""
        return BackendTerminator(
            self.watcher, databases, wait_s=self.wait_s, force=force, reporter=self.reporter
        )

    def obtain_spare(self, copy: Record) -> AnyDatabase | None:
        """Return the spare of a copy, with the lock of its name, None if there is none."""
        is_ours = lock_spare(self.workers[copy.source], copy, self.reporter)
        # The watcher has looked at the catalog before, and is quicker.
        return load_catalog(self.watcher).spares.get(copy.identity) if is_ours else None

    def set_up(
        self, database: str, wanted: Properties, present: Properties, *, final_name: str
    ) -> None:
        """Set a database up as it is wanted, and report what our role may not set."""
        watcher = self.watcher
        for each in apply_properties(watcher, wanted, present, database, final_name=final_name):
            self.reporter.warn(each)

    def live(self, target: Target) -> AnyDatabase:
        """Return a live database's catalog row, or refuse where it does not exist."""
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
        """Refuse live databases on which a DROP DATABASE was interrupted."""
        for name in names:
            database = self.catalog.databases.get(name)
            if database is not None and not database.is_valid:
                drop = sql.SQL("DROP DATABASE {};").format(sql.Identifier(name)).as_string(None)
                raise ObstacleError(
                    "A DROP DATABASE of {name!r} was interrupted: part of it is gone, and "
                    "nobody can connect to it any more.",
                    hint="Drop it ({drop}), then restore a snapshot, or create it anew.",
                    name=name,
                    drop=drop,
                )

    def copies(self) -> list[CopyMember]:
        """Return the members of snapshots that are asked about."""
        return self._members(self.catalog.copies(self.asked))

    def undos(self) -> list[UndoMember]:
        """Return the members of undos that are asked about."""
        return self._members(self.catalog.undos(self.asked))

    def parts(self, kind: type[RecordT]) -> list[Member[RecordT]]:
        """Return the parts of sets on the server, whoever's; see `Catalog.parts`."""
        return self._members(self.catalog.parts(kind, self.system))

    def project_copies(self) -> list[CopyMember]:
        """Return the members of snapshots of all the project's databases on this server."""
        known = [target for target in list_targets() if target.server.is_same_as(self.server)]
        return replace(self, targets=(*known, *self.targets)).copies()

    @property
    def system(self) -> str:
        """Identifier of the server, which no other has."""
        return str(self.watcher.identity.system)

    def read_clock(self) -> datetime:
        """Return the time of the server, by which all that is kept is dated."""
        return _EPOCH + timedelta(microseconds=self.watcher.value(_NOW))

    def part(self, target: Target) -> Part:
        """Return what a live database's part of a set is known by."""
        return Part(target.alias, target.name, self.system, self.live(target).owner_oid)

    def leftovers(self, owners: Collection[str] = ()) -> list[AnyDatabase]:
        """Return what interrupted operations left, of more owners too; nobody is at work on it."""
        return [
            database
            for database in self.catalog.leftovers(self.sources, live_database_names(), owners)
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


def execute_together(statements: Iterable[tuple[ServerContext, Query]]) -> None:
    """Run statements, those of each server as one transaction."""
    by_session: dict[Session, list[Query]] = {}
    for context, statement in statements:
        by_session.setdefault(context.main, []).append(statement)
    for session, group in by_session.items():
        session.execute(join_statements(group))


def find_snapshots(contexts: Sequence[ServerContext]) -> list[Snapshot]:
    """Return the snapshots that are asked about, as wholes, newest first."""
    return group_copies(contexts, [copy for context in contexts for copy in context.copies()])


def group_copies(contexts: Sequence[ServerContext], copies: Sequence[CopyMember]) -> list[Snapshot]:
    """Return the snapshots that these copies are of, with what else there is of them."""
    others = [part for context in contexts for part in context.parts(CopyRecord)]
    return group_members(Snapshot, copies, others, [context.system for context in contexts])


def find_undos(contexts: Sequence[ServerContext]) -> list[Undo]:
    """Return the replaced states that are asked about, as wholes, newest first."""
    members = [undo for context in contexts for undo in context.undos()]
    others = [part for context in contexts for part in context.parts(UndoRecord)]
    return group_members(Undo, members, others, [context.system for context in contexts])


def choose_targets(aliases: Sequence[str] | None) -> list[Target]:
    """Return the targets of an operation, if it is allowed here at all."""
    found = list_targets(aliases)
    if aliases is None:
        found = prefer_test_databases(found)
    check_enabled(found)
    return merge_servers(found, are_named=aliases is not None)


def read_contexts(
    purpose: str, about: Sequence[Target], *, everyone: bool = False
) -> Iterator[ServerContext]:
    """Yield one server after the other as it is now, without anybody's locks."""
    for server, group in group_by_server(about).items():
        with server_errors(), server.session(purpose) as session:
            check_server_allowed(session, group)
            yield replace(ServerContext.read(server, session, group), everyone=everyone)


Kind = Literal["copy", "undo", "template", "run", "test", "spare", "leftover"]

EVERYTHING: Final[frozenset[Kind]] = frozenset(get_args(Kind))


@dataclass(frozen=True, kw_only=True)
class ManagedDatabase:
    name: str
    # ``run`` for the clone of a ``pgsnap run``, ``test`` for a test database that is kept, in use,
    # or left by a killed run; the others as they are called everywhere.
    kind: Kind
    size_bytes: int  # 0 where our role may not know
    about: str  # the snapshot that it is about, or the live database where it is about none


def list_published(context: ServerContext, sources: Iterable[str]) -> Iterator[Database[Record]]:
    """Yield the copies, replaced states, templates and clones for commands that are ours to drop.

    They are of the live databases that are asked about, of more sources, or those that our role has
    for any project.
    """
    catalog, about = context.catalog, None if context.everyone else [*context.sources, *sources]
    copies, undos, spared = catalog.copies(about), catalog.undos(about), live_database_names()
    for database in (*copies, *undos, *catalog.templates(about), *catalog.runs(about)):
        if database.name not in spared and (database.trusted or not context.everyone):
            yield database


def list_test_databases(context: ServerContext) -> dict[str, str]:
    """Return the test databases of our role, and what their aliases lead to outside of tests."""
    spared = live_database_names()
    return {
        comment.database: comment.source
        for comment in list_comments(context.watcher)
        if comment.database not in spared
        and (context.everyone or comment.source in context.sources)
    }


def describe_managed(
    context: ServerContext,
    kinds: Collection[Kind] = EVERYTHING,
    *,
    more: Iterable[Database[Record]] = (),
) -> list[ManagedDatabase]:
    """Return which databases of ours there are on a server, of these kinds, and some more."""
    found: dict[str, tuple[Kind, str]] = {
        left.name: ("leftover", "") for left in context.leftovers()
    }
    tests = list_test_databases(context)
    for database in (*list_published(context, tests), *more):
        record, about = database.record, _about(database.record)
        found[database.name] = (record.kind, about)
        if spare := context.catalog.spares.get(record.identity):
            found[spare.name] = ("spare", about)
    found |= {name: ("test", source) for name, source in tests.items()}
    wanted = {name: each for name, each in found.items() if each[0] in kinds}
    sizes = measure_databases(context.watcher, wanted) if wanted else {}
    return [
        ManagedDatabase(name=name, kind=kind, about=about, size_bytes=sizes.get(name, 0))
        for name, (kind, about) in wanted.items()
    ]


def describe_beside(context: ServerContext) -> Iterator[ManagedDatabase]:
    """Yield the templates and clones for commands, as large as they were when they were made."""
    catalog = context.catalog
    for database in (*catalog.templates(context.asked), *catalog.runs(context.asked)):
        yield ManagedDatabase(
            name=database.name,
            kind=database.record.kind,
            size_bytes=database.record.size_bytes,
            about=_about(database.record),
        )


def _about(record: Record) -> str:
    return record.source if isinstance(record, TemplateRecord) else record.name
