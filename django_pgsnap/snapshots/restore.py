"""Restore: bring the live databases back to a snapshot; undo: take that back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .. import arrivals, catalog, copying, locks, names, reconnect, signals, spares
from ..arrivals import Arrival
from ..catalog import Database
from ..cloning import Clone, strategy_named
from ..conf import config
from ..copying import Job
from ..errors import NothingToUndoError, ObstacleError
from ..report import Reporter
from ..targets import Target
from . import aftermath, choosing, operation, replacing
from .model import Member, Snapshot, Undo, undos_of
from .operation import Site
from .replacing import Incoming, Request
from .take import take


def restore(
    name: str | None = None,
    *,
    databases: Sequence[str] | None = None,
    undo: bool | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    last_look: Callable[[], None] | None = None,
) -> Snapshot:
    """Bring the live databases back to a snapshot.

    1. A spare is found, or a clone of the copy made. If it stops here, the next operation drops
       an unfinished clone.
    2. Sessions on the live databases are ended, and one transaction per server swaps. What was
       live becomes the undo.
    3. The server is sent off to make the next spare, and to drop the older undo.
    4. Django forgets what it knew of the old databases.

    Args:
        name: The snapshot's name; None for the newest.
        databases: Aliases; None for all that the snapshot holds.
        undo: Whether to keep what is replaced; None for the setting ``UNDO``.
        wait_s: How long to wait for busy sessions and other operations, in seconds; None for the
            setting ``WAIT_S``.
        force: Whether to end busy sessions too.
        reporter: Who hears about progress and warnings.
        last_look: Called when nobody is left on the live databases, right before the swap, and
            again if somebody came in between. It may read them through Django.

    Returns:
        The snapshot that was restored.

    Raises:
        SnapshotNotFoundError: There is none of that name.
        PgsnapError: Other subclasses say what stood in the way. Nothing has changed then.
    """
    request = _request(undo, wait_s, force=force, last_look=last_look)
    return _restore(name, databases, request, reporter or Reporter())


def undo(
    *,
    databases: Sequence[str] | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    last_look: Callable[[], None] | None = None,
) -> Undo:
    """Swap back what the last restore replaced; doing it again is the redo.

    Args:
        databases: Aliases; None for all that the settings name.
        wait_s: As for `restore`.
        force: As for `restore`.
        reporter: As for `restore`.
        last_look: As for `restore`.

    Returns:
        The undo that became live.

    Raises:
        NothingToUndoError: No restore left one.
        PgsnapError: Other subclasses say what stood in the way. Nothing has changed then.
    """
    about = operation.chosen(databases)
    request = _request(True, wait_s, force=force, last_look=last_look)
    reporter = reporter or Reporter()
    signals.pre_restore.send(
        sender=Snapshot, aliases=tuple(target.alias for target in about), name=None
    )
    with operation.operation("undo", about, wait_s=request.wait_s, reporter=reporter) as sites:
        last = _last_undo(sites)
        incoming = [
            Incoming(
                site=site,
                target=target,
                database=member.database,
                record=member.record,
                set_up_like=member.database.name,
            )
            for site, target, member in _matched(sites, last.members)
        ]
        arriving = _arrivals(incoming, None)
        arrivals.expect(arriving)
        drops = replacing.replace_live(incoming, request, reporter)
        for site in sites:
            aftermath.send_off(
                site, current=(), drops=drops.get(site.server, ()), spare=False, reporter=reporter
            )
    arrivals.meet_expected(arriving)
    return last


@contextmanager
def checkpoint(*, databases: Sequence[str] | None = None) -> Iterator[Snapshot]:
    """Take a snapshot on entry, and restore it on exit, whatever happens in between.

    The copy itself is swapped in, so nothing is copied twice and no snapshot stays behind. What
    the block did can be had back by `undo`.

    Args:
        databases: Aliases; None for all that the settings name.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. If that is on exit, the snapshot
            stays, under the name that it has in the block.
    """
    snapshot = take(
        f"checkpoint-{names.new_identity()}", databases=databases, pin=True, spare=False
    )
    try:
        yield snapshot
    finally:
        _restore(
            snapshot.name,
            snapshot.aliases,
            _request(None, None),
            Reporter(),
            consume=True,
        )


def _restore(
    name: str | None,
    databases: Sequence[str] | None,
    request: Request,
    reporter: Reporter,
    *,
    consume: bool = False,
) -> Snapshot:
    about = operation.chosen(databases)
    signals.pre_restore.send(
        sender=Snapshot, aliases=tuple(target.alias for target in about), name=name
    )
    with operation.operation(
        f"restore {name or ''}", about, wait_s=request.wait_s, reporter=reporter
    ) as sites:
        snapshot = choosing.find_in(sites, name)
        _check_complete(snapshot, databases)
        matched = list(_matched(sites, snapshot.members))
        incoming = _consumed(matched) if consume else _clones(matched, reporter)
        arriving = _arrivals(incoming, snapshot)
        arrivals.expect(arriving)
        drops = replacing.replace_live(incoming, request, reporter)
        for site, target, member in matched:
            locks.release(site.workers[target.alias], names.spare_name(member.record.identity))
        for site in sites:
            aftermath.send_off(
                site,
                current=[m for m in snapshot.members if m.server == site.server],
                drops=drops.get(site.server, ()),
                spare=not consume,
                reporter=reporter,
            )
    arrivals.meet_expected(arriving)
    return snapshot


def _request(
    keep_undo: bool | None,
    wait_s: float | None,
    *,
    force: bool = False,
    last_look: Callable[[], None] | None = None,
) -> Request:
    settings = config()
    return Request(
        keep_undo=settings.undo if keep_undo is None else keep_undo,
        wait_s=settings.wait_s if wait_s is None else wait_s,
        force=force,
        last_look=last_look,
    )


def _check_complete(snapshot: Snapshot, databases: Sequence[str] | None) -> None:
    if databases is None and not snapshot.is_complete:
        raise ObstacleError(
            f"Of the snapshot {snapshot.name!r} only the part of {', '.join(snapshot.aliases)} "
            "is there.",
            hint="Restore that part with --database, or delete the snapshot.",
        )


def _matched(
    sites: Sequence[Site], members: Sequence[Member]
) -> Iterator[tuple[Site, Target, Member]]:
    for member in members:
        for site in sites:
            for target in site.targets:
                if site.server == member.server and target.name == member.record.source:
                    yield site, target, member


def _consumed(matched: Sequence[tuple[Site, Target, Member]]) -> list[Incoming]:
    return [_incoming(site, target, member, member.database) for site, target, member in matched]


def _clones(matched: Sequence[tuple[Site, Target, Member]], reporter: Reporter) -> list[Incoming]:
    """Return a spare of each copy, or else a clone made now."""
    found = [
        (site, target, member, _spare(site, target, member, reporter))
        for site, target, member in matched
    ]
    jobs = [_job(site, target, member) for site, target, member, spare in found if spare is None]
    if jobs:
        copying.copy(jobs, reporter)
    made = iter(jobs)
    return [
        _incoming(site, target, member, spare or _made(site, next(made)))
        for site, target, member, spare in found
    ]


def _spare(site: Site, target: Target, member: Member, reporter: Reporter) -> Database | None:
    return spares.obtain(site.workers[target.alias], site.watcher, member.record, reporter)


def _job(site: Site, target: Target, member: Member) -> Job:
    copying.check_collation(site.watcher, member.database.name)
    worker = site.workers[target.alias]
    clone = Clone(
        source=member.database.name,
        name=names.unfinished_name(names.new_identity()),
        owner=member.database.owner,
        strategy=strategy_named(member.record.strategy),
    )
    locks.try_acquire(worker, clone.name)
    return Job(
        clone=clone,
        size_bytes=member.record.size_bytes,
        session=worker,
        watcher=site.watcher,
        server=site.server,
        evictor=None,
    )


def _made(site: Site, job: Job) -> Database:
    return catalog.load(site.watcher)[job.clone.name]


def _incoming(site: Site, target: Target, member: Member, database: Database) -> Incoming:
    return Incoming(
        site=site,
        target=target,
        database=database,
        record=member.record,
        set_up_like=member.database.name,
    )


def _last_undo(sites: Sequence[Site]) -> Undo:
    found = undos_of([member for site in sites for member in site.undos()])
    if not found:
        databases = ", ".join(repr(name) for site in sites for name in site.sources)
        raise NothingToUndoError(
            f"There is nothing to undo: no restore of {databases} has left an undo.",
            hint="See pgsnap list for snapshots to restore.",
        )
    return found[0]


def _arrivals(incoming: Sequence[Incoming], snapshot: Snapshot | None) -> list[Arrival]:
    """Return what Django will meet behind which aliases."""
    return [
        Arrival(alias=alias, name=each.target.name, oid=each.database.oid, snapshot=snapshot)
        for each in incoming
        for alias in reconnect.aliases_of([each.target.alias])
    ]
