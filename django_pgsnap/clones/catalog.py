"""The catalog: which databases of a server are ours, and what each of them is.

A copy or an undo is published by its comment, in the transaction that gives it its final name.
Spares, unfinished databases and those to drop are known by their exact names. What counts as ours
must also belong to a role that we trust, since anyone who owns a database can imitate the rest.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from psycopg import sql

from ..postgres.session import Session
from .names import copy_name, parse_database_names
from .records import (
    MAX_CHARACTERS,
    MAX_FOREIGN_CHARACTERS,
    CopyRecord,
    Record,
    RunRecord,
    TemplateRecord,
    UndoRecord,
    decode_record,
)

_INVALID: Final = -2

RecordT = TypeVar("RecordT", bound=Record)
RecordT_co = TypeVar("RecordT_co", bound=Record | None, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Database(Generic[RecordT_co]):
    """A row of ``pg_database``."""

    oid: int  # its object identifier, which stays through a rename
    name: str
    owner: str
    owner_oid: int  # that role's oid, which no later role of the same name has
    # Whether our own role owns it. Being a member of its owner is not enough, since others can make
    # our role one.
    trusted: bool
    is_shut: bool  # whether no client may connect: neither allowed nor any slot left
    is_valid: bool  # False after a ``DROP DATABASE`` that was interrupted
    record: RecordT_co


AnyDatabase = Database[Record | None]


_DATABASES: Final = sql.SQL(
    "SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), d.datdba,"
    " pg_get_userbyid(d.datdba) = current_user,"
    " NOT d.datallowconn AND d.datconnlimit IN (0, %(invalid)s), d.datconnlimit <> %(invalid)s,"
    # Others' comments, and what is too long to be ours, would only take time and memory.
    " CASE WHEN starts_with(d.datname::text, 'pgsnap_') AND length(c.description) <="
    "   CASE WHEN pg_get_userbyid(d.datdba) = current_user THEN %(longest)s ELSE %(foreign)s END"
    " THEN c.description END"
    " FROM pg_database d LEFT JOIN pg_shdescription c"
    "   ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass"
    " ORDER BY d.oid"
)


def load_catalog(session: Session) -> "Catalog":
    """Return the server's databases as they are now."""
    limits = {"longest": MAX_CHARACTERS, "foreign": MAX_FOREIGN_CHARACTERS}
    # At first each has the text of its comment in the place of the record that it may hold.
    found = session.values(Database, _DATABASES, {"invalid": _INVALID, **limits})
    return Catalog(replace(each, record=_own_record(each.name, each.record)) for each in found)


def _own_record(name: str, comment: str | None) -> Record | None:
    record = decode_record(comment) if comment else None
    # pg_dump carries comments over to other databases.
    return record if record is not None and record.database == name else None


class Catalog:
    """The databases of a server at one moment, and what they are to us."""

    def __init__(self, databases: Iterable[AnyDatabase]) -> None:
        self.databases: Mapping[str, AnyDatabase] = {each.name: each for each in databases}
        self._names = parse_database_names(self.databases)
        # What spares are clones of, by its identity. A copy's name goes before a template's.
        self._originals = {
            identity: self.databases[name]
            for original in ("template", "copy")
            for name, (kind, identity) in self._names.items()
            if kind == original
        }
        # Those that can be used, by the identity of the copy or template that each is a clone of.
        self.spares: Mapping[str, AnyDatabase] = {
            identity: spare
            for name, (kind, identity) in self._names.items()
            if kind == "spare"
            and (spare := self.databases[name]).is_valid
            and spare.is_shut
            and self._original(spare)
        }

    def copies(self, sources: Iterable[str] | None = None) -> list[Database[CopyRecord]]:
        """Return the published copies of these live databases, or of all."""
        return self._counted(CopyRecord, sources)

    def undos(self, sources: Iterable[str] | None = None) -> list[Database[UndoRecord]]:
        """Return what restores of these live databases replaced."""
        return self._counted(UndoRecord, sources)

    def templates(self, sources: Iterable[str] | None = None) -> list[Database[TemplateRecord]]:
        """Return the templates of tests on these live databases, or of all.

        Unlike a live database, a test database is made by whoever runs the tests, who may do
        without a live one. So only our own role's templates count.
        """
        counted = self._counted(TemplateRecord, sources)
        return [each for each in counted if each.trusted and each.is_shut]

    def runs(self, sources: Iterable[str] | None = None) -> list[Database[RunRecord]]:
        """Return our role's clones for commands, of snapshots of these live databases, or all.

        Those on which a ``DROP DATABASE`` was interrupted are among them.
        """
        return [database for database in self._all(RunRecord, sources) if database.trusted]

    def parts(self, kind: type[RecordT], system: str) -> list[Database[RecordT]]:
        """Return those parts of sets that are by their own account what is found here.

        Whoever owns a database can imitate a record, but not the owner that is written down there.
        So each is a part of the sets whose other parts tell of their parts what it tells.
        """
        return [
            database
            for database in self._all(kind)
            if database.is_valid
            and any(
                (part.alias, part.database) == (database.record.alias, database.record.source)
                and part.system == system
                and (database.trusted or part.owner == database.owner_oid)
                for part in database.record.parts
            )
        ]

    def untrusted(self) -> list[AnyDatabase]:
        """Return databases under names of ours that belong to a role that we do not trust."""
        named = [self.databases[name] for name in self._names]
        return [each for each in named if not each.trusted and not self._is_right(each)]

    def is_of_another_project(self, database: AnyDatabase, sources: Collection[str]) -> bool:
        """Tell whether a database says that it is of a live one that is gone and not among these.

        Its owner may be right: nobody is left to compare that role with.
        """
        original = self._original(database) if self._kind(database) == "spare" else database
        return (
            original is not None
            and original.is_valid
            and (record := original.record) is not None
            and record.source not in {*self.databases, *sources}
        )

    def leftovers(
        self, sources: Iterable[str], live_names: Collection[str], owners: Collection[str] = ()
    ) -> list[AnyDatabase]:
        """Return what interrupted operations left, and nobody can need any more.

        That is: unfinished databases, those to drop, spares whose copy or template is gone,
        templates made of a snapshot that is gone, and what a ``DROP DATABASE`` was interrupted on.
        Beside our own role, only owners of the source databases, and those that are named, are
        trusted. Whoever drops one must hold its lock, so that nobody is still at work on it.
        """
        live = [self.databases[name] for name in sources if name in self.databases]
        owners = {*owners, *(each.owner for each in live)}
        return [
            database
            for database in self.databases.values()
            if database.name not in live_names
            and (database.trusted or database.owner in owners)
            and database.is_shut
            and self._is_leftover(database)
        ]

    def _original(self, spare: AnyDatabase) -> AnyDatabase | None:
        """Return the copy or template of the same owner that a spare is one of."""
        found = self._originals.get(self._names[spare.name][1])
        return found if found and found.owner == spare.owner else None

    def _kind(self, database: AnyDatabase) -> str:
        return self._names.get(database.name, ("", ""))[0]

    def _is_right(self, database: AnyDatabase) -> bool:
        """Tell whether it is what it says, and our own role's or its live database's owner's."""
        if self._kind(database) == "spare":
            original = self._original(database)
            return original is not None and self._is_right(original)
        record = database.record
        if record is None or not database.is_valid:
            return False
        live = self.databases.get(record.source)
        return database.trusted or (live is not None and database.owner == live.owner)

    def _is_leftover(self, database: AnyDatabase) -> bool:
        kind = self._kind(database)
        if kind in ("new", "drop"):
            return True
        if kind == "spare":
            return not database.is_valid or self._original(database) is None
        record = database.record
        return record is not None and (not database.is_valid or self._outlives_snapshot(record))

    def _outlives_snapshot(self, record: Record) -> bool:
        """Tell whether a template was made of a snapshot that is deleted, whose data it holds."""
        if not isinstance(record, TemplateRecord) or not record.snapshot:
            return False
        copy = self.databases.get(copy_name(record.snapshot))
        return copy is None or not self._is_right(copy)

    def _counted(
        self, kind: type[RecordT], sources: Iterable[str] | None
    ) -> list[Database[RecordT]]:
        return [each for each in self._all(kind, sources) if self._is_right(each)]

    def _all(
        self, kind: type[RecordT], sources: Iterable[str] | None = None
    ) -> list[Database[RecordT]]:
        """Return what says of itself that it is of this kind, whoever's it is."""
        wanted = None if sources is None else set(sources)
        found: list[Database[Any]] = [
            database
            for database in self.databases.values()
            if isinstance(record := database.record, kind)
            and (wanted is None or record.source in wanted)
        ]
        return found


NO_DATABASES: Final = Catalog(())
