"""The swap: another database takes the live one's name, in one transaction.

The place of a test database on the server, which one after the other takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import psycopg
from psycopg import sql

from ..errors import ChangedMeanwhileError, MissingRightError
from ..postgres.advisory_locks import release_lock, try_acquire_lock
from ..postgres.backends import BackendTerminator, BlockedTimer
from ..postgres.parallel import run_together
from ..postgres.properties import Properties
from ..postgres.session import Query, Session
from .catalog import AnyDatabase
from .names import new_identity, to_drop_name
from .records import Record, encode_record
from .transitions import (
    join_statements,
    make_live,
    rename_database,
    shut_database,
)

_POLL_S: Final = 0.005

# What the checks at the end of the message raise; "PG" is no class of the server's own codes.
_CHANGED: Final = "PG001"
_PROPERTIES: Final = "PG003"


class PropertiesChangedError(Exception):
    """Somebody changed a live database's properties after they were read."""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What is to happen to one live database.

    Attributes:
        live: The database that has the name now, None where there is none.
        incoming: The shut database that takes the name.
        properties: What the incoming one is opened with; the rest of them it has already.
        outgoing: What the live one is kept as; None to have it dropped later.
        drop_identity: Identity under which it then waits to be dropped.
    """

    live_name: str
    live: AnyDatabase | None
    incoming: AnyDatabase
    properties: Properties
    outgoing: Record | None
    drop_identity: str

    @property
    def outgoing_name(self) -> str:
        """What the database that is live now will be called."""
        return self.outgoing.database if self.outgoing else to_drop_name(self.drop_identity)

    @property
    def drops(self) -> list[str]:
        """Names of the databases that wait to be dropped afterwards."""
        return [] if self.outgoing or not self.live else [self.outgoing_name]

    def reversed(self) -> Swap | None:
        """Return the swap that takes this one back, None where there was no live database.

        What came in is again what it was before: a copy or a kept state with its comment, or else
        a clone that nobody needs. What takes part must not have been dropped yet.
        """
        if self.live is None:
            return None
        record = self.incoming.record
        return Swap(
            live_name=self.live_name,
            live=replace(self.incoming, name=self.live_name),
            incoming=replace(self.live, name=self.outgoing_name),
            properties=replace(self.properties, digest=None),
            outgoing=record if record and record.database == self.incoming.name else None,
            drop_identity=new_identity(),
        )

    def statements(self) -> list[Query]:
        """Return the swap's statements; they mean something only together."""
        statements: list[Query] = []
        if self.live:
            comment = encode_record(self.outgoing) if self.outgoing else None
            statements += [
                rename_database(self.live_name, self.outgoing_name),
                *self._check_of_properties(),
                shut_database(self.outgoing_name, comment),
            ]
        statements.append(
            make_live(
                self.incoming.name,
                self.live_name,
                connection_limit=self.properties.connection_limit,
                is_template=self.properties.is_template,
                user_comment=self.properties.comment,
            )
        )
        return [*statements, *self._checks()]

    def _check_of_properties(self) -> list[Query]:
        # The rename has waited for whoever had not committed a GRANT, an ALTER DATABASE or such,
        # and from here on nobody can.
        if self.properties.digest is None:
            return []
        unchanged = self.properties.is_still_that_of(self.outgoing_name)
        return [_raise_unless(unchanged, _PROPERTIES)]

    def _checks(self) -> list[Query]:
        # Names are checked after the renames: by then they are locked, so nobody can have slipped
        # another database under one of them.
        expected = [(self.live_name, self.incoming.oid)]
        if self.live:
            expected.append((self.outgoing_name, self.live.oid))
        return [
            _raise_unless(
                sql.SQL("EXISTS (SELECT FROM pg_database WHERE datname = {} AND oid = {})").format(
                    sql.Literal(name), sql.Literal(oid)
                ),
                _CHANGED,
            )
            for name, oid in expected
        ]


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

    Args:
        session: The maintenance session to send it from.
        swaps: What is to happen.
        terminator: Has emptied the live databases, and keeps them so, from a session of its own.
        look: Called each time that nobody is left on them, right before the message goes out.

    Raises:
        DatabaseBusyError: Sessions stayed on a live database. Nothing has changed.
        ChangedMeanwhileError: Somebody else renamed one of the databases. Nothing has changed.
        SetUpMeanwhileError: An incoming database lacks a property by now. Nothing has changed.
        MissingRightError: The role may not rename a database. Nothing has changed.
    """
    message = join_statements([statement for swap in swaps for statement in swap.statements()])
    while True:
        if look is not None:
            look()
        try:
            _send(session, message, terminator, is_one=len(swaps) == 1)
        except psycopg.errors.ObjectInUse as error:
            if terminator.is_overdue:
                raise terminator.busy_error(terminator.end_idle_backends()) from error
            terminator.empty_databases()
        except psycopg.Error as error:
            raise _explain_error(error, swaps) from error
        else:
            return


def _send(session: Session, message: Query, terminator: BackendTerminator, *, is_one: bool) -> None:
    """Send the message, and keep the live databases empty until the server has done with it.

    Raises:
        ObjectInUse: Somebody is on a live database, and stays.
        Error: Whatever else the server says.
    """
    blocked = BlockedTimer()
    gave_way = False

    def keep_empty() -> None:
        nonlocal gave_way
        present = terminator.end_idle_backends()
        # One database keeps nobody from another.
        gave_way = gave_way or (not is_one and blocked.is_over(present))
        if gave_way:
            session.cancel()

    (error,) = run_together([(session, message)], meanwhile=keep_empty, every_s=lambda: _POLL_S)
    if gave_way and isinstance(error, psycopg.errors.QueryCanceled):
        raise psycopg.errors.ObjectInUse from error
    if error is not None:
        raise error


def _raise_unless(condition: Query, code: str) -> Query:
    block = sql.SQL("BEGIN IF NOT ({}) THEN RAISE SQLSTATE {}; END IF; END").format(
        condition, sql.Literal(code)
    )
    return sql.SQL("DO {}").format(sql.Literal(block.as_string(None)))


def _is_overtaken(error: BaseException) -> bool:
    """Tell whether somebody else's change was committed while the rename waited for it."""
    # An internal error, which the server does not translate.
    return isinstance(error, psycopg.errors.InternalError_) and "tuple concurrently" in str(error)


def _explain_error(error: BaseException, swaps: Sequence[Swap]) -> BaseException:
    databases = ", ".join(repr(swap.live_name) for swap in swaps)
    code = getattr(error, "sqlstate", None)
    if code == _PROPERTIES or _is_overtaken(error):
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


_OID: Final = sql.SQL("SELECT oid FROM pg_database WHERE datname = %s")
_SET_UP: Final = sql.SQL(
    "SELECT datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
)


@dataclass(frozen=True, kw_only=True)
class DatabaseName:
    """A name, with what whoever has it is set up with.

    Attributes:
        connection_limit: How many clients it takes, -1 for any number.
        comment: Its comment, by which it is known as a test database of ours.
    """

    name: str
    connection_limit: int
    comment: str | None

    @classmethod
    def of(cls, session: Session, name: str) -> Self:
        """Return the place that a database has."""
        connection_limit, comment = session.rows(_SET_UP, [name])[0]
        return cls(name=name, connection_limit=connection_limit, comment=comment)

    def give_to(self, session: Session, incoming: str) -> str | None:
        """Let a shut clone take the place, whose lock the session holds.

        Returns:
            The name of the database that had it, which is shut now and whose lock the session
            holds; None if there was none.
        """
        outgoing = to_drop_name(new_identity())
        statements: list[Query] = []
        is_there = bool(session.rows(_OID, [self.name]))
        if is_there:
            try_acquire_lock(session, outgoing)
            statements += [rename_database(self.name, outgoing), shut_database(outgoing, None)]
        statements.append(
            make_live(
                incoming,
                self.name,
                connection_limit=self.connection_limit,
                is_template=False,
                user_comment=self.comment,
            )
        )
        session.execute(join_statements(statements))
        release_lock(session, incoming)
        return outgoing if is_there else None
