"""Take: copy the live databases, as of one moment, into a named snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psycopg

from .. import cloning, copying, metadata, names, obstacles, rights, signals, vcs
from ..conf import config
from ..errors import SnapshotExistsError
from ..metadata import Strategy
from ..report import Reporter
from ..supervise import begin
from . import aftermath, operation, publishing
from .model import Member, Snapshot, snapshots_of
from .parts import Part, Request, parts_of
from .site import Site


def take(
    name: str | None = None,
    *,
    databases: Sequence[str] | None = None,
    note: str = "",
    replace: bool = False,
    pin: bool = False,
    spare: bool = True,
    strategy: Strategy | None = None,
    wait_s: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Snapshot:
    """Take a snapshot of the live databases.

    1. Sessions that idle on the live databases are ended, those that work waited for.
    2. The databases are cloned, under names that say "unfinished". If it stops here, the next
       operation drops the clones.
    3. One transaction per server gives the clones their names and comments, and takes those of
       a replaced snapshot away. From here on the snapshot exists.
    4. The server is sent off to make spares, and to drop what was replaced.

    Args:
        name: The snapshot's name; None for ``snap1``, ``snap2``, ….
        databases: Aliases; None for all that the settings name.
        note: A remark to show in lists.
        replace: Whether to take the place of a snapshot of the same name.
        pin: Whether pruning shall leave it.
        spare: Whether to keep a ready-made clone, if the settings want spares.
        strategy: How the server copies; None for the best it has.
        wait_s: How long to wait for busy sessions and other operations, in seconds; None for the
            setting ``WAIT_S``.
        force: Whether to end busy sessions too.
        reporter: Who hears about progress and warnings.

    Returns:
        The new snapshot.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. Nothing has changed then.
    """
    about = operation.chosen(databases)
    name = None if name is None else names.validate(name)
    metadata.validate_note(note)
    wait_s = config().wait_s if wait_s is None else wait_s
    reporter = reporter or Reporter()
    signals.pre_take.send(
        sender=Snapshot, aliases=tuple(target.alias for target in about), name=name
    )
    with operation.operation(
        f"take {name or ''}", about, wait_s=wait_s, reporter=reporter
    ) as sites:
        name, replaced = _settle_name(sites, name, replace=replace)
        request = Request(
            name=name, note=note, pinned=pin, strategy=strategy, wait_s=wait_s, force=force
        )
        snapshot = _take(sites, request, replaced, reporter)
        for site in sites:
            aftermath.send_off(
                site,
                current=[member for member in snapshot.members if member.server == site.server],
                drops=[
                    names.doomed_name(member.record.identity)
                    for member in replaced
                    if member.server == site.server
                ],
                spare=spare,
                reporter=reporter,
            )
    signals.post_take.send(sender=Snapshot, snapshot=snapshot)
    return snapshot


def _settle_name(
    sites: Sequence[Site], name: str | None, *, replace: bool
) -> tuple[str, list[Member]]:
    """Return the name to use, and the members of the snapshot that has it now."""
    existing = [member for site in sites for member in site.project_copies()]
    if name is None:
        return names.first_free(member.record.name for member in existing), []
    replaced = [member for member in existing if member.record.name == name]
    if replaced and not replace:
        taken_at = replaced[0].record.taken_at
        raise SnapshotExistsError(
            f"There is a snapshot {name!r} already, taken {taken_at:%Y-%m-%d %H:%M} UTC.",
            hint="Choose another name, or take its place with --replace.",
        )
    about = {target.name for site in sites for target in site.targets}
    kept = sorted({member.alias for member in replaced if member.record.source not in about})
    if kept:
        raise SnapshotExistsError(
            f"The snapshot {name!r} also holds {', '.join(kept)}, which would be lost.",
            hint="Take all its databases, or choose another name.",
        )
    return name, replaced


def _take(
    sites: Sequence[Site], request: Request, replaced: Sequence[Member], reporter: Reporter
) -> Snapshot:
    for site in sites:
        _check(site)
    parts = [part for site in sites for part in parts_of(site, request, reporter)]
    taken_at = datetime.now(UTC)
    # In a large working copy git takes as long as the server.
    code = begin(vcs.checkout)
    copied = copying.copy([part.job for part in parts], reporter)
    with _dropped_on_failure(parts):
        for part in parts:
            part.put_properties(reporter)
        records = publishing.records(parts, copied, request, code.result(), taken_at)
        publishing.publish(parts, records, replaced)
    operation.report_ended([part.evictor for part in parts], reporter)
    return _published(sites, records[0].set_id)


def _check(site: Site) -> None:
    for target in site.targets:
        site.live(target)
        obstacles.check_collation(site.watcher, target.name)
    obstacles.check(site.watcher, site.sources)
    rights.check(site.watcher, site.sources)


@contextmanager
def _dropped_on_failure(parts: Sequence[Part]) -> Iterator[None]:
    """Drop finished clones that will not be published after all.

    Where even that fails, the next operation takes them for the leftovers that they are.
    """
    try:
        yield
    except BaseException:
        for part in parts:
            with suppress(psycopg.Error):
                part.job.session.execute(cloning.drop(part.job.clone.name))
        raise


def _published(sites: Sequence[Site], set_id: str) -> Snapshot:
    members = [member for site in sites for member in site.reloaded().copies()]
    (snapshot,) = snapshots_of(member for member in members if member.record.set_id == set_id)
    return snapshot
