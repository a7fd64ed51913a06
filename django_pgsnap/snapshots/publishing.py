"""Publishing: finished clones become a snapshot, and what they replace stops being one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import django
import psycopg

from .. import catalog, cloning, names, spares, stages
from ..cloning import Rates
from ..copying import Copied
from ..errors import ServerUnavailableError
from ..metadata import Record
from ..server import Server
from ..session import Query, Session
from ..vcs import Checkout
from .model import Member
from .parts import Part, Request
from .site import Site


def records(
    parts: Sequence[Part],
    copied: Sequence[Copied],
    request: Request,
    code: Checkout,
    taken_at: datetime,
) -> list[Record]:
    """Return what each copy shall know of itself."""
    set_id = names.new_identity()
    return [
        Record(
            kind="copy",
            identity=part.identity,
            set_id=set_id,
            members=len(parts),
            name=request.name,
            alias=part.target.alias,
            source=part.target.name,
            taken_at=taken_at,
            size_bytes=part.job.size_bytes,
            note=request.note,
            pinned=request.pinned,
            strategy=how.strategy,
            seconds=how.seconds,
            clone_rate=rates.clone,
            file_copy_rate=rates.file_copy,
            git_branch=code.branch,
            git_commit=code.commit,
            git_dirty=code.dirty,
            django=django.get_version(),
            postgresql=part.site.watcher.server_name,
            migrations=part.contents.migrations,
            sequences=part.contents.sequences,
            comment=part.properties.comment,
            connection_limit=part.properties.connection_limit,
        )
        for part, how in zip(parts, copied, strict=True)
        for rates in [_rates(part, how)]
    ]


def _rates(part: Part, how: Copied) -> Rates:
    job = part.job
    return part.rates.tried(job.clone.strategy, how.strategy, job.size_bytes, how.seconds)


def publish(parts: Sequence[Part], new: Sequence[Record], replaced: Sequence[Member]) -> None:
    """Make the clones a snapshot, and the members of the one that it replaces none any more.

    On one server that is one transaction. On several, the old ones go when all the new ones are
    there: if we are killed before, the new snapshot is incomplete, or both exist and the newer
    counts; if anything fails, what is incomplete is taken back.
    """
    for member in replaced:
        spares.abandon(_site(parts, member).watcher, member.record)
    publications = [
        (part.site, stages.publish(part.job.clone.name, record))
        for part, record in zip(parts, new, strict=True)
    ]
    retirements = [(_site(parts, member), stages.retire(member.record)) for member in replaced]
    if len({part.site.server for part in parts}) == 1:
        _send(publications + retirements)
    else:
        try:
            _send(publications)
        except BaseException:
            _take_back(parts, new)
            raise
        _send(retirements)


def _take_back(parts: Sequence[Part], new: Sequence[Record]) -> None:
    """Unpublish what is published of a snapshot, unless all of it is.

    A message may have done its work though its sender was interrupted, so the servers are asked,
    from sessions that nothing has happened to yet. What is unpublished waits to be dropped.
    """
    published: list[tuple[Server, Record]] = []
    for part, record in zip(parts, new, strict=True):
        with suppress(ServerUnavailableError), part.site.server.session("take back") as session:
            if record.database in catalog.load(session):
                published.append((part.site.server, record))
    if len(published) == len(new):
        return
    for server, record in published:
        with (
            suppress(psycopg.Error, ServerUnavailableError),
            server.session("take back") as session,
        ):
            session.execute(stages.retire(record))
            session.execute(cloning.drop(names.doomed_name(record.identity)))


def _send(statements: Sequence[tuple[Site, Query]]) -> None:
    """Run the statements, those of each server in one transaction."""
    by_server: dict[Server, tuple[Session, list[Query]]] = {}
    for site, statement in statements:
        by_server.setdefault(site.server, (site.main, []))[1].append(statement)
    for session, group in by_server.values():
        session.execute(stages.together(group))


def _site(parts: Sequence[Part], member: Member) -> Site:
    return next(part.site for part in parts if part.site.server == member.server)
