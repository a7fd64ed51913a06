"""The scene: one server as the doctor sees it at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import catalog, locks, names, targets
from ..catalog import Catalog, Database
from ..server import Server
from ..session import Session
from ..snapshots.model import Member
from ..snapshots.site import members_of
from ..targets import Target
from .finding import Finding, Severity


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One server, the live databases on it, and what there is of ours.

    Attributes:
        server: The server.
        session: A maintenance session on it.
        targets: The live databases that the doctor was asked about.
        catalog: The server's databases.
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
        locked = frozenset(locks.holders(session))
        return cls(
            server=server,
            session=session,
            targets=tuple(about),
            catalog=catalog.load(session),
            locked=locked | frozenset(locks.holders(session)),
        )

    @property
    def sources(self) -> list[str]:
        """Names of the live databases."""
        return [target.name for target in self.targets]

    @property
    def present(self) -> list[str]:
        """Names of those live databases that exist."""
        return [name for name in self.sources if name in self.catalog]

    def copies(self) -> list[Member]:
        """Return the members of snapshots of these live databases."""
        return self._members(self.catalog.copies(self.sources))

    def everyones_copies(self) -> list[Member]:
        """Return the members of all snapshots on the server, other projects' too."""
        return self._members(self.catalog.copies())

    def undos(self) -> list[Member]:
        """Return the members of undos of these live databases."""
        return self._members(self.catalog.undos(self.sources))

    def leftovers(self) -> list[Database]:
        """Return what interrupted operations left, and nobody is at work on."""
        return [
            database
            for database in self.catalog.leftovers(self.sources, targets.live_names())
            if not self.is_locked(database.name)
        ]

    def is_locked(self, database: str) -> bool:
        """Tell whether somebody is at work on a database."""
        return names.lock_key(database) in self.locked

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

    def _members(self, databases: list[Database]) -> list[Member]:
        return members_of(self.server, self.targets, self.catalog, databases, self.locked)
