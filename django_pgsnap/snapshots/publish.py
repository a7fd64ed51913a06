"""Publishing: clones become a snapshot, and a snapshot that they replace becomes none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from ..clones import transitions
from ..clones.catalog import load_catalog
from ..clones.names import to_drop_name
from ..clones.records import CopyRecord
from ..clones.spares import cancel_spare
from ..clones.strategy import drop_database
from ..errors import ServerUnavailableError
from ..postgres.server import Server
from ..postgres.session import Query, Session
from .context import ServerContext
from .types import CopyMember


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A finished clone, and the record of the copy that it is to be."""

    context: ServerContext
    clone: str
    record: CopyRecord


def publish_snapshot(publications: Sequence[Publication], replaced: Sequence[CopyMember]) -> None:
    """Make the clones a snapshot, and the members of the one that it replaces none any more.

    On one server that is one transaction. On several, the old ones go when all the new ones are
    there: if we are killed before, the new snapshot is incomplete, or both exist and the newer
    counts; if anything fails, what is incomplete is taken back.
    """
    for member in replaced:
        cancel_spare(_context_of(publications, member).watcher, member.record)
    publishing = [
        (each.context, transitions.publish_copy(each.clone, each.record)) for each in publications
    ]
    unpublishing = [
        (_context_of(publications, member), transitions.unpublish(member.record))
        for member in replaced
    ]
    if len({each.context.server for each in publications}) == 1:
        _send(publishing + unpublishing)
    else:
        try:
            _send(publishing)
        except BaseException:
            _take_back(publications)
            raise
        _send(unpublishing)


def _take_back(publications: Sequence[Publication]) -> None:
    """Unpublish what is published of a snapshot, unless all of it is.

    A message may have done its work though its sender was interrupted, so the servers are asked,
    from sessions that nothing has happened to yet. What is unpublished waits to be dropped.
    """
    published: list[Publication] = []
    for each in publications:
        with suppress(ServerUnavailableError), each.context.server.session("take back") as session:
            if each.record.database in load_catalog(session).databases:
                published.append(each)
    if len(published) == len(publications):
        return
    for each in published:
        with (
            suppress(psycopg.Error, ServerUnavailableError),
            each.context.server.session("take back") as session,
        ):
            session.execute(transitions.unpublish(each.record))
            session.execute(drop_database(to_drop_name(each.record.identity)))


def _send(statements: Sequence[tuple[ServerContext, Query]]) -> None:
    """Run the statements, those of each server in one transaction."""
    by_server: dict[Server, tuple[Session, list[Query]]] = {}
    for context, statement in statements:
        by_server.setdefault(context.server, (context.main, []))[1].append(statement)
    for session, group in by_server.values():
        session.execute(transitions.join_statements(group))


def _context_of(publications: Sequence[Publication], member: CopyMember) -> ServerContext:
    return next(each.context for each in publications if each.context.server == member.server)
