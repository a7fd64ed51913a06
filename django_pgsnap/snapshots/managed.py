"""Which databases of ours there are, of every kind, and what each is about."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from ..clones.catalog import Database
from ..clones.names import spare_name
from ..clones.records import CopyRecord, Record, RunRecord, TemplateRecord
from ..clones.test_databases import list_comments
from ..postgres.contents import measure_databases
from ..postgres.targets import live_database_names
from .context import ServerContext

Kind = Literal["copy", "undo", "template", "run", "test", "spare", "leftover"]

EVERYTHING: Final[frozenset[Kind]] = frozenset(
    {"copy", "undo", "template", "run", "test", "spare", "leftover"}
)


@dataclass(frozen=True, kw_only=True)
class ManagedDatabase:
    """A database of ours.

    Attributes:
        kind: ``run`` for the clone of a ``pgsnap run``, ``test`` for a test database that is kept,
            in use, or left by a killed run; the others as they are called everywhere.
        size_bytes: 0 where our role may not know.
        about: The snapshot that it is about, or the live database where it is about none.
    """

    name: str
    kind: Kind
    size_bytes: int
    about: str


def list_published(
    context: ServerContext, *, everyone: bool, sources: Iterable[str] = ()
) -> Iterator[Database[Record]]:
    """Yield the copies, kept states, templates and clones for commands that are ours to drop.

    Args:
        context: The server.
        everyone: Whether to include those that our role has for other projects.
        sources: Live databases to include, beside those that are asked about.
    """
    catalog, about = context.catalog, None if everyone else [*context.sources, *sources]
    copies, undos = catalog.copies(about), catalog.undos(about)
    for database in (*copies, *undos, *catalog.templates(about), *catalog.runs(about)):
        if database.trusted or not everyone:
            yield database


def list_test_databases(context: ServerContext, *, everyone: bool) -> dict[str, str]:
    """Return the test databases of our role, and what their aliases lead to outside of tests."""
    spared = live_database_names()
    return {
        comment.database: comment.source
        for comment in list_comments(context.watcher)
        if (everyone or comment.source in context.sources) and comment.database not in spared
    }


def describe_managed(
    context: ServerContext,
    kinds: Collection[Kind] = EVERYTHING,
    *,
    more: Iterable[Database[Record]] = (),
    everyone: bool = False,
) -> list[ManagedDatabase]:
    """Return which databases of ours there are on a server, of these kinds, and some more."""
    found: dict[str, tuple[Kind, str]] = {}
    tests = list_test_databases(context, everyone=everyone)
    for database in (*list_published(context, everyone=everyone, sources=tests), *more):
        record = database.record
        about = _about(record)
        found[database.name] = (record.kind, about)
        identity = record.set_id if isinstance(record, TemplateRecord) else record.identity
        spare = context.catalog.databases.get(spare_name(identity))
        if (
            isinstance(record, CopyRecord | TemplateRecord)
            and spare is not None
            and spare.owner == database.owner
            and spare.is_shut
        ):
            found[spare.name] = ("spare", about)
    found.update({name: ("test", source) for name, source in tests.items()})
    for left in context.leftovers():
        found.setdefault(left.name, ("leftover", ""))
    found = {name: each for name, each in found.items() if each[0] in kinds}
    sizes = measure_databases(context.watcher, found) if found else {}
    return [
        ManagedDatabase(name=name, kind=kind, about=about, size_bytes=sizes.get(name, 0))
        for name, (kind, about) in found.items()
    ]


def describe_beside(context: ServerContext, *, everyone: bool) -> Iterator[ManagedDatabase]:
    """Yield the templates and clones for commands, as large as they were when they were made."""
    for database in list_published(context, everyone=everyone):
        record = database.record
        if isinstance(record, TemplateRecord | RunRecord):
            yield ManagedDatabase(
                name=database.name,
                kind=record.kind,
                size_bytes=record.size_bytes,
                about=_about(record),
            )


def _about(record: Record) -> str:
    return record.source if isinstance(record, TemplateRecord) else record.name
