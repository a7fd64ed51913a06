"""What the doctor looks at on one server, what it finds, and what our databases occupy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from ..clones.catalog import AnyDatabase, Catalog, Database, RecordT, load_catalog
from ..clones.names import spare_name
from ..postgres.advisory_locks import lock_key, read_lock_holders
from ..postgres.server import Server
from ..postgres.session import Session
from ..postgres.targets import Target, live_database_names
from ..snapshots.context import build_members
from ..snapshots.types import CopyMember, Member, UndoMember

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        kind: A word that stays the same between releases.
        severity: ``error`` where snapshots do not work, ``warning`` where something should be
            put right, ``note`` for what is good to know.
        server: Empty where it is not known.
        object: A database, a role, a setting or a directory.
        remedy: Empty where nothing has to be done.
        fixable: Whether ``doctor --fix`` mends it.
        fixed: Whether it was mended just now.
    """

    kind: str
    severity: Severity
    server: str
    object: str
    cause: str
    remedy: str
    fixable: bool = False
    fixed: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What databases of one kind occupy, as far as the file system does not share blocks.

    Attributes:
        kind: ``live``, ``copies``, ``spares``, ``undos`` or ``leftovers``.
        size_bytes: Without those whose size our role may not see.
    """

    kind: str
    databases: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that the doctor has to say.

    Attributes:
        findings: Errors first, then warnings, then notes.
        usage: Disk use of the project's databases by kind, on all its servers together.
    """

    findings: tuple[Finding, ...]
    usage: tuple[Usage, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings that are left."""
        return tuple(
            finding for finding in self.findings if finding.severity != "note" and not finding.fixed
        )


# Who may not connect may not see a size either (manual, "Database Object Management Functions").
_BYTES = sql.SQL(
    "SELECT coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT')"
    " OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(oid) END), 0)::bigint"
    " FROM pg_database WHERE datname = ANY(%s)"
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One server, the live databases on it, and what there is of ours.

    Attributes:
        targets: The live databases that the doctor was asked about.
        locked: Keys of the advisory locks that are held.
    """

    server: Server
    session: Session
    targets: tuple[Target, ...]
    catalog: Catalog
    locked: frozenset[int]

    @classmethod
    def look(cls, server: Server, session: Session, about: Iterable[Target]) -> Scene:
        """Return the server as it is now."""
        # Whoever works on a database takes its lock first and gives it back last. So what was
        # free before we look, and is a leftover when we look, is at most about to be dropped.
        locked = frozenset(read_lock_holders(session))
        return cls(
            server=server,
            session=session,
            targets=tuple(about),
            catalog=load_catalog(session),
            locked=locked | frozenset(read_lock_holders(session)),
        )

    @property
    def sources(self) -> list[str]:
        """Names of the live databases."""
        return [target.name for target in self.targets]

    @property
    def present(self) -> list[str]:
        """Names of those live databases that exist."""
        return [name for name in self.sources if name in self.catalog]

    def copies(self) -> list[CopyMember]:
        """Return the members of snapshots of these live databases."""
        return self._members(self.catalog.copies(self.sources))

    def everyones_copies(self) -> list[CopyMember]:
        """Return the members of all snapshots on the server, other projects' too."""
        return self._members(self.catalog.copies())

    def undos(self) -> list[UndoMember]:
        """Return the members of undos of these live databases."""
        return self._members(self.catalog.undos(self.sources))

    def leftovers(self) -> list[AnyDatabase]:
        """Return what interrupted operations left, and nobody is at work on."""
        return [
            database
            for database in self.catalog.leftovers(self.sources, live_database_names())
            if not self.is_locked(database.name)
        ]

    def is_locked(self, database: str) -> bool:
        """Tell whether somebody is at work on a database."""
        return lock_key(database) in self.locked

    def finding(
        self,
        kind: str,
        severity: Severity,
        object_: str,
        cause: str,
        remedy: str = "",
        *,
        fixable: bool = False,
    ) -> Finding:
        """Return a finding on this server."""
        return Finding(
            kind=kind,
            severity=severity,
            server=str(self.server),
            object=object_,
            cause=cause,
            remedy=remedy,
            fixable=fixable,
        )

    def _members(self, databases: list[Database[RecordT]]) -> list[Member[RecordT]]:
        return build_members(self.server, self.targets, self.catalog, databases, self.locked)


def measure_usage(scenes: Iterable[Scene]) -> tuple[Usage, ...]:
    """Return what there is of each kind, and what it occupies."""
    totals: dict[str, Usage] = {}
    for scene in scenes:
        for kind, databases in _by_kind(scene).items():
            before = totals.get(kind, Usage(kind=kind, databases=0, size_bytes=0))
            totals[kind] = Usage(
                kind=kind,
                databases=before.databases + len(databases),
                size_bytes=before.size_bytes + int(scene.session.value(_BYTES, [databases])),
            )
    return tuple(totals.values())


def _by_kind(scene: Scene) -> dict[str, list[str]]:
    copies = scene.copies()
    return {
        "live": scene.present,
        "copies": [member.database.name for member in copies],
        "spares": [
            spare_name(member.record.identity) for member in copies if member.spare == "ready"
        ],
        "undos": [member.database.name for member in scene.undos()],
        "leftovers": [database.name for database in scene.leftovers()],
    }
