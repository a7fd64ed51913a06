"""The clones that ``pgsnap run`` leads commands to.

They are open, since a command comes by connections of its own. So one is known by its record, and
is in use as long as somebody holds the lock of its name.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from ..postgres.advisory_locks import release_lock, try_acquire_lock
from ..postgres.session import Session
from .catalog import load_catalog


def drop_abandoned_runs(session: Session) -> None:
    """Drop the clones whose command is gone, however it went, unless they shall stay."""
    for database in load_catalog(session).runs():
        if not database.record.kept and try_acquire_lock(session, database.name):
            drop_run(session, database.name)


def drop_run(session: Session, name: str) -> None:
    """Drop a clone whose lock is held, with the sessions that are left on it."""
    if session.broken:
        return  # the next run drops it
    try:
        session.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
    except psycopg.errors.InsufficientPrivilege:
        # Somebody whom we may not end is on it; when they have left, the next run drops it.
        return
    release_lock(session, name)
