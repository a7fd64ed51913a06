"""Making clones: several at once, as of one moment, with another try where that can help.

For one moment, no copy begins before all of the databases are still. An uncommitted COMMENT blocks
CREATE DATABASE, but not connections. Once CREATE DATABASE is waiting, new connections queue behind
it. So once all copies wait, and nobody is connected any more, nothing changes in any database
before it is copied. From here on copies may begin in any order, on several servers too.

The locks are those of the manual's "Explicit Locking": COMMENT takes SHARE UPDATE EXCLUSIVE on the
database, CREATE DATABASE takes SHARE, and a new session takes ROW EXCLUSIVE while it starts.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final, Self

import psycopg
from psycopg import sql

from ..errors import CopyFailedError, DatabaseBusyError
from ..messages import join_messages, message
from ..postgres.backends import BUSY_HINT, BackendTerminator, BlockedTimer, read_backends
from ..postgres.data_directory import list_unfinished, measure_growth
from ..postgres.session import Session, run_together
from ..postgres.targets import group_by_server
from ..reporting import Reporter
from .strategy import is_refusal_to_share_blocks
from .transitions import CopyJob, comment_on_database, drop_database, join_statements

# An estimate never says that it is done.
_MOST_ESTIMATED: Final = 0.95
_LOOK_S: Final = 0.05
# Nobody is to be kept waiting for longer than it takes.
_LOOK_AT_BARRIER_S: Final = 0.001


def copy_databases(
    jobs: Sequence[CopyJob], reporter: Reporter, *, step: str = ""
) -> tuple[Sequence[CopyJob], float]:
    """Make all clones at the same time; those of live databases show one moment.

    Sessions on the live databases are ended first, and kept away meanwhile. If a clone fails, the
    others are cancelled, and those that were complete are dropped. Returned are the jobs as they
    were done, by another strategy perhaps, and how many seconds all took.

    Raises:
        DatabaseBusyError: Sessions stayed on a live database.
        CopyFailedError: The server gave up, for lack of disk space for instance.
    """
    sources = ", ".join(job.clone.source for job in jobs)
    step = step or message("Copying {databases}", databases=sources)
    while True:
        for terminator in list_terminators(jobs):
            terminator.empty_databases()
        reporter.step(step)
        attempt = _Attempt(jobs, reporter)
        errors = attempt.run()
        if not any(errors):
            return jobs, round(attempt.seconds, 3)
        jobs = _revised(jobs, errors)


class _Attempt:
    def __init__(self, jobs: Sequence[CopyJob], reporter: Reporter) -> None:
        self._jobs = jobs
        self._reporter = reporter
        self._barrier = CopyBarrier(jobs)
        self._before = {watcher: list_unfinished(watcher) for watcher in {j.watcher for j in jobs}}
        self.seconds = self._copying_since = 0.0

    def run(self) -> list[BaseException | None]:
        """Make all clones, or none, and return what each failed with."""
        for job in self._jobs:
            job.clone.prepare(job.session)
        started = time.monotonic()
        work = [(job.session, job.clone.statement) for job in self._jobs]
        try:
            with self._barrier:
                pause_s = _LOOK_S if self._barrier.is_open else _LOOK_AT_BARRIER_S
                errors = run_together(work, meanwhile=self._look, every_s=pause_s)
                self._barrier.check(errors)
        except BaseException as error:
            self._undo([None] * len(self._jobs))
            if not isinstance(error, NotQuietError):
                raise
            return [error] * len(self._jobs)
        self.seconds = time.monotonic() - started
        if any(errors):
            self._undo(errors)
        return errors

    def _undo(self, errors: Sequence[BaseException | None]) -> None:
        """Drop what this try completed; what it did not complete is not there."""
        for job, error in zip(self._jobs, errors, strict=True):
            if error is None and not job.session.broken:
                job.session.execute(drop_database(job.clone.name))

    def _look(self) -> float:
        """Keep the sources empty, and return how long to wait until the next look."""
        for terminator in list_terminators(self._jobs):
            terminator.end_idle_backends()
        if not self._barrier.is_open:
            self._barrier.open_if_still()
            self._reporter.still_waiting()
            return _LOOK_AT_BARRIER_S
        self._report()
        return _LOOK_S

    def _report(self) -> None:
        done = [measure_growth(*each) for each in self._before.items()]
        done_bytes = self._estimated_bytes() if None in done else sum(filter(None, done))
        self._reporter.copied(done_bytes, sum(job.size_bytes for job in self._jobs))

    def _estimated_bytes(self) -> int | None:
        if not all(job.bytes_per_s for job in self._jobs):
            return None
        self._copying_since = self._copying_since or time.monotonic()
        elapsed_s = time.monotonic() - self._copying_since
        return sum(
            int(min(job.size_bytes * _MOST_ESTIMATED, job.bytes_per_s * elapsed_s))
            for job in self._jobs
        )


def list_terminators(jobs: Sequence[CopyJob]) -> Iterable[BackendTerminator]:
    """Return each terminator once; the jobs of a server share one."""
    return {id(job.terminator): job.terminator for job in jobs if job.terminator}.values()


def _revised(jobs: Sequence[CopyJob], errors: Sequence[BaseException | None]) -> list[CopyJob]:
    """Return what to try next after these errors, or raise what ends it."""
    failed = [(job, error) for job, error in zip(jobs, errors, strict=True) if error is not None]
    # When one fails, the others are cancelled.
    causes = [each for each in failed if not isinstance(each[1], psycopg.errors.QueryCanceled)]
    for job, error in causes or failed:
        if isinstance(error, psycopg.errors.ObjectInUse | NotQuietError):
            if job.terminator is None or job.terminator.is_overdue:
                raise _busy_error(job) from error
        elif job.clone.strategy == "clone" and is_refusal_to_share_blocks(error):
            return [
                replace(each, clone=replace(each.clone, strategy="file_copy"))
                if each.clone.strategy == "clone"
                else each
                for each in jobs
            ]
        else:
            raise _explain_error(job, error) from error
    return list(jobs)


def _busy_error(job: CopyJob) -> DatabaseBusyError:
    left = read_backends(job.watcher, [job.clone.source])
    return DatabaseBusyError(
        "Other sessions are using {source!r}:{names}",
        hint=BUSY_HINT,
        source=job.clone.source,
        names=join_messages("\n  ", ["", *left]) or message(" some that are starting."),
    )


def _explain_error(job: CopyJob, error: BaseException) -> BaseException:
    clone = job.clone
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return error  # the operation knows how to find out who holds the lock
    if isinstance(error, psycopg.errors.DiskFull):
        return CopyFailedError(
            "The server's disk is full: no room for another {size_bytes:,} bytes to copy "
            "{source!r}. Nothing has changed.",
            hint="Delete snapshots that you do not need (./manage.py pgsnap delete), or keep "
            "no spares (PGSNAP['SPARES'] = 0).",
            size_bytes=job.size_bytes,
            source=clone.source,
        )
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return CopyFailedError(
            "The server could not copy {source!r}: {cause} ({sqlstate}). Nothing has changed.",
            hint=message(error.diag.message_hint or error.diag.message_detail or "")
            or message("See the server's log."),
            source=clone.source,
            cause=error.diag.message_primary,
            sqlstate=error.sqlstate,
        )
    if isinstance(error, psycopg.OperationalError):
        return CopyFailedError(
            "The connection was lost while copying {source!r}: {cause}",
            hint="If the server carried on, the unfinished copy is removed by the next command.",
            source=clone.source,
            cause=str(error).strip(),
        )
    return error


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

    A single copy shows one moment anyway, and so does one of a database that is shut: for those the
    barrier is open from the beginning.
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
        with ExitStack() as stack:
            for server, jobs in self._jobs.items():
                wait_s = max(job.terminator.remaining_s for job in jobs if job.terminator)
                holder = server.session("holding still", lock_timeout_s=wait_s)
                self._holders.append(stack.enter_context(holder))
                # It is always rolled back.
                comments = [comment_on_database(name, None) for name in _sources(jobs)]
                holder.execute(join_statements([sql.SQL("BEGIN"), *comments]))
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
        """Let the copies begin, if the databases are still."""
        nobody_can_come = all(map(_nobody_can_come, self._jobs.values()))
        # Looked at second: who has ended starting since is seen here.
        present = [
            backend
            for jobs in self._jobs.values()
            for backend in read_backends(jobs[0].watcher, _sources(jobs))
        ]
        if nobody_can_come and not present:
            self._let_go()
            self.is_open = True
        elif self._blocked.is_over(present) or time.monotonic() >= self._deadline:
            raise NotQuietError

    def _let_go(self) -> None:
        while self._holders:
            self._holders.pop().execute(sql.SQL("ROLLBACK"))

    def check(self, errors: Sequence[BaseException | None]) -> None:
        """Refuse copies that were made though the barrier was shut: its sessions were ended."""
        if not self.is_open and not any(errors):
            raise NotQuietError


def _nobody_can_come(jobs: Sequence[CopyJob]) -> bool:
    """Tell whether all newcomers queue for the databases of these jobs, all on one server."""
    parameters = {"makers": [job.session.pid for job in jobs], "sources": _sources(jobs)}
    return bool(jobs[0].watcher.value(_NOBODY_CAN_COME, parameters))


def _sources(jobs: Sequence[CopyJob]) -> list[str]:
    """Return the names of the databases to copy, in the order in which all take their locks."""
    return sorted(job.clone.source for job in jobs)
