"""Purging: take away what is ours on the servers, as a whole or one kind of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..clones.background import drop_leftovers
from ..clones.catalog import AnyDatabase
from ..clones.names import spare_name
from ..clones.records import CopyRecord, Record, TemplateRecord, UndoRecord
from ..clones.spares import cancel_spare
from ..clones.templates import drop_template
from ..clones.transitions import unpublish
from ..conf import config
from ..errors import MissingRightError
from ..messages import Message, message
from ..postgres.advisory_locks import release_lock, try_acquire_lock
from ..postgres.contents import measure_databases
from ..postgres.server import drop_maintenance_database, server_errors
from ..postgres.targets import group_by_server
from ..reporting import Reporter
from .context import (
    ServerContext,
    choose_targets,
    find_snapshots,
    find_undos,
    open_operation,
    read_contexts,
)
from .manage import check_parts_outside
from .types import Snapshot, Undo

Kind = Literal["copy", "undo", "template", "spare", "leftover"]

EVERYTHING: Final[frozenset[Kind]] = frozenset({"copy", "undo", "template", "spare", "leftover"})


@dataclass(frozen=True, kw_only=True)
class ManagedDatabase:
    """A database of ours.

    Attributes:
        name: What it is called on the server.
        size_bytes: 0 where our role may not know.
        about: The snapshot that it is about, or the live database where it is about none.
    """

    name: str
    kind: Kind
    size_bytes: int
    about: str


def list_managed_databases(
    kinds: Collection[Kind] = EVERYTHING, *, everyone: bool = False
) -> list[ManagedDatabase]:
    """Return which databases of ours there are.

    Args:
        kinds: Which kinds to look for.
        everyone: Whether to include those that our role has for other projects.

    Raises:
        PgsnapError: Snapshots are switched off, or a server cannot be reached.
    """
    found: list[ManagedDatabase] = []
    for context in read_contexts("list", choose_targets(None)):
        found += _describe(context, kinds, everyone=everyone)
    return found


def purge(
    kinds: Collection[Kind] = EVERYTHING,
    *,
    everyone: bool = False,
    reporter: Reporter | None = None,
) -> list[ManagedDatabase]:
    """Drop all databases of ours that are of these kinds; live databases are not among them.

    Snapshots and kept states go as wholes: one that has a part on a server that the settings do
    not name stays, unless everyone's go.

    1. Each is made one that nobody needs. If it stops after this, the next operation drops it.
    2. They are dropped, with the spares of those that are gone.
    3. If everything was to go, the small database that we work from goes, too.

    Args:
        kinds: Which kinds to drop; the spares of what goes, and leftovers, go in any case.
        everyone: Whether to include those that our role has for other projects.
        reporter: Who hears about progress, and what is in use and stays.

    Returns:
        The databases that are gone.

    Raises:
        PgsnapError: Snapshots are switched off, or another operation is at work.
    """
    reporter = reporter or Reporter()
    about = choose_targets(None)
    gone: list[ManagedDatabase] = []
    with open_operation("purge", about, wait_s=config().wait_s, disturbs_live=False) as contexts:
        sets = [] if everyone else _list_sets(contexts, kinds)
        kept = {each.set_id for each in sets if _must_stay(each, contexts, reporter)}
        for context in contexts:
            outside = [
                member.database
                for each in sets
                for member in each.outside
                if member.server == context.server
            ]
            before = _describe(context, EVERYTHING, outside, everyone=everyone)
            for database in (*_published(context, kinds, everyone=everyone), *outside):
                if database.record is None or database.record.set_id not in kept:
                    _unpublish(context, database, reporter)
            drop_leftovers(context.main, context.reloaded().leftovers(), reporter)
            left = context.reloaded().catalog.databases
            gone += [each for each in before if each.name not in left]
    if set(kinds) >= EVERYTHING:
        for server in group_by_server(about):
            with server_errors():
                drop_maintenance_database(server)
    return gone


def _list_sets(contexts: Sequence[ServerContext], kinds: Collection[Kind]) -> list[Snapshot | Undo]:
    return [
        *(find_snapshots(contexts) if "copy" in kinds else ()),
        *(find_undos(contexts) if "undo" in kinds else ()),
    ]


def _must_stay(
    whole: Snapshot | Undo, contexts: Sequence[ServerContext], reporter: Reporter
) -> bool:
    """Tell whether a part of it is out of reach, or another role's to drop; if so, say so."""
    why: Message | None = None
    if whole.unreachable:
        why = message(
            "a part of it is out of reach of these settings: {parts}",
            parts="; ".join(map(str, whole.unreachable)),
        )
    try:
        check_parts_outside(contexts, whole)
    except MissingRightError as error:
        why = error.message
    if why is None:
        return False
    reporter.warn(
        message(
            "Not dropped: {what}. {why}. Purge with settings that name all its databases, or with "
            "--all-projects.",
            what=message("a kept state")
            if isinstance(whole, Undo)
            else message("the snapshot {name!r}", name=whole.name),
            why=why,
        )
    )
    return True


def _published(
    context: ServerContext, kinds: Collection[Kind], *, everyone: bool
) -> Iterator[AnyDatabase]:
    catalog, sources = context.catalog, None if everyone else context.sources
    copies, undos = catalog.copies(sources), catalog.undos(sources)
    for database in (*copies, *undos, *catalog.templates(sources)):
        mine = database.trusted or not everyone
        if mine and database.record is not None and _kind_of(database.record) in kinds:
            yield database


def _describe(
    context: ServerContext,
    kinds: Collection[Kind],
    more: Iterable[AnyDatabase] = (),
    *,
    everyone: bool,
) -> list[ManagedDatabase]:
    found: dict[str, tuple[Kind, str]] = {}
    for database in (*_published(context, EVERYTHING, everyone=everyone), *more):
        if database.record is not None:
            record = database.record
            about = record.source if isinstance(record, TemplateRecord) else record.name
            found[database.name] = (_kind_of(record), about)
            identity = record.set_id if isinstance(record, TemplateRecord) else record.identity
            spare = context.catalog.databases.get(spare_name(identity))
            if spare is not None and spare.owner == database.owner and spare.is_shut:
                found[spare.name] = ("spare", about)
    for database in context.leftovers():
        found.setdefault(database.name, ("leftover", ""))
    sizes = measure_databases(context.watcher, found)
    return [
        ManagedDatabase(name=name, kind=kind, about=about, size_bytes=sizes.get(name, 0))
        for name, (kind, about) in found.items()
        if kind in kinds
    ]


def _kind_of(record: Record) -> Kind:
    if isinstance(record, CopyRecord):
        return "copy"
    return "undo" if isinstance(record, UndoRecord) else "template"


def _unpublish(context: ServerContext, database: AnyDatabase, reporter: Reporter) -> None:
    """Make a database one that nobody needs, unless somebody is at work on it."""
    record, session = database.record, context.main
    if record is None:
        return
    if isinstance(record, TemplateRecord):
        if not drop_template(session, record):
            reporter.warn(
                message(
                    "Not dropped: the template {name!r}, which a test run uses.", name=database.name
                )
            )
        return
    # We hold the locks of our own live databases; those of other projects have to be free.
    ours = record.source in context.sources
    if not ours and not try_acquire_lock(session, record.source):
        reporter.warn(
            message(
                "Not dropped: {name!r}, since an operation is at work on it.", name=database.name
            )
        )
        return
    try:
        cancel_spare(context.watcher, record)
        session.execute(unpublish(record))
    finally:
        if not ours:
            release_lock(session, record.source)
