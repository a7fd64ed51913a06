"""What tests of histories look at: every copy and undo by content, and each set as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from psycopg import sql

from django_pgsnap.clones.records import CopyRecord, decode_record
from django_pgsnap.snapshots.queries import overview
from tests.servers import Server
from tests.state import databases

PROBE = "probe"


@contextmanager
def only(*aliases: str) -> Iterator[None]:
    """Work under a settings file that names no other aliases than these."""
    dicts = dict(settings.DATABASES)
    for alias in dicts.keys() - set(aliases):
        del settings.DATABASES[alias]
    try:
        yield
    finally:
        settings.DATABASES.clear()
        settings.DATABASES.update(dicts)


def kept_authors(alias: str = "default", *servers: Server) -> list[list[str]]:
    """Return the authors in each replaced state that undo can bring back, newest first."""
    by_port = {str(server.port): server for server in servers}
    return [
        authors_in(by_port[member.server.port], member.database.name)
        for undo in overview().undos
        for member in undo.members
        if member.alias == alias
    ]


def authors_in(server: Server, database: str) -> list[str]:
    """Return the authors in a shut database, which stays shut: a clone of it is read."""
    probe = sql.Identifier(PROBE)
    with server.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                probe, sql.Identifier(database)
            )
        )
        try:
            with server.connect(PROBE) as inside:
                rows = inside.execute("SELECT name FROM testapp_author ORDER BY name").fetchall()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(probe))
    return [name for (name,) in rows]


def published_sets(*servers: Server) -> dict[str, list[CopyRecord]]:
    """Return the records of all copies on these servers, by the set that they are parts of."""
    found: dict[str, list[CopyRecord]] = {}
    for server in servers:
        for database in databases(server):
            record = decode_record(database.comment)
            if isinstance(record, CopyRecord) and record.database == database.name:
                found.setdefault(record.set_id, []).append(record)
    return found


def split_sets(*servers: Server) -> list[str]:
    """Say which snapshots have lost a part, or have parts that differ in what they share."""
    return [
        f"{sorted({each.name for each in parts})}: {len(parts)} of {parts[0].members} parts"
        for parts in published_sets(*servers).values()
        if len(parts) != parts[0].members
        or len({(each.name, each.note, each.pinned) for each in parts}) > 1
    ]
