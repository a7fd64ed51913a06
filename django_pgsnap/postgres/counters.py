"""What the server counts of a database that tells whether somebody has used or written it.

The server counts the rows that are inserted, updated and deleted in a database, catalogs included
(manual, pg_stat_database). A database that a swap put in place starts at zero, and a session's
counts are complete once its backend is gone. Where there is any doubt it counts as written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from .session import Query, Session

ActivityCounters = tuple[Any, ...]

_ROWS: Final = sql.SQL(
    "pg_catalog.pg_stat_get_db_tuples_inserted({oid})"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_tuples_updated({oid})"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_tuples_deleted({oid})"
)
_ALL_ARE_COUNTED: Final = sql.SQL(
    "pg_catalog.current_setting('track_counts')::pg_catalog.bool AND NOT EXISTS ("
    "SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) c"
    " WHERE pg_catalog.starts_with(c, 'track_counts=')) AND NOT EXISTS ("
    "SELECT FROM pg_catalog.pg_parameter_acl"
    " WHERE parname OPERATOR(pg_catalog.=) 'track_counts')"
)
# A crash of the server throws all statistics away, and this moment forward.
_EPOCH: Final = sql.SQL(
    "SELECT extract(epoch FROM stats_reset)::pg_catalog.text FROM pg_catalog.pg_stat_wal"
)

_ACTIVITY: Final = sql.SQL(
    "SELECT oid, extract(epoch FROM pg_catalog.pg_stat_get_db_stat_reset_time(oid))"
    "::pg_catalog.text,"
    " CASE WHEN {} THEN ({}) ELSE pg_catalog.gen_random_uuid()::pg_catalog.text END,"
    " pg_catalog.pg_stat_get_db_sessions(oid), {} FROM pg_catalog.pg_database"
    " WHERE datname OPERATOR(pg_catalog.=) %s::pg_catalog.name"
).format(_ALL_ARE_COUNTED, _EPOCH, _ROWS.format(oid=sql.Identifier("oid")))
# While the first of these values stand, the server has not lost count.
_SAME: Final = 3


def read_activity(session: Session, name: str) -> ActivityCounters:
    """Return what the server has counted of a database, nothing if it is not there."""
    found = session.rows(_ACTIVITY, [name])
    return found[0] if found else ()


def has_counted(before: ActivityCounters, now: ActivityCounters) -> bool:
    """Tell whether it was the same database, and the server has not lost count of it since."""
    return before[:_SAME] == now[:_SAME]


def rows_written(oid: sql.Composable) -> Query:
    """Return the expression for how many rows were ever written in the database with this oid."""
    return _ROWS.format(oid=oid)


def count_rows_written(session: Session, database: str) -> int:
    """Return how many rows were ever written in a database, when nobody is there any more."""
    count = sql.SQL("SELECT {} FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) %s")
    return int(session.value(count.format(rows_written(sql.Identifier("oid"))), [database]))


@dataclass(frozen=True, kw_only=True)
class DatabaseCounters:
    """What the server has counted of a database that nobody is on.

    Attributes:
        epoch: Since when it counts. As long as it is the same, nothing was left out or forgotten.
        sessions: How many client sessions there were. No setting keeps one from being counted.
        transactions: How many transactions ended, those of background workers included.
        rows: How many rows were written.
    """

    epoch: str
    sessions: int
    transactions: int
    rows: int

    @property
    def are_zero(self) -> bool:
        """Whether nobody was ever on it."""
        return not (self.sessions or self.transactions or self.rows)


_COUNTERS: Final = sql.SQL(
    "SELECT datname,"
    " CASE WHEN {} THEN pg_catalog.concat(({}), '/',"
    " extract(epoch FROM pg_catalog.pg_stat_get_db_stat_reset_time(oid)))"
    " ELSE pg_catalog.gen_random_uuid()::pg_catalog.text END,"
    " pg_catalog.pg_stat_get_db_sessions(oid),"
    " pg_catalog.pg_stat_get_db_xact_commit(oid)"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_xact_rollback(oid), {}"
    " FROM pg_catalog.pg_database"
    " WHERE datname OPERATOR(pg_catalog.=) ANY(%s::pg_catalog.name[])"
).format(_ALL_ARE_COUNTED, _EPOCH, _ROWS.format(oid=sql.Identifier("oid")))


def read_counters(session: Session, databases: Iterable[str]) -> dict[str, DatabaseCounters]:
    """Return what the server has counted of databases, those that are there."""
    return {
        name: DatabaseCounters(epoch=epoch, sessions=sessions, transactions=ended, rows=rows)
        for name, epoch, sessions, ended, rows in session.rows(_COUNTERS, [list(databases)])
    }
