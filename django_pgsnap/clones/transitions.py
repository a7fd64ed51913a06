"""The statements that move a database of ours from one stage to the next, from CREATE to DROP.

How long cloning takes depends on the size, and on the strategy by which the server copies. The
others are transactional and take milliseconds at any size, so several of them sent as one message
happen together or not at all. The swap is such a message: another database takes the live one's
name.

    unfinished --publish--> copy --unpublish--> to be dropped
    copy's clone --open--> live --rename, shut--> undo --unpublish--> to be dropped
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import psycopg
from psycopg import sql

from ..errors import ChangedMeanwhileError, MissingRightError
from ..postgres.backends import BackendTerminator, BlockedTimer, end_diffs
from ..postgres.inspection import check_nothing_attached, nothing_is_attached
from ..postgres.properties import Properties
from ..postgres.server import Server
from ..postgres.session import Query, Session, run_together
from .catalog import AnyDatabase
from .names import new_identity, to_drop_name
from .records import Record, Strategy, encode_record

_SHUT: Final = sql.SQL("ALLOW_CONNECTIONS false CONNECTION LIMIT 0 IS_TEMPLATE false")


@dataclass(frozen=True, kw_only=True)
class Clone:
    """One database to be made from another."""

    source: str
    name: str
    owner: str
    strategy: Strategy

    @property
    def statement(self) -> Query:
        """The statement that makes it, shut from its first moment."""
        names = map(sql.Identifier, (self.name, self.source, self.owner))
        strategy = sql.SQL("WAL_LOG" if self.strategy == "wal_log" else "FILE_COPY")
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY {} {}")
        return create.format(*names, strategy, _SHUT)

    def prepare(self, session: Session) -> None:
        """Set how the session is to copy files, and end diffs that have the source open."""
        session.configure({"file_copy_method": "clone" if self.strategy == "clone" else "copy"})
        end_diffs(session, [self.source])


@dataclass(frozen=True, kw_only=True)
class CopyJob:
    clone: Clone
    size_bytes: int
    session: Session  # the session that makes it, and holds the lock of its name
    watcher: Session
    server: Server
    # Keeps the source empty; None where the source is shut anyway.
    terminator: BackendTerminator | None
    # How fast the server copied before, to estimate progress by; 0 for unknown.
    bytes_per_s: float = 0.0


def join_statements(statements: Iterable[Query]) -> Query:
    """Return one message of these statements, which the server runs as one transaction."""
    return sql.SQL("; ").join(statements)


def publish_copy(unfinished: str, record: Record) -> Query:
    """Make a finished clone the copy that the record describes."""
    return join_statements([rename_database(unfinished, record.database), rewrite_comment(record)])


def unpublish(record: Record) -> Query:
    """Make a copy or an undo a database that nobody needs, to be dropped at leisure."""
    to_drop = to_drop_name(record.identity)
    renamed = rename_database(record.database, to_drop)
    return join_statements([renamed, comment_on_database(to_drop, None)])


def rewrite_comment(record: Record) -> Query:
    """Write down what changed about a copy or an undo."""
    return comment_on_database(record.database, encode_record(record))


def open_database(
    database: str, name: str, text: str | None, *, limit: int = -1, is_template: bool = False
) -> Query:
    """Give a shut database another name and a comment, and open it to clients."""
    alter = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT {} IS_TEMPLATE {}")
    opened = alter.format(sql.Identifier(name), limit, is_template)
    renamed = rename_database(database, name)
    return join_statements([renamed, opened, comment_on_database(name, text)])


def shut_database(database: str, text: str | None) -> Query:
    """Close a database to clients, and give it a comment."""
    return join_statements([close_database(database), comment_on_database(database, text)])


def close_database(database: str) -> Query:
    return sql.SQL("ALTER DATABASE {} {}").format(sql.Identifier(database), _SHUT)


def comment_on_database(database: str, text: str | None) -> Query:
    """Set or remove a database's comment."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), text)


def rename_database(database: str, name: str) -> Query:
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    return rename.format(sql.Identifier(database), sql.Identifier(name))


def drop_database(name: str) -> Query:
    """Return the statement that drops a database of ours, even if it was half dropped."""
    return sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))


_POLL_S: Final = 0.005

# What the checks at the end of the message raise; "PG" is no class of the server's own codes.
_CHANGED: Final = "PG001"
_IN_THE_WAY: Final = "PG002"
_PROPERTIES: Final = "PG003"


class PropertiesChangedError(Exception):
    """Somebody changed a live database's properties after they were read."""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What is to happen to one live database."""

    live_name: str
    live: AnyDatabase | None
    incoming: AnyDatabase
    properties: Properties  # what the incoming one is opened with; the rest of them it has already
    outgoing: Record | None  # what the live one is kept as; None to have it dropped later
    # Identity under which it then waits to be dropped.
    drop_identity: str = field(default_factory=new_identity)

    @property
    def outgoing_name(self) -> str:
        """What the database that is live now will be called."""
        return self.outgoing.database if self.outgoing else to_drop_name(self.drop_identity)

    @property
    def drops(self) -> list[str]:
        """Names of the databases that wait to be dropped afterwards."""
        return [] if self.outgoing or not self.live else [self.outgoing_name]

    def reversed(self) -> "Swap | None":
        """Return the swap that takes this one back, None where there was no live database.

        What came in is again what it was before: a copy or a replaced state with its comment, or
        else a clone that nobody needs. What takes part must not have been dropped yet.
        """
        if self.live is None:
            return None
        return Swap(
            live_name=self.live_name,
            live=replace(self.incoming, name=self.live_name),
            incoming=replace(self.live, name=self.outgoing_name),
            properties=replace(self.properties, digest=None),
            outgoing=self.incoming.record,
        )

    def statements(self) -> list[Query]:
        """Return the swap's statements; they mean something only together."""
        statements: list[Query] = []
        expected = [(self.live_name, self.incoming.oid)]
        if self.live:
            expected.append((self.outgoing_name, self.live.oid))
            comment = encode_record(self.outgoing) if self.outgoing else None
            statements.append(rename_database(self.live_name, self.outgoing_name))
            if self.properties.digest is not None:
                # The rename has waited for whoever had not committed a GRANT, an ALTER DATABASE or
                # such, and from here on nobody can.
                unchanged = self.properties.is_still_that_of(self.outgoing_name)
                statements.append(_raise_unless(unchanged, _PROPERTIES))
                # Whoever attaches something needs a session on the database, and the rename has
                # found none.
                detached = nothing_is_attached(self.outgoing_name)
                statements.append(_raise_unless(detached, _IN_THE_WAY))
            statements.append(shut_database(self.outgoing_name, comment))
        wanted = self.properties
        limit, is_template = wanted.connection_limit, wanted.is_template
        opened = open_database(
            self.incoming.name, self.live_name, wanted.comment, limit=limit, is_template=is_template
        )
        # Names are checked after the renames: by then they are locked, so nobody can have slipped
        # another database under one of them.
        is_there = sql.SQL("EXISTS (SELECT FROM pg_database WHERE datname = {} AND oid = {})")
        checks = [_raise_unless(is_there.format(*each), _CHANGED) for each in expected]
        return [*statements, opened, *checks]


def perform_swaps(
    session: Session,
    swaps: Sequence[Swap],
    terminator: BackendTerminator,
    look: Callable[[], None] | None = None,
) -> None:
    """Carry out all swaps of one server in one transaction, sent as one message.

    1. The caller has a last look at what is to be replaced.
    2. The message goes out. It needs nothing more from us: if we die, it happens all the same.
    3. If the server finds a session that came meanwhile, nothing has happened. It is ended, or
       waited for, and we begin again.

    Raises:
        DatabaseBusyError: Sessions stayed on a live database. Nothing has changed.
        ObstacleError: Something was attached to one meanwhile. Nothing has changed.
        ChangedMeanwhileError: Somebody else renamed one of the databases. Nothing has changed.
        MissingRightError: The role may not rename a database. Nothing has changed.
    """
    message = join_statements([statement for swap in swaps for statement in swap.statements()])
    while True:
        if look is not None:
            look()
        try:
            _send(session, message, terminator, is_one=len(swaps) == 1)
        except psycopg.Error as error:
            in_the_way = isinstance(error, psycopg.errors.ObjectInUse)
            if not in_the_way and error.sqlstate != _IN_THE_WAY:
                raise _explain_error(error, swaps) from error
            # A prepared transaction keeps the server from renaming as a session does.
            check_nothing_attached(session, [swap.live_name for swap in swaps])
            if terminator.is_overdue:
                raise terminator.busy_error(terminator.end_idle_backends()) from error
            terminator.empty_databases()
        else:
            return


def _send(session: Session, message: Query, terminator: BackendTerminator, *, is_one: bool) -> None:
    """Send the message, and keep the live databases empty until the server has done with it."""
    blocked = BlockedTimer()
    gave_way = False

    def keep_empty() -> None:
        nonlocal gave_way
        present = terminator.end_idle_backends()
        # Where there is only one, no client that is on it waits for another one to be let in.
        gave_way = gave_way or (not is_one and blocked.is_over(present))
        if gave_way:
            session.cancel()

    (error,) = run_together([(session, message)], meanwhile=keep_empty, every_s=_POLL_S)
    if gave_way and isinstance(error, psycopg.errors.QueryCanceled):
        raise psycopg.errors.ObjectInUse from error
    if error is not None:
        raise error


def _raise_unless(condition: Query, code: str) -> Query:
    block = sql.SQL("BEGIN IF NOT ({}) THEN RAISE SQLSTATE {}; END IF; END").format(condition, code)
    return sql.SQL("DO {}").format(block.as_string(None))


def _explain_error(error: BaseException, swaps: Sequence[Swap]) -> BaseException:
    databases = ", ".join(repr(swap.live_name) for swap in swaps)
    code = getattr(error, "sqlstate", None)
    # Somebody's change was committed while the rename waited for it. That is an internal error,
    # which the server does not translate.
    is_overtaken = code == "XX000" and "tuple concurrently" in str(error)
    if code == _PROPERTIES or is_overtaken:
        return PropertiesChangedError()
    if code in (_CHANGED, "3D000", "42P04"):
        return ChangedMeanwhileError(
            "Somebody renamed, made or dropped a database while {databases} was to be "
            "replaced. Nothing has changed.",
            hint="Look at the server's databases (psql -l), then try again.",
            databases=databases,
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return MissingRightError(
            "The role may not replace {databases}: {cause}. Nothing has changed.",
            hint="It must own the database (ALTER DATABASE … OWNER TO …) and be allowed to "
            "make some (ALTER ROLE … CREATEDB).",
            databases=databases,
            cause=error.diag.message_primary,
        )
    return error
