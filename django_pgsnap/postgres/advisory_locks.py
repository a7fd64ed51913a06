"""Advisory locks: one operation at a time per live database, and who holds the lock.

A lock belongs to a database's name. The session that does the work holds it, so it is free when
that session is gone, however it ended.

The server keeps advisory locks apart by the database that a session is connected to, and not all
projects work from the same maintenance database. So a session that has got a lock looks whether
another holds it in another database, and then gives it back. Both take the lock before they look,
so two never miss each other.
"""

import hashlib
import math
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from ..conf import config
from ..errors import OperationRunningError
from ..messages import Message, describe_wait, message
from ..reporting import Reporter
from .session import Session

_POLL_S: Final = 0.01
_LONGEST_POLL_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class LockHolder:
    pid: int
    user: str
    application: str
    # How long its statement or transaction has run; None where our role may not see.
    seconds: float | None
    # Whether its role is neither ours nor a superuser. Every role can hold every advisory lock, at
    # work or not.
    is_stranger: bool = False
    key: int = 0  # of the advisory lock; 0 for another one

    def __str__(self) -> Message:
        """Return who it is, and for how long it has been at work."""
        known = self.seconds is not None
        return message(
            "pid {pid}, role {role!r}{doubt}, {application!r}{since}",
            pid=self.pid,
            role=self.user,
            application=self.application,
            doubt=message(", which may hold the lock without working") if self.is_stranger else "",
            since=message(", for {seconds:.0f} s", seconds=self.seconds) if known else "",
        )


# An advisory lock's 64-bit key is split over two columns (manual, pg_locks).
_HOLDERS: Final = sql.SQL(
    "SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),"
    " extract(epoch FROM clock_timestamp() - a.query_start)::float,"
    " coalesce(a.usename <> current_user, false) AND NOT coalesce(r.rolsuper, false),"
    " (l.classid::bigint << 32) | l.objid::bigint"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " LEFT JOIN pg_roles r ON r.oid = a.usesysid"
    " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
)

# What a CASE has not come to is not evaluated: first it takes the lock, then it looks. The function
# takes a new session less time than the view pg_locks does.
_TRY: Final = sql.SQL(
    "SELECT CASE WHEN pg_try_advisory_lock(%(key)s) THEN NOT EXISTS ("
    "SELECT FROM pg_lock_status() WHERE locktype = 'advisory' AND objsubid = 1"
    " AND granted AND (classid::bigint << 32) | objid::bigint = %(key)s"
    " AND database <> (SELECT oid FROM pg_database WHERE datname = current_database())) END"
)

# CREATE DATABASE holds this on its template. Clients that connect there wait for its end, however
# long that takes: time-outs do not apply during connection startup.
_KEEPS_CLIENTS_OUT: Final = sql.SQL(
    "SELECT EXISTS (SELECT FROM pg_lock_status() WHERE locktype = 'object' AND granted"
    " AND classid = 'pg_database'::regclass AND mode = 'ShareLock' AND objid ="
    " (SELECT oid FROM pg_database WHERE datname = %s))"
)

# CREATE, ALTER, COMMENT and GRANT hold one of these until their transaction ends. Before 16 a GRANT
# does not, but the row that it replaces says by which transaction.
_CATALOG_HOLDERS: Final = sql.SQL(
    "SELECT DISTINCT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),"
    " extract(epoch FROM statement_timestamp() - a.xact_start)::float"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND"
    " (l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = ANY"
    "   (SELECT oid FROM pg_database WHERE datname = ANY(%(names)s))"
    "   AND l.mode <> 'RowExclusiveLock'"
    " OR l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'"
    "   AND l.relation IN ('pg_database'::regclass, 'pg_db_role_setting'::regclass)"
    " OR l.locktype = 'transactionid' AND l.transactionid IN"
    "   (SELECT xmax FROM pg_database WHERE datname = ANY(%(names)s)))"
    " AND l.pid <> ALL(%(ours)s) ORDER BY a.pid"
)

_RELEASE_OTHERS: Final = sql.SQL(
    "SELECT pg_advisory_unlock(key) FROM ("
    "SELECT (classid::bigint << 32) | objid::bigint AS key FROM pg_locks"
    " WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()"
    ") held WHERE key <> %s"
)


def acquire_lock(
    session: Session, database: str, wait_s: float, reporter: Reporter | None = None
) -> None:
    """Take the lock of a live database, or refuse once another operation held it for so long."""
    if try_acquire_lock(session, database):
        return
    if wait_s:
        if reporter is not None and (other := read_lock_holder(session, database)):
            who = message("another operation: {holder}", holder=other)
            reporter.wait(describe_wait(wait_s, who))
        if _wait(session, database, wait_s, reporter):
            return
    raise OperationRunningError(
        "Another snapshot operation is at work on the database {database!r}: {holder}.",
        hint="Wait for it, give more time with --wait, or end it with SELECT "
        "pg_terminate_backend(pid).",
        database=database,
        holder=describe_lock_holder(session, database),
    )


def try_acquire_lock(session: Session, database: str) -> bool:
    """Take a database's lock if it is free, and tell whether it was."""
    is_free_elsewhere = session.value(_TRY, {"key": lock_key(database)})
    if is_free_elsewhere is False:
        release_lock(session, database)
    return bool(is_free_elsewhere)


@contextmanager
def lock_if_free(session: Session, *databases: str) -> Iterator[bool]:
    """Hold databases' locks if all of them are free, and tell whether they are."""
    with ExitStack() as stack:
        for database in databases:
            if not try_acquire_lock(session, database):
                yield False
                return
            stack.callback(release_lock, session, database)
        yield True


def wait_for_lock(session: Session, database: str, reporter: Reporter | None = None) -> bool:
    """Take a database's lock, however long that takes, and tell whether it was taken.

    A holder that may be at no work at all is waited for no longer than the setting ``WAIT_S``. The
    reporter may end the wait.
    """
    holder = read_lock_holder(session, database)
    is_stranger = holder is not None and holder.is_stranger
    wait_s = config().wait_s if is_stranger else math.inf
    # All workers of a test run may wait for the template that one of them makes.
    return _wait(session, database, wait_s, reporter, longest_pause_s=_LONGEST_POLL_S)


def _wait(
    session: Session,
    database: str,
    wait_s: float,
    reporter: Reporter | None,
    *,
    longest_pause_s: float = _POLL_S,
) -> bool:
    deadline, pause_s = time.monotonic() + wait_s, _POLL_S
    while not try_acquire_lock(session, database):
        if time.monotonic() >= deadline:
            return False
        if reporter is not None:
            reporter.still_waiting()
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, longest_pause_s)
    return True


def release_lock(session: Session, database: str) -> None:
    session.rows(sql.SQL("SELECT pg_advisory_unlock(%s)"), [lock_key(database)])


def release_other_locks(session: Session, database: str) -> None:
    """Give back every lock that a session holds, but one database's."""
    session.rows(_RELEASE_OTHERS, [lock_key(database)])


def read_lock_holders(session: Session) -> dict[int, LockHolder]:
    """Return who holds which advisory lock, by its key."""
    return {holder.key: holder for holder in session.values(LockHolder, _HOLDERS)}


def wait_until_connectable(session: Session, database: str, wait_s: float) -> None:
    """Wait for so many seconds until clients can connect to a database that somebody is copying."""
    deadline = time.monotonic() + wait_s
    while session.value(_KEEPS_CLIENTS_OUT, [database]):
        if time.monotonic() >= deadline:
            raise psycopg.errors.LockNotAvailable(database)
        time.sleep(_POLL_S)


def read_catalog_lock_holders(
    session: Session, databases: Collection[str], ours: Collection[int]
) -> list[LockHolder]:
    """Return who holds locks on databases' catalog entries, but for sessions with pids of ours."""
    parameters = {"names": list(databases), "ours": [*ours, session.pid]}
    return session.values(LockHolder, _CATALOG_HOLDERS, parameters)


def describe_lock_holder(session: Session, database: str) -> LockHolder | Message:
    return read_lock_holder(session, database) or message("it has just ended")


def read_lock_holder(session: Session, database: str) -> LockHolder | None:
    return read_lock_holders(session).get(lock_key(database))


def lock_key(database: str) -> int:
    """Return the advisory lock key (signed 64 bits) that stands for a database's name."""
    digest = hashlib.sha256(b"django_pgsnap:" + database.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
