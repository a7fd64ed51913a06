"""One server's part of an operation: its sessions, and what of ours is on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import catalog, names, targets
from ..catalog import Catalog, Database
from ..errors import DatabaseMissingError
from ..metadata import Record
from ..server import Server
from ..session import Session
from ..targets import Target
from .model import Member, SpareState


@dataclass(frozen=True, kw_only=True)
class Site:
    """One server's part of an operation.

    Attributes:
        server: The server.
        targets: The live databases on it that the operation is about.
        watcher: A session that looks on and ends others.
        workers: A session per alias; it holds the lock of its live database.
        catalog: The server's databases once the locks were held.
    """

    server: Server
    targets: tuple[Target, ...]
    watcher: Session
    workers: dict[str, Session]
    catalog: Catalog

    @property
    def sources(self) -> list[str]:
        """Names of the live databases."""
        return [target.name for target in self.targets]

    @property
    def main(self) -> Session:
        """The session that sends what concerns all databases of the server."""
        return self.workers[self.targets[0].alias]

    def reloaded(self) -> Site:
        """Return the same with the catalog as it is now."""
        return replace(self, catalog=catalog.load(self.watcher))

    def live(self, target: Target) -> Database:
        """Return a live database's catalog row.

        Raises:
            DatabaseMissingError: It does not exist.
        """
        database = self.catalog.get(target.name)
        if database is None:
            raise DatabaseMissingError(
                f"The database {target.name!r} of the alias {target.alias!r} does not exist on the "
                f"server at {self.server}.",
                hint="Create it (createdb, then manage.py migrate), or restore a snapshot of it.",
            )
        return database

    def copies(self) -> list[Member]:
        """Return the members of snapshots of these live databases."""
        return members_of(
            self.server, self.targets, self.catalog, self.catalog.copies(self.sources)
        )

    def project_copies(self) -> list[Member]:
        """Return the members of snapshots of all the project's databases on this server."""
        known = [target for target in targets.targets() if target.server == self.server]
        sources = {target.name for target in (*known, *self.targets)}
        return members_of(self.server, known, self.catalog, self.catalog.copies(sources))

    def undos(self) -> list[Member]:
        """Return the members of undos of these live databases."""
        present = self.catalog
        return members_of(self.server, self.targets, present, present.undos(self.sources))


def members_of(
    server: Server,
    known: Sequence[Target],
    present: Catalog,
    databases: Sequence[Database],
    building: frozenset[int] = frozenset(),
) -> list[Member]:
    """Return published databases as members; ``building`` has the lock keys that are held."""
    aliases = {target.name: target.alias for target in known}
    return [
        Member(
            alias=aliases.get(record.source, record.alias),
            record=record,
            database=database,
            server=server,
            spare=_spare_state(record, present, building),
        )
        for database in databases
        if (record := database.record) is not None
    ]


def _spare_state(record: Record, present: Catalog, building: frozenset[int]) -> SpareState:
    if present.spare(record.identity):
        return "ready"
    return "building" if names.lock_key(names.spare_name(record.identity)) in building else "none"
