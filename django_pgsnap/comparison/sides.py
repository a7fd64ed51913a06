"""The two sides of a comparison: sessions on databases, each as of one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql

from ..errors import ObstacleError
from ..postgres.backends import read_backends
from ..postgres.server import Server
from ..postgres.session import DIFF_PURPOSE, Query, Session, start_in_thread
from .remembered import CopyState, Remembered, read_row

Result = TypeVar("Result")

# Values are compared as text, so both sides must write them alike. Nothing but what the server
# brings is found by an unqualified name. Reading ahead anew for each of many small ranges takes
# PostgreSQL 18 longer than reading them.
_SETTINGS: Final = {
    "search_path": "pg_catalog",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "lc_monetary": "C",
    "row_security": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "effective_io_concurrency": "0",
}
_BEGIN: Final = sql.SQL("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
# age() counts back from a transaction id that stays the same in a transaction.
_TRANSACTION_IDS: Final = sql.SQL(
    "SELECT age('3'::xid)::bigint + 3, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One database, as of one moment.

    Attributes:
        session: A session inside a transaction that sees that moment.
        schema: The schema whose tables are named without it.
        next_xid: The transaction id that the server gives next, modulo 2**32.
        has_wrapped: Whether transaction ids have begun again from the start.
        key: What hashes of row versions begin with, the same number on both sides.
        sums: What is known, and will be, of the tables of a copy; None of an open database.
        twin: Gives another session as of the same moment; None on a copy.
    """

    session: Session
    schema: str
    next_xid: int
    has_wrapped: bool
    key: int
    sums: dict[str, list[int]] | None = None
    twin: Callable[[], Side] | None = None

    @classmethod
    def begin(cls, session: Session, key: int, *, like: Session | None = None) -> Side:
        """Have a session see one moment from now on, or that which another one sees."""
        session.configure(_SETTINGS)
        session.execute(_BEGIN)
        if like:
            moment = sql.Literal(like.value(sql.SQL("SELECT pg_export_snapshot()")))
            session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(moment))
        ((next_xid, ever_given),) = session.rows(_TRANSACTION_IDS)
        return cls(
            session=session,
            schema=next((s for s in session.schemas if not s.startswith("pg_")), "public"),
            next_xid=next_xid % 2**32,
            has_wrapped=ever_given >= 2**32,
            key=key,
        )

    def rows(self, query: Query) -> list[tuple[object, ...]]:
        """Run a query and return all its rows."""
        return self.session.rows(query)


def ask_both(
    before: Side, after: Side, work: Callable[[Side], Result], other: Callable[[Side], Result]
) -> tuple[Result, Result]:
    """Do some work on both sides at the same time, and return what each gave."""
    future = start_in_thread(lambda: work(before))
    try:
        mine = other(after)
    except BaseException:
        with ExitStack() as stack:
            stack.callback(future.exception)
            before.session.cancel()
        raise
    return future.result(), mine


@contextmanager
def open_copy(server: Server, database: str) -> Iterator[tuple[Session, Remembered]]:
    """Open a copy for one session of ours, and shut it again before anybody else can come.

    1. The copy is opened, for one session of an ordinary role.
    2. The session connects, with event triggers off where our role may say so.
    3. The copy is shut; the session stays. If it stops before this, the next command or
       ``doctor --fix`` shuts it.

    With the session comes what is known of the copy.

    Raises:
        ObstacleError: Somebody else uses the copy, to clone it for instance, or came in, too.
    """
    with server.session(DIFF_PURPOSE) as maintenance:
        before = CopyState.read(maintenance, database)
        try:
            _open(maintenance, database)
            try:
                session = server.session_on(database, DIFF_PURPOSE)
            finally:
                row = _shut(maintenance, database)
        except psycopg.errors.InvalidCatalogName as error:
            raise ObstacleError(
                "The copy {database!r} has just been dropped.",
                hint="See ./manage.py pgsnap list for what there is.",
                database=database,
            ) from error
        with session:
            _check_alone(maintenance, database, session)
            known = before.recall(maintenance, session, row)
            yield session, known
        known.save()


def _check_alone(maintenance: Session, database: str, ours: Session) -> None:
    """Name who came into a copy while it was open, and end whom we may."""
    # Another diff of ours may be there. What a session calls itself proves nothing.
    me = maintenance.value(sql.SQL("SELECT session_user::text"))
    present = read_backends(maintenance, [database])
    strangers = [each for each in present if each.pid != ours.pid and each.user != me]
    if strangers:
        with suppress(psycopg.errors.InsufficientPrivilege):
            for each in strangers:
                maintenance.rows(sql.SQL("SELECT pg_terminate_backend(%s)"), [each.pid])
        raise ObstacleError(
            "Others came into the copy {database!r} while it was open for us: {names}.",
            hint="Ask them whether they wrote there, which would be part of the snapshot from now "
            "on, then try again.",
            database=database,
            names="; ".join(map(str, strangers)),
        )


def _open(maintenance: Session, database: str) -> None:
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT 1")
    maintenance.execute(statement.format(sql.Identifier(database)))


def _shut(maintenance: Session, database: str) -> tuple[Any, ...]:
    """Shut a copy, and return how its row reads from now on, unless somebody opens it again."""
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
    with maintenance.transaction():
        maintenance.execute(statement.format(sql.Identifier(database)))
        return read_row(maintenance, database)
