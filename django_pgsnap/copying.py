"""Making clones: several at once, as of one moment, with another try where that can help."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from . import cloning
from .errors import CopyFailedError, DatabaseBusyError
from .eviction import Evictor
from .growth import Growth
from .jobs import Job
from .metadata import Strategy
from .report import Reporter
from .sessions import backends
from .stillness import Gate, NotStillError
from .supervise import run_together

_LOOK_S: Final = 0.02
# Nobody is to be kept waiting for longer than it takes.
_LOOK_AT_GATE_S: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class Copied:
    """How a clone was made: by which strategy, and in how many seconds."""

    strategy: Strategy
    seconds: float


def copy(jobs: Sequence[Job], reporter: Reporter, *, step: str = "") -> list[Copied]:
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
    step = step or f"Copying {', '.join(job.clone.source for job in jobs)}"
    while True:
        _empty(jobs)
        reporter.step(step)
        attempt = _Attempt(jobs, reporter)
        errors = attempt.run()
        if not any(errors):
            return attempt.results()
        attempt.undo(errors)
        jobs = _revised(jobs, errors)


class _Attempt:
    """One try at making all clones."""

    def __init__(self, jobs: Sequence[Job], reporter: Reporter) -> None:
        self._jobs = jobs
        self._reporter = reporter
        self._gate = Gate(jobs)
        watchers = {job.server: job.watcher for job in jobs}
        self._growth = {server: Growth(watcher) for server, watcher in watchers.items()}
        self._seconds = 0.0

    def run(self) -> list[BaseException | None]:
        for job in self._jobs:
            job.clone.prepare(job.session)
        started = time.monotonic()
        work = [(job.session, job.clone.statement) for job in self._jobs]
        try:
            with self._gate:
                errors = run_together(work, meanwhile=self._look, every_s=self._pause_s)
                self._gate.check(errors)
                return errors
        except NotStillError as error:
            self.undo([None] * len(self._jobs))
            return [error] * len(self._jobs)
        except BaseException:
            self.undo([None] * len(self._jobs))
            raise
        finally:
            self._seconds = time.monotonic() - started

    def _pause_s(self) -> float:
        return _LOOK_S if self._gate.is_open else _LOOK_AT_GATE_S

    def results(self) -> list[Copied]:
        return [
            Copied(strategy=job.clone.strategy, seconds=round(self._seconds, 3))
            for job in self._jobs
        ]

    def undo(self, errors: Sequence[BaseException | None]) -> None:
        """Drop what this try completed; what it did not complete is not there."""
        for job, error in zip(self._jobs, errors, strict=True):
            if error is None and not job.session.broken:
                job.session.execute(cloning.drop(job.clone.name))

    def _look(self) -> None:
        for evictor in _evictors(self._jobs):
            evictor.pass_once()
        if not self._gate.is_open:
            self._gate.open_if_still()
            return
        done = [growth.done_bytes() for growth in self._growth.values()]
        known = [part for part in done if part is not None]
        self._reporter.copied(
            sum(known) if len(known) == len(done) else None,
            sum(job.size_bytes for job in self._jobs),
        )


def _empty(jobs: Sequence[Job]) -> None:
    for evictor in _evictors(jobs):
        evictor.empty()


def _evictors(jobs: Sequence[Job]) -> Iterable[Evictor]:
    """Return each evictor once; the jobs of a server share one."""
    return {id(job.evictor): job.evictor for job in jobs if job.evictor}.values()


def _revised(jobs: Sequence[Job], errors: Sequence[BaseException | None]) -> list[Job]:
    """Return what to try next after these errors, or raise what ends it."""
    serious = [
        (job, error)
        for job, error in zip(jobs, errors, strict=True)
        if error is not None and not isinstance(error, psycopg.errors.QueryCanceled)
    ] or [(job, error) for job, error in zip(jobs, errors, strict=True) if error is not None]
    for job, error in serious:
        if isinstance(error, psycopg.errors.ObjectInUse | NotStillError):
            if job.evictor is None or job.evictor.overdue:
                raise _busy(job) from error
        elif job.clone.strategy == "clone" and cloning.refuses_to_clone(error):
            return [_without_sharing(job) for job in jobs]
        else:
            raise _explained(job, error) from error
    return list(jobs)


def _without_sharing(job: Job) -> Job:
    if job.clone.strategy != "clone":
        return job
    return replace(job, clone=replace(job.clone, strategy="file_copy"))


def _busy(job: Job) -> DatabaseBusyError:
    left = backends(job.watcher, [job.clone.source])
    names = "".join(f"\n  {backend}" for backend in left)
    return DatabaseBusyError(
        f"Other sessions are using {job.clone.source!r}:{names or ' some that are starting.'}",
        hint="Finish or close them, wait longer with --wait, or end them with --force.",
    )


def _explained(job: Job, error: BaseException) -> BaseException:
    clone = job.clone
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return error  # the operation knows how to find out who holds the lock
    if isinstance(error, psycopg.errors.DiskFull):
        return CopyFailedError(
            f"The server's disk is full: no room for another {job.size_bytes:,} bytes to copy "
            f"{clone.source!r}. Nothing has changed.",
            hint="Delete snapshots that you do not need (pgsnap list, pgsnap delete), "
            "or keep no spares (PGSNAP['SPARE'] = False).",
        )
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return CopyFailedError(
            f"The server could not copy {clone.source!r}: {error.diag.message_primary} "
            f"({error.sqlstate}). Nothing has changed.",
            hint=error.diag.message_hint or error.diag.message_detail or "See the server's log.",
        )
    if isinstance(error, psycopg.OperationalError):
        return CopyFailedError(
            f"The connection was lost while copying {clone.source!r}: {error}".strip(),
            hint="If the server carried on, the unfinished copy is removed by the next command.",
        )
    return error
