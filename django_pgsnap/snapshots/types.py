"""What the use cases return: snapshots, their members and drift from the code, and the undo."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from django.db.migrations.loader import MigrationLoader

from ..clones.catalog import Database
from ..clones.records import CopyRecord, Part, Parts, Record, UndoRecord
from ..messages import Message, join_messages, message
from ..postgres.inspection import Migrations
from ..postgres.server import Server

RecordT_co = TypeVar("RecordT_co", bound=Record, covariant=True)
SpareState = Literal["ready", "building", "none"]


@dataclass(frozen=True, kw_only=True)
class Member(Generic[RecordT_co]):
    """One database's part of a snapshot or of an undo."""

    alias: str
    database: Database[RecordT_co] = field(repr=False)  # the shut database that holds it
    server: Server = field(repr=False)
    spare: SpareState = "none"

    @cached_property
    def record(self) -> RecordT_co:
        return self.database.record


AnyMember = Member[Record]
CopyMember = Member[CopyRecord]
UndoMember = Member[UndoRecord]
MemberT = TypeVar("MemberT", bound=AnyMember)


Completeness = Literal["complete", "partly outside", "part lost"]


@dataclass(frozen=True, kw_only=True)
class _Set(Generic[RecordT_co]):
    """Members that were made together, and what all their records say."""

    members: tuple[Member[RecordT_co], ...]
    # Parts that are there, of databases that are not asked about.
    outside: tuple[Member[RecordT_co], ...] = ()
    unreachable: Parts = ()  # parts on servers that are not asked
    name: str  # the snapshot's
    set_id: str  # what no other set has
    taken_at: datetime  # in UTC

    @property
    def completeness(self) -> Completeness:
        """Whether all its parts are here, or the others elsewhere, or one is gone."""
        if self.is_complete:
            return "complete"
        found = len(self.members) + len(self.outside) + len(self.unreachable)
        return "partly outside" if found == self.members[0].record.members else "part lost"

    @property
    def elsewhere(self) -> Parts:
        """Where the parts are that are not among the members."""
        seen = (Part(each.record.alias, each.record.source) for each in self.outside)
        return (*seen, *self.unreachable)

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(member.alias for member in self.members)

    @property
    def size_bytes(self) -> int:
        """What its members occupy together, without spares."""
        return sum(member.record.size_bytes for member in self.members)

    @property
    def is_complete(self) -> bool:
        return len(self.members) == self.members[0].record.members


@dataclass(frozen=True, kw_only=True)
class Snapshot(_Set[CopyRecord]):
    """A named, immutable set of copies, one per database, taken at one moment."""

    note: str
    pinned: bool  # whether pruning leaves it
    git_branch: str  # of the project's code at that time, or empty
    git_commit: str
    git_dirty: bool  # whether that code had uncommitted changes
    seconds: float  # how long copying took, all at the same time

    @property
    def migrations(self) -> Migrations | None:
        """Migrations applied in any of its databases, as (app, name), sorted; None if unknown."""
        if not all(member.record.knows_migrations for member in self.members):
            return None
        return tuple(sorted({key for member in self.members for key in member.record.migrations}))

    @property
    def spare(self) -> SpareState:
        """Whether restoring it only has to rename: all spares ready, some on their way, or not."""
        states = {member.spare for member in self.members}
        if states == {"ready"}:
            return "ready"
        return "none" if "none" in states else "building"


@dataclass(frozen=True, kw_only=True)
class Undo(_Set[UndoRecord]):
    """A state that a restore or an undo replaced; ``name`` is the snapshot it was about."""

    by_undo: bool  # whether an undo replaced it rather than a restore
    based_on: str  # the snapshot that it was restored from, or empty

    @property
    def is_unwritten(self) -> bool:
        """Whether the server counted no row that was written since it was put in place."""
        return all(member.record.clone_of for member in self.members)


def describe_replaced_state(undo: Undo) -> Message:
    if not undo.based_on:
        return message("your own data")
    return message(
        "{name!r} as restored" if undo.is_unwritten else "{name!r}, perhaps changed since",
        name=undo.based_on,
    )


SetT = TypeVar("SetT", bound=_Set[Any])


def group_members(
    kind: type[SetT],
    members: Sequence[MemberT],
    others: Sequence[MemberT],
    systems: Collection[str],
) -> list[SetT]:
    """Group members into wholes, newest first; others are further parts on these systems."""
    servers = {each.server for each in (*members, *others)}
    # Two addresses may lead to one server.
    identities = {each: each.identity for each in servers} if len(servers) > 1 else {}
    elsewhere = _by_set(others, identities)
    found = []
    for key, here in _by_set(members, identities).items():
        outside = [
            each for identity, each in elsewhere.get(key, {}).items() if identity not in here
        ]
        seen = {each.record.alias for each in (*here.values(), *outside)}
        # Copies are made at the same time, so the order that they are found in means nothing.
        inside = sorted(here.values(), key=lambda member: member.alias)
        record = inside[0].record
        lacking = [part for part in record.parts if part.alias not in seen]
        parts: dict[str, Any] = {
            "members": tuple(inside),
            "outside": tuple(outside),
            "unreachable": tuple(part for part in lacking if part.system not in systems),
        }
        shared = [each.name for each in fields(kind) if each.name not in parts]
        found.append(kind(**parts, **{name: getattr(record, name) for name in shared}))
    return sorted(found, key=lambda whole: whole.taken_at, reverse=True)


def _by_set(
    members: Iterable[MemberT], identities: Mapping[Server, object]
) -> dict[tuple[str, Parts, object], dict[str, MemberT]]:
    """Group members by what the parts of one set all say, and those of no other set."""
    groups: dict[tuple[str, Parts, object], dict[str, MemberT]] = {}
    for member in members:
        record = member.record
        # A server whose data directory is a copy of another one's shows the same sets once more.
        is_on_one = len({part.system for part in record.parts}) == 1
        key = (record.set_id, record.parts, identities.get(member.server) if is_on_one else None)
        groups.setdefault(key, {}).setdefault(record.identity, member)
    return groups


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The difference between a snapshot's migrations and the code's."""

    missing: Migrations = ()  # in the code, not in the snapshot; ``restore --migrate`` applies them
    unknown: Migrations = ()  # in the snapshot, not in the code: another branch's, usually
    is_known: bool = True  # whether it is known which migrations the snapshot has

    @property
    def summary(self) -> Message:
        """The difference in a few words; empty where there is none."""
        parts = [] if self.is_known else [message("not known")]
        if self.missing:
            parts.append(message("{count} not run", count=len(self.missing)))
        if self.unknown:
            parts.append(message("{count} not in this code", count=len(self.unknown)))
        return join_messages(", ", parts)


def describe_drift(drift: Drift) -> Iterator[Message]:
    """Yield what to do about migrations that a snapshot and the code do not share."""
    if drift.missing:
        count = len(drift.missing)
        yield message("Migrations not run: {count}. Run migrate afterwards.", count=count)
    if drift.unknown:
        count = len(drift.unknown)
        yield message("Migrations of another branch, not in this code: {count}.", count=count)


class KnownMigrations:
    """The migrations of the code at hand; loading them takes a moment, so do it once."""

    def __init__(self) -> None:
        loader = MigrationLoader(None, load=False)
        loader.load_disk()
        # Ours only says which permissions there are; no data hangs on it.
        self._on_disk = {key for key in loader.disk_migrations if key[0] != "django_pgsnap"}
        self._replaced = {
            key: set(migration.replaces)
            for key, migration in loader.disk_migrations.items()
            if migration.replaces
        }

    def drift(self, applied: Migrations | None) -> Drift:
        """Return how far a snapshot with these migrations is from the code; None for unknown."""
        if applied is None:
            return Drift(is_known=False)
        present = self._with_squashed(set(applied))
        absent = self._on_disk - present
        missing = set(absent)
        for squashed in absent & self._replaced.keys():
            replaced = self._replaced[squashed]
            # Django goes on with the old ones where some are applied, else takes the squashed one.
            missing -= {squashed} if replaced & present else replaced
        known = self._on_disk.union(*self._replaced.values())
        return Drift(
            missing=tuple(sorted(missing)),
            unknown=tuple(sorted(key for key in set(applied) - known if key[0] != "django_pgsnap")),
        )

    def _with_squashed(self, present: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Add squashed migrations whose parts are all there, and the parts of those that are."""
        while True:
            before = set(present)
            for squashed, replaced in self._replaced.items():
                if replaced <= present:
                    present.add(squashed)
                elif squashed in present:
                    present |= replaced
            if present == before:
                return present
