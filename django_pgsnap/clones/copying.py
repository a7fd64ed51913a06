"""A clone to make, and with what: the sessions and the manners that it takes.

Making clones: several at once, as of one moment, with another try where that can help.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from ..errors import CopyFailedError, DatabaseBusyError
from ..messages import join_messages, message
from ..postgres.backends import BUSY_HINT, BackendTerminator, read_backends
from ..postgres.data_directory import DirectoryGrowth
from ..postgres.parallel import run_together
from ..reporting import Reporter
from .barrier import CopyBarrier, NotQuietError
from .records import Strategy
from .strategy import CopyJob, drop_database, is_refusal_to_share_blocks

# An estimate never says that it is done.
_MOST_ESTIMATED: Final = 0.95
_LOOK_S: Final = 0.02
# Nobody is to be kept waiting for longer than it takes.
_LOOK_AT_BARRIER_S: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """How a clone was made: by which strategy, and in how many seconds."""

    strategy: Strategy
    seconds: float


def copy_databases(
    jobs: Sequence[CopyJob], reporter: Reporter, *, step: str = ""
) -> list[CopyResult]:
    """Make all clones at the same time; those of live databases show one moment.

    Sessions on the live databases are ended first, and kept away meanwhile. If a clone fails, the
    others are cancelled, and those that were complete are dropped.

    Args:
        jobs: The clones to make.
        reporter: Who hears for whom it waits, and how far it is.
        step: What to call it; empty for what is copied.

    Raises:
        DatabaseBusyError: Sessions stayed on a live database.
        CopyFailedError: The server gave up, for lack of disk space for instance.
    """
    jobs = list(jobs)
    sources = ", ".join(job.clone.source for job in jobs)
    step = step or message("Copying {databases}", databases=sources)
    while True:
        _clear_sources(jobs)
        reporter.step(step)
        attempt = _Attempt(jobs, reporter)
        errors = attempt.run()
        if not any(errors):
            return attempt.results()
        attempt.undo(errors)
        jobs = _revised(jobs, errors)


class _Attempt:
    """One try at making all clones."""

    def __init__(self, jobs: Sequence[CopyJob], reporter: Reporter) -> None:
        self._jobs = jobs
        self._reporter = reporter
        self._barrier = CopyBarrier(jobs)
        watchers = {job.server: job.watcher for job in jobs}
        self._growth = {server: DirectoryGrowth(watcher) for server, watcher in watchers.items()}
        self._seconds = 0.0
        self._copying_since = 0.0

    def run(self) -> list[BaseException | None]:
        for job in self._jobs:
            job.clone.prepare(job.session)
        started = time.monotonic()
        work = [(job.session, job.clone.statement) for job in self._jobs]
        try:
            with self._barrier:
                errors = run_together(work, meanwhile=self._look, every_s=self._pause_s)
                self._barrier.check(errors)
                return errors
        except NotQuietError as error:
            self.undo([None] * len(self._jobs))
            return [error] * len(self._jobs)
        except BaseException:
            self.undo([None] * len(self._jobs))
            raise
        finally:
            self._seconds = time.monotonic() - started

    def _pause_s(self) -> float:
        return _LOOK_S if self._barrier.is_open else _LOOK_AT_BARRIER_S

    def results(self) -> list[CopyResult]:
        return [
            CopyResult(strategy=job.clone.strategy, seconds=round(self._seconds, 3))
            for job in self._jobs
        ]

    def undo(self, errors: Sequence[BaseException | None]) -> None:
        """Drop what this try completed; what it did not complete is not there."""
        for job, error in zip(self._jobs, errors, strict=True):
            if error is None and not job.session.broken:
                job.session.execute(drop_database(job.clone.name))

    def _look(self) -> None:
        for terminator in _terminators(self._jobs):
            terminator.end_idle_backends()
        if not self._barrier.is_open:
            self._barrier.open_if_still()
            self._reporter.still_waiting()
            return
        done = [growth.done_bytes() for growth in self._growth.values()]
        known = [part for part in done if part is not None]
        self._reporter.copied(
            sum(known) if len(known) == len(done) else self._estimated_bytes(),
            sum(job.size_bytes for job in self._jobs),
        )

    def _estimated_bytes(self) -> int | None:
        """Return how much is copied by now, going by earlier copies; None where there were none."""
        if not all(job.bytes_per_s for job in self._jobs):
            return None
        self._copying_since = self._copying_since or time.monotonic()
        elapsed_s = time.monotonic() - self._copying_since
        return sum(
            int(min(job.size_bytes * _MOST_ESTIMATED, job.bytes_per_s * elapsed_s))
            for job in self._jobs
        )


def _clear_sources(jobs: Sequence[CopyJob]) -> None:
    for terminator in _terminators(jobs):
        terminator.empty_databases()


def _terminators(jobs: Sequence[CopyJob]) -> Iterable[BackendTerminator]:
    """Return each terminator once; the jobs of a server share one."""
    return {id(job.terminator): job.terminator for job in jobs if job.terminator}.values()


def _revised(jobs: Sequence[CopyJob], errors: Sequence[BaseException | None]) -> list[CopyJob]:
    """Return what to try next after these errors, or raise what ends it."""
    serious = [
        (job, error)
        for job, error in zip(jobs, errors, strict=True)
        if error is not None and not isinstance(error, psycopg.errors.QueryCanceled)
    ] or [(job, error) for job, error in zip(jobs, errors, strict=True) if error is not None]
    for job, error in serious:
        if isinstance(error, psycopg.errors.ObjectInUse | NotQuietError):
            if job.terminator is None or job.terminator.is_overdue:
                raise _busy_error(job) from error
        elif job.clone.strategy == "clone" and is_refusal_to_share_blocks(error):
            return [_without_sharing(job) for job in jobs]
        else:
            raise _explain_error(job, error) from error
    return list(jobs)


def _without_sharing(job: CopyJob) -> CopyJob:
    if job.clone.strategy != "clone":
        return job
    return replace(job, clone=replace(job.clone, strategy="file_copy"))


def _busy_error(job: CopyJob) -> DatabaseBusyError:
    left = read_backends(job.watcher, [job.clone.source])
    names = [backend.full_description for backend in left]
    return DatabaseBusyError(
        "Other sessions are using {source!r}:{names}",
        hint=BUSY_HINT,
        source=job.clone.source,
        names=join_messages("\n  ", ["", *names]) or message(" some that are starting."),
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
