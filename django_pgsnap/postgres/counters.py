"""Visits: what the server counts of a database that tells whether somebody has been there.

Whether a live database was written since a restore put it there.

The server counts the rows that are inserted, updated and deleted in a database, catalogs included
(manual, pg_stat_database). A database that a swap put in place starts at zero, and a session's
counts are complete once its backend is gone. Where there is any doubt it counts as written.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import sql

from .session import Query, Session

ActivityCounters = tuple[Any, ...]

# As long as the first of them stand, the server has not lost count.
_SAME: Final = 3
_VISITS: Final = sql.SQL(
    "SELECT d.oid, extract(epoch FROM pg_stat_get_db_stat_reset_time(d.oid))::text,"
    " CASE WHEN current_setting('track_counts')::bool AND NOT EXISTS ("
    "   SELECT FROM pg_catalog.pg_db_role_setting, unnest(setconfig) c"
    "   WHERE starts_with(c, 'track_counts='))"
    " THEN (SELECT extract(epoch FROM stats_reset)::text FROM pg_catalog.pg_stat_wal)"
    " ELSE gen_random_uuid()::text END,"
    " pg_stat_get_db_sessions(d.oid), pg_stat_get_db_tuples_inserted(d.oid),"
    " pg_stat_get_db_tuples_updated(d.oid), pg_stat_get_db_tuples_deleted(d.oid)"
    " FROM pg_catalog.pg_database d WHERE d.datname = %s"
)


def read_activity(session: Session, name: str) -> ActivityCounters:
    """Return what the server has counted of a database, nothing if it is not there."""
    found = session.rows(_VISITS, [name])
    return found[0] if found else ()


def has_counted(before: ActivityCounters, now: ActivityCounters) -> bool:
    """Tell whether it was the same database, and the server has not lost count of it since."""
    return before[:_SAME] == now[:_SAME]


# A crash of the server throws all statistics away, and this moment forward.
_EPOCH: Final = sql.SQL("SELECT coalesce(stats_reset::text, '') FROM pg_stat_wal")

_ROWS: Final = sql.SQL(
    "pg_stat_get_db_tuples_inserted({oid}) + pg_stat_get_db_tuples_updated({oid})"
    " + pg_stat_get_db_tuples_deleted({oid})"
)

_COUNT: Final = sql.SQL("SELECT {} FROM pg_database WHERE datname = %s").format(
    _ROWS.format(oid=sql.Identifier("oid"))
)

_UNTOUCHED: Final = sql.SQL(
    "{rows} = 0 AND pg_stat_get_db_stat_reset_time({oid}) IS NULL"
    " AND current_setting('track_counts')::bool"
    " AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) c"
    " WHERE starts_with(c, 'track_counts='))"
)


def read_statistics_epoch(session: Session) -> str:
    """Return when the server's statistics began."""
    return str(session.value(_EPOCH))


def rows_written(oid: sql.Composable) -> Query:
    """Return the expression for how many rows were ever written in the database with this oid."""
    return _ROWS.format(oid=oid)


def is_untouched(oid: int) -> Query:
    """Return the condition that no row was written in the database with this oid."""
    return _UNTOUCHED.format(rows=rows_written(sql.Literal(oid)), oid=sql.Literal(oid))


def count_rows_written(session: Session, database: str) -> int:
    """Return how many rows were ever written in a database, when nobody is there any more."""
    return int(session.value(_COUNT, [database]))
