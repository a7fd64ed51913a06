"""What the use cases return: snapshots, their members, and the undo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from ..clones.catalog import Database
from ..clones.records import CopyRecord, Record, UndoRecord
from ..migration_drift import Migrations
from ..postgres.server import Server

RecordT_co = TypeVar("RecordT_co", bound=Record, covariant=True)
SpareState = Literal["ready", "building", "none"]


@dataclass(frozen=True, kw_only=True)
class Member(Generic[RecordT_co]):
    """One database's part of a snapshot or of an undo.

    Attributes:
        alias: The alias whose live database this is a copy of.
        database: The shut database that holds it.
        server: The server it is on.
        spare: Whether a ready-made clone of it stands by.
    """

    alias: str
    database: Database[RecordT_co] = field(repr=False)
    server: Server = field(repr=False)
    spare: SpareState = "none"

    @property
    def record(self) -> RecordT_co:
        """What the copy knows of itself."""
        return self.database.record


AnyMember = Member[Record]
CopyMember = Member[CopyRecord]
UndoMember = Member[UndoRecord]
MemberT = TypeVar("MemberT", bound=AnyMember)


@dataclass(frozen=True, kw_only=True)
class _Set:
    """Members that were made together; what they share is read from the first."""

    members: tuple[AnyMember, ...]

    @property
    def _record(self) -> Record:
        return self.members[0].record

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return self._record.name

    @property
    def set_id(self) -> str:
        """What all members share, and no other set has."""
        return self._record.set_id

    @property
    def taken_at(self) -> datetime:
        """When, in UTC."""
        return self._record.taken_at

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases whose databases are in it."""
        return tuple(member.alias for member in self.members)

    @property
    def size_bytes(self) -> int:
        """What its members occupy together, without spares."""
        return sum(member.record.size_bytes for member in self.members)

    @property
    def is_complete(self) -> bool:
        """Whether all its members are there."""
        return len(self.members) == self._record.members


@dataclass(frozen=True, kw_only=True)
class Snapshot(_Set):
    """A named, immutable set of copies, one per database, taken at one moment.

    Attributes:
        members: Its parts, one per database.
    """

    members: tuple[CopyMember, ...]

    @property
    def _record(self) -> CopyRecord:
        return self.members[0].record

    @property
    def note(self) -> str:
        """The user's own words."""
        return self._record.note

    @property
    def pinned(self) -> bool:
        """Whether pruning leaves it."""
        return self._record.pinned

    @property
    def seconds(self) -> float:
        """How long copying took."""
        return max(member.record.seconds for member in self.members)

    @property
    def git_branch(self) -> str:
        """Branch of the project's code at that time, or empty."""
        return self._record.git_branch

    @property
    def git_commit(self) -> str:
        """Commit of the project's code at that time, or empty."""
        return self._record.git_commit

    @property
    def git_dirty(self) -> bool:
        """Whether that code had uncommitted changes."""
        return self._record.git_dirty

    @property
    def migrations(self) -> Migrations:
        """Migrations applied in any of its databases, as (app, name), sorted."""
        return tuple(sorted({key for member in self.members for key in member.record.migrations}))

    @property
    def spare(self) -> SpareState:
        """Whether restoring it only has to rename: all spares ready, some on their way, or not."""
        states = {member.spare for member in self.members}
        if states == {"ready"}:
            return "ready"
        return "none" if "none" in states else "building"


@dataclass(frozen=True, kw_only=True)
class Undo(_Set):
    """A state that a restore or an undo replaced; ``name`` is the snapshot it was about."""

    members: tuple[UndoMember, ...]

    @property
    def _record(self) -> UndoRecord:
        return self.members[0].record

    @property
    def by_undo(self) -> bool:
        """Whether an undo replaced it rather than a restore."""
        return self._record.by_undo

    @property
    def based_on(self) -> str:
        """The snapshot that it was restored from, or empty."""
        return self._record.based_on

    @property
    def is_unwritten(self) -> bool:
        """Whether the server counted no row that was written since it was put in place."""
        return all(member.record.clone_of for member in self.members)


def snapshots_of(members: Iterable[CopyMember]) -> list[Snapshot]:
    """Group members into snapshots, newest first."""
    return [Snapshot(members=group) for group in _grouped(members)]


def undos_of(members: Iterable[UndoMember]) -> list[Undo]:
    """Group members into undos, newest first."""
    return [Undo(members=group) for group in _grouped(members)]


def _grouped(members: Iterable[MemberT]) -> list[tuple[MemberT, ...]]:
    groups: dict[str, list[MemberT]] = {}
    for member in members:
        groups.setdefault(member.record.set_id, []).append(member)
    ordered = sorted(groups.values(), key=lambda group: group[0].record.taken_at, reverse=True)
    # Copies are made at the same time, so the order that they are found in means nothing.
    return [tuple(sorted(group, key=lambda member: member.alias)) for group in ordered]
