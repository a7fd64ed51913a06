"""Visits: what the server counts of a database that tells whether somebody has been there."""

from __future__ import annotations

from typing import Any, Final

from psycopg import sql

from ..session import Session

Visits = tuple[Any, ...]

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


def count(session: Session, name: str) -> Visits:
    """Return what the server has counted of a database, nothing if it is not there."""
    found = session.rows(_VISITS, [name])
    return found[0] if found else ()


def has_counted(before: Visits, now: Visits) -> bool:
    """Tell whether it was the same database, and the server has not lost count of it since."""
    return before[:_SAME] == now[:_SAME]
