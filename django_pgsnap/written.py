"""Whether a live database was written since a restore put it there.

The server counts the rows that are inserted, updated and deleted in a database, catalogs included
(manual, pg_stat_database). A database that a swap put in place starts at zero, and a session's
counts are complete once its backend is gone. Where there is any doubt it counts as written.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from .catalog import Database
from .inspection import sequences_digest
from .locks import wait_until_open
from .metadata import Record
from .server import Server
from .session import Query, Session
from .sessions import visit

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


def epoch(session: Session) -> str:
    """Return when the server's statistics began."""
    return str(session.value(_EPOCH))


def rows(oid: sql.Composable) -> Query:
    """Return the expression for how many rows were ever written in the database with this oid."""
    return _ROWS.format(oid=oid)


def untouched(oid: int) -> Query:
    """Return the condition that no row was written in the database with this oid."""
    return _UNTOUCHED.format(rows=rows(sql.Literal(oid)), oid=sql.Literal(oid))


def count(session: Session, database: str) -> int:
    """Return how many rows were ever written in a database, when nobody is there any more."""
    return int(session.value(_COUNT, [database]))


def is_unwritten(
    session: Session, server: Server, live: Database, undo: Record, wait_s: float
) -> bool:
    """Tell whether the live database is for sure what the last restore made it.

    Sequences can be set without any row being written, so they are read too, from inside. Call
    this when the sessions on the live database have been ended.

    Args:
        session: A maintenance session.
        server: The server, to connect to the live database.
        live: The live database.
        undo: What the last restore left, which says what it put in place.
        wait_s: How long to wait for somebody who copies the live database, in seconds.

    Raises:
        HeldTooLongError: The copy takes longer.
    """
    if (
        undo.successor_oid != live.oid
        or not undo.successor_sequences
        or not session.value(sql.SQL("SELECT {}").format(untouched(live.oid)))
        or undo.statistics_epoch != epoch(session)
    ):
        return False
    wait_until_open(session, live.name, wait_s)
    with visit(server, session, live.name, "comparing sequences") as inside:
        return sequences_digest(inside) == undo.successor_sequences
