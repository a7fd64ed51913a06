"""Advisory locks: one operation at a time per live database, and who holds the lock.

A lock belongs to a database's name. It is held by the very session that does the work, so it is
free when that session is gone, however it went.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from . import wording
from .errors import OperationRunningError
from .names import lock_key
from .report import Reporter
from .server import milliseconds
from .session import Session

_MOMENT_S: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The session that holds a lock.

    Attributes:
        pid: Process id of its backend.
        user: Its role.
        application: What it says it is doing.
        seconds: Since when its statement or transaction runs; None where our role may not see.
    """

    pid: int
    user: str
    application: str
    seconds: float | None

    def __str__(self) -> str:
        since = "" if self.seconds is None else f", for {self.seconds:.0f} s"
        return f"pid {self.pid}, role {self.user!r}, {self.application!r}{since}"


# An advisory lock's 64-bit key is split over two columns (manual, pg_locks).
_HOLDERS: Final = sql.SQL(
    "SELECT (l.classid::bigint << 32) | l.objid::bigint, a.pid, coalesce(a.usename, ''),"
    " coalesce(a.application_name, ''),"
    " extract(epoch FROM clock_timestamp() - a.query_start)::float"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

# CREATE, ALTER, COMMENT and GRANT hold one of these until their transaction ends.
_CATALOG_HOLDERS: Final = sql.SQL(
    "SELECT DISTINCT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),"
    " extract(epoch FROM clock_timestamp() - a.xact_start)::float"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND"
    " (l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = ANY"
    "   (SELECT oid FROM pg_database WHERE datname = ANY(%(names)s))"
    "   AND l.mode <> 'RowExclusiveLock'"
    " OR l.locktype = 'relation' AND l.relation = 'pg_database'::regclass"
    "   AND l.mode = 'RowExclusiveLock')"
    " AND l.pid <> ALL(%(ours)s) ORDER BY a.pid"
)

_RELEASE_OTHERS: Final = sql.SQL(
    "SELECT pg_advisory_unlock(key) FROM ("
    "SELECT (classid::bigint << 32) | objid::bigint AS key FROM pg_locks"
    " WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()"
    ") held WHERE key <> %s"
)


def acquire(
    session: Session, database: str, wait_s: float, reporter: Reporter | None = None
) -> None:
    """Take the lock of a live database, waiting for another operation to end.

    Args:
        session: The session that is to hold it.
        database: The live database's name.
        wait_s: How long to wait, in seconds.
        reporter: Who hears for whom it waits.

    Raises:
        OperationRunningError: It is still held after ``wait_s`` seconds.
    """
    if try_acquire(session, database):
        return
    if reporter is not None and wait_s and (other := holder(session, database)):
        reporter.wait(f"{wording.waiting(wait_s)} for another operation: {other}")
    try:
        # Without a wait, the look above was all.
        _wait(session, database, wait_s or _MOMENT_S)
    except psycopg.errors.LockNotAvailable as error:
        raise OperationRunningError(
            f"Another snapshot operation is at work on the database {database!r}: "
            f"{holder(session, database) or 'it has just ended'}.",
            hint="Wait for it, give more time with --wait, "
            "or end it with SELECT pg_terminate_backend(pid).",
        ) from error


def _wait(session: Session, database: str, timeout_s: float) -> None:
    # The time-out is gone again when this one statement is over.
    session.rows(
        sql.SQL("SELECT set_config('lock_timeout', %s, true), pg_advisory_lock(%s)"),
        [milliseconds(timeout_s), lock_key(database)],
    )


def try_acquire(session: Session, database: str) -> bool:
    """Take a database's lock if it is free, and tell whether it was."""
    return bool(session.value(sql.SQL("SELECT pg_try_advisory_lock(%s)"), [lock_key(database)]))


def wait_for(session: Session, database: str) -> None:
    """Take the lock of a database, however long it takes until it is free."""
    _wait(session, database, 0)


def wait_until_free(session: Session, database: str) -> None:
    """Wait until nobody holds a database's lock, however long it takes."""
    wait_for(session, database)
    release(session, database)


def release(session: Session, database: str) -> None:
    """Give one database's lock back."""
    session.rows(sql.SQL("SELECT pg_advisory_unlock(%s)"), [lock_key(database)])


def keep_only(session: Session, database: str) -> None:
    """Give back every lock that a session holds, but one database's."""
    session.rows(_RELEASE_OTHERS, [lock_key(database)])


def holders(session: Session) -> dict[int, Holder]:
    """Return who holds which advisory lock, by its key."""
    return {
        key: Holder(pid=pid, user=user, application=application, seconds=seconds)
        for key, pid, user, application, seconds in session.rows(_HOLDERS)
    }


def catalog_holders(
    session: Session, databases: Collection[str], ours: Collection[int]
) -> list[Holder]:
    """Return who holds locks on databases' entries in the server's catalog.

    Args:
        session: The session to look from.
        databases: Names of the databases.
        ours: Process ids to leave out.
    """
    return [
        Holder(pid=pid, user=user, application=application, seconds=seconds)
        for pid, user, application, seconds in session.rows(
            _CATALOG_HOLDERS, {"names": list(databases), "ours": [*ours, session.pid]}
        )
    ]


def holder(session: Session, database: str) -> Holder | None:
    """Return who holds a database's lock."""
    return holders(session).get(lock_key(database))
