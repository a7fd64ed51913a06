"""One moment for several copies: none begins before all of their databases are still.

A COMMENT on a database that is not committed lets clients come and go, but no CREATE DATABASE copy
it. While one waits for that, the server has newcomers queue behind it. So once all copies wait, and
who was on the databases or on the way there has left, nothing changes in any of them before it is
copied. From here on the copies may begin in any order, on several servers too.

The locks are those of the manual's "Explicit Locking": COMMENT takes SHARE UPDATE EXCLUSIVE on the
database, CREATE DATABASE takes SHARE, and a new session takes ROW EXCLUSIVE while it starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final, Self

import psycopg
from psycopg import sql

from ..postgres.backends import Backend, BlockedTimer, read_backends
from ..postgres.session import Query, Session
from ..postgres.targets import group_by_server
from .strategy import CopyJob

# However slow the machine is, the server itself gives clients no longer to leave.
_LONGEST_S: Final = 5.0

# One look at the locks: whether every copy waits, and no new session is still starting.
_NOBODY_CAN_COME: Final = sql.SQL(
    "SELECT count(*) FILTER (WHERE mode = 'ShareLock' AND NOT granted AND pid = ANY(%(makers)s))"
    " = cardinality(%(makers)s)"
    " AND count(*) FILTER (WHERE mode = 'RowExclusiveLock' AND granted) = 0"
    " FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass"
    " AND objid IN (SELECT oid FROM pg_database WHERE datname = ANY(%(sources)s))"
)


class NotQuietError(Exception):
    """The databases were not still for as long as clients may be kept waiting for that."""


class CopyBarrier:
    """Keeps copies of several live databases from beginning before all of these are still.

    One alone is one moment anyway, and a copy that is shut shows its own whenever it is cloned: for
    those the barrier is open.
    """

    def __init__(self, jobs: Sequence[CopyJob]) -> None:
        live = [job for job in jobs if job.terminator]
        self._jobs = group_by_server(live) if len(live) > 1 else {}
        self._holders: list[Session] = []
        self._stack = ExitStack()
        self._blocked = BlockedTimer()
        self._deadline = 0.0
        self.is_open = not self._jobs

    def __enter__(self) -> Self:
        """Shut it.

        Raises:
            LockNotAvailable: Others have not committed what they changed of a database in time.
            ServerUnavailableError: A server has no room for another session.
        """
        with ExitStack() as stack:
            for server, jobs in self._jobs.items():
                wait_s = max(_remaining_s(job) for job in jobs)
                holder = server.session("holding still", lock_timeout_s=wait_s)
                self._holders.append(stack.enter_context(holder))
                holder.execute(_hold_statement(_sources(jobs)))
            self._stack = stack.pop_all()
        self._blocked = BlockedTimer()
        self._deadline = time.monotonic() + _LONGEST_S
        return self

    def __exit__(self, *_: object) -> None:
        # At once: the next try is not to wait until the server has noticed that we are gone.
        with suppress(psycopg.Error):
            self._let_go()
        self._stack.close()

    def open_if_still(self) -> None:
        """Let the copies begin, if the databases are still.

        Raises:
            NotStillError: It is time to let the clients go on that queue meanwhile.
            OperationalError: The session that holds a database is lost; its copy may have begun.
        """
        nobody_can_come = all(_nobody_can_come(jobs) for jobs in self._jobs.values())
        # Looked at second: who has ended starting since is seen here.
        present = [each for jobs in self._jobs.values() for each in _present(jobs)]
        if nobody_can_come and not present:
            self._let_go()
            self.is_open = True
        elif self._blocked.is_over(present) or time.monotonic() >= self._deadline:
            raise NotQuietError

    def _let_go(self) -> None:
        while self._holders:
            self._holders.pop().execute(sql.SQL("ROLLBACK"))

    def check(self, errors: Sequence[BaseException | None]) -> None:
        """Refuse copies that were made though the barrier was shut.

        Raises:
            NotStillError: The session that held their databases was ended.
        """
        if not self.is_open and not any(errors):
            raise NotQuietError


def _nobody_can_come(jobs: Sequence[CopyJob]) -> bool:
    """Tell whether all newcomers queue for the databases of these jobs, all on one server."""
    parameters = {"makers": [job.session.pid for job in jobs], "sources": _sources(jobs)}
    return bool(jobs[0].watcher.value(_NOBODY_CAN_COME, parameters))


def _present(jobs: Sequence[CopyJob]) -> list[Backend]:
    """Return who is on these databases."""
    return read_backends(jobs[0].watcher, _sources(jobs))


def _hold_statement(databases: Sequence[str]) -> Query:
    """Return what holds databases until it is rolled back, which it always is."""
    comment = sql.SQL("COMMENT ON DATABASE {} IS NULL")
    held = [comment.format(sql.Identifier(name)) for name in databases]
    return sql.SQL("; ").join([sql.SQL("BEGIN"), *held])


def _sources(jobs: Sequence[CopyJob]) -> list[str]:
    """Return the names of the databases to copy, in the order in which all take their locks."""
    return sorted(job.clone.source for job in jobs)


def _remaining_s(job: CopyJob) -> float:
    return job.terminator.remaining_s if job.terminator else 0.0
