"""Making clones: several at once, as of one moment, with another try where that can help."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from . import cloning
from .cloning import Clone
from .errors import CopyFailedError, DatabaseBusyError
from .eviction import Evictor
from .growth import Growth
from .metadata import Strategy
from .report import Reporter
from .server import Server
from .session import Session
from .sessions import backends
from .supervise import run_together

# On a busy machine, small copies on two servers often miss each other; each try takes a moment.
_MOMENT_TRIES: Final = 100
_LOOK_S: Final = 0.02
_LOOK_FOR_MOMENT_S: Final = 0.001

# CREATE DATABASE holds this lock on its template until it ends, which keeps clients out.
_HELD: Final = sql.SQL(
    "SELECT d.datname FROM pg_locks l JOIN pg_database d ON d.oid = l.objid"
    " WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass"
    " AND l.mode = 'ShareLock' AND l.granted AND l.pid = ANY(%s)"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clone to make.

    Attributes:
        clone: What to make from what.
        size_bytes: How large the source is.
        session: The session that makes it, and holds the lock of its name.
        watcher: Another session on the same server, to look at it meanwhile.
        server: That server.
        evictor: Keeps the source empty; None where the source is shut anyway.
    """

    clone: Clone
    size_bytes: int
    session: Session
    watcher: Session
    server: Server
    evictor: Evictor | None


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
    for _ in range(_MOMENT_TRIES):
        _empty(jobs)
        reporter.step(step)
        attempt = _Attempt(jobs, reporter)
        errors = attempt.run()
        if not any(errors) and attempt.shows_one_moment:
            return attempt.results()
        attempt.undo(errors)
        jobs = _revised(jobs, errors)
    databases = ", ".join(repr(job.clone.source) for job in jobs)
    raise CopyFailedError(
        f"The copies of {databases} were not seen to show the same moment in {_MOMENT_TRIES} "
        "tries: the servers are too busy, or clients keep coming back in between. "
        "Nothing has changed.",
        hint="Stop the busiest client, then try again.",
    )


class _Attempt:
    """One try at making all clones."""

    def __init__(self, jobs: Sequence[Job], reporter: Reporter) -> None:
        self._jobs = jobs
        self._reporter = reporter
        # A clone of a shut copy shows that copy's moment, whenever it is made.
        self._live = [job for job in jobs if job.evictor]
        self.shows_one_moment = len(self._live) < 2  # noqa: PLR2004  # one is one moment
        watchers = {job.server: job.watcher for job in jobs}
        self._growth = {server: Growth(watcher) for server, watcher in watchers.items()}
        self._seconds = 0.0

    def run(self) -> list[BaseException | None]:
        for job in self._jobs:
            job.clone.prepare(job.session)
        started = time.monotonic()
        work = [(job.session, job.clone.statement) for job in self._jobs]
        try:
            return run_together(work, meanwhile=self._look, every_s=self._pause_s)
        except BaseException:
            self.undo([None] * len(self._jobs))
            raise
        finally:
            self._seconds = time.monotonic() - started

    def _pause_s(self) -> float:
        # Small copies take a few milliseconds, and their moment must not be missed.
        return _LOOK_S if self.shows_one_moment else _LOOK_FOR_MOMENT_S

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
        if not self.shows_one_moment:
            # Nothing else meanwhile: small copies are soon complete.
            self.shows_one_moment = self._all_held_still()
            return
        done = [growth.done_bytes() for growth in self._growth.values()]
        known = [part for part in done if part is not None]
        self._reporter.copied(
            sum(known) if len(known) == len(done) else None,
            sum(job.size_bytes for job in self._jobs),
        )

    def _all_held_still(self) -> bool:
        """Tell whether there was a moment at which every live database was held still.

        That is when each is locked by its CREATE DATABASE and nobody is left on it: from then on
        it does not change until its copy is complete. Those that were all locked both before and
        after each was seen empty were so together when the last was seen, across servers too.
        """
        groups = self._live_by_server()
        return (
            all(_are_locked(jobs) for jobs in groups)
            and not any(backends(jobs[0].watcher, _sources(jobs)) for jobs in groups)
            and all(_are_locked(jobs) for jobs in groups)
        )

    def _live_by_server(self) -> list[list[Job]]:
        groups: dict[Server, list[Job]] = {}
        for job in self._live:
            groups.setdefault(job.server, []).append(job)
        return list(groups.values())


def _are_locked(jobs: Sequence[Job]) -> bool:
    """Tell whether the makers of these jobs, all on one server, hold their sources' locks."""
    makers = [job.session.pid for job in jobs]
    return _sources(jobs) <= {name for (name,) in jobs[0].watcher.rows(_HELD, [makers])}


def _sources(jobs: Sequence[Job]) -> set[str]:
    return {job.clone.source for job in jobs}


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
        if isinstance(error, psycopg.errors.ObjectInUse):
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
        f"Other sessions are using {job.clone.source!r}:{names}",
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
