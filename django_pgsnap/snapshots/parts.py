"""The parts of a take: one per live database, with what is known of it before it is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from .. import carryover, cloning, inspection, locks, names, properties, sessions
from ..cloning import Clone, Rates
from ..errors import ServerUnavailableError
from ..eviction import Evictor
from ..inspection import Contents
from ..jobs import Job
from ..metadata import Strategy
from ..properties import Properties
from ..report import Reporter
from ..session import Session
from ..targets import Target
from .site import Site


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a take was asked for; see `take`."""

    name: str
    note: str
    pinned: bool
    strategy: Strategy | None
    wait_s: float
    force: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """One live database's part of a take.

    Attributes:
        site: The server it is on.
        target: The live database.
        identity: Identity of the copy that will be.
        contents: What it holds.
        rates: How fast the server copied before.
        properties: What it is set up with.
        evictor: What keeps it empty; the parts of a server share one.
        job: How it is copied.
    """

    site: Site
    target: Target
    identity: str
    contents: Contents
    rates: Rates
    properties: Properties
    evictor: Evictor
    job: Job

    def put_properties(self, reporter: Reporter) -> None:
        """Set the clone up like the live database, and report what our role may not set."""
        watcher, name = self.site.watcher, self.job.clone.name
        (present,) = properties.read(watcher, name)
        for shortfall in carryover.put(watcher, self.properties, present, name):
            reporter.warn(str(shortfall))


def parts_of(site: Site, request: Request, reporter: Reporter) -> Iterator[Part]:
    """Look at each live database of a server, and decide how it is copied."""
    evictor = Evictor(
        site.watcher,
        site.sources,
        wait_s=request.wait_s,
        force=request.force,
        reporter=reporter,
    )
    rates = _rates(site)
    for target in site.targets:
        identity = names.new_identity()
        (present,) = properties.read(site.watcher, target.name)
        size = size_bytes(site.watcher, target.name)
        clone = Clone(
            source=target.name,
            name=names.unfinished_name(identity),
            owner=present.owner,
            strategy=request.strategy or cloning.best_strategy(site.watcher, size, rates),
        )
        cloning.check_strategy(site.watcher, clone.strategy)
        # Whoever sweeps leftovers sees by this lock that the clone is not one.
        locks.acquire(site.workers[target.alias], clone.name, request.wait_s)
        yield Part(
            site=site,
            target=target,
            identity=identity,
            contents=_inspect(site, target, request.wait_s, reporter),
            rates=rates,
            properties=present,
            evictor=evictor,
            job=Job(
                clone=clone,
                size_bytes=size,
                session=site.workers[target.alias],
                watcher=site.watcher,
                server=site.server,
                evictor=evictor,
            ),
        )


def size_bytes(session: Session, database: str) -> int:
    """Return what a database occupies on disk."""
    return int(session.value(sql.SQL("SELECT pg_database_size(%s)"), [database]))


def _rates(site: Site) -> Rates:
    """Return how fast the server copied, as its newest copy knows."""
    records = [record for copy in site.catalog.copies() if (record := copy.record) is not None]
    newest = max(records, key=lambda record: record.taken_at, default=None)
    if newest is None:
        return cloning.UNKNOWN
    return Rates(clone=newest.clone_rate, file_copy=newest.file_copy_rate)


def _inspect(site: Site, target: Target, wait_s: float, reporter: Reporter) -> Contents:
    locks.wait_until_open(site.watcher, target.name, wait_s)
    try:
        with sessions.visit(site.server, site.watcher, target.name, "looking inside") as inside:
            contents = inspection.inspect(inside)
    except ServerUnavailableError as error:
        reporter.warn(f"Taken without its list of migrations: {error.message}")
        return Contents(migrations=(), sequences="", unlogged=())
    if contents.unlogged:
        reporter.warn(
            f"Unlogged tables of {target.name!r} come back empty if the server crashes after "
            f"the take: {', '.join(contents.unlogged)}."
        )
    return contents
