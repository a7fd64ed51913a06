"""Looking: which snapshots there are, and what they occupy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import catalog, locks, targets
from ..catalog import Catalog
from ..server import Server
from ..session import Session
from ..targets import Target
from . import choosing, operation
from .model import Member, Snapshot, Undo, snapshots_of, undos_of
from .site import members_of
from .underway import Underway, underway


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What there is.

    Attributes:
        snapshots: Newest first.
        undos: What restores replaced, newest first; usually one or none.
        occupied_bytes: What all copies, spares and undos occupy together, as far as the file
            system does not share blocks between them.
        underway: Operations that are at work on the live databases.
    """

    snapshots: tuple[Snapshot, ...]
    undos: tuple[Undo, ...]
    occupied_bytes: int
    underway: tuple[Underway, ...] = ()


def overview(*, databases: Sequence[str] | None = None, everyone: bool = False) -> Overview:
    """Return what snapshots and undos there are.

    Args:
        databases: Aliases; None for all that the settings name.
        everyone: Whether to include those of other projects on the same servers, as far as our
            role may act as their owners.

    Raises:
        PgsnapError: Snapshots are switched off, or a server cannot be reached.
    """
    copies: list[Member] = []
    undos: list[Member] = []
    at_work: list[Underway] = []
    for server, group in targets.by_server(operation.chosen(databases)).items():
        with operation.look("list", server, group) as session:
            here = _Here(server, session, group)
            sources = None if everyone else [target.name for target in group]
            copies += here.members(here.catalog.copies(sources))
            undos += here.members(here.catalog.undos(sources))
            at_work += here.underway()
    return Overview(
        snapshots=tuple(snapshots_of(copies)),
        undos=tuple(undos_of(undos)),
        occupied_bytes=sum(map(_occupied_bytes, [*copies, *undos])),
        underway=tuple(at_work),
    )


def list_snapshots(
    *, databases: Sequence[str] | None = None, everyone: bool = False
) -> tuple[Snapshot, ...]:
    """Return the snapshots that there are, newest first; arguments as for `overview`."""
    return overview(databases=databases, everyone=everyone).snapshots


def get(name: str | None = None, *, databases: Sequence[str] | None = None) -> Snapshot:
    """Return one snapshot.

    Args:
        name: Its name; None for the newest.
        databases: Aliases; None for all that the settings name.

    Raises:
        SnapshotNotFoundError: There is none of that name.
    """
    return choosing.choose(list_snapshots(databases=databases), name)


class _Here:
    """One server, as it is at this moment."""

    def __init__(self, server: Server, session: Session, known: Sequence[Target]) -> None:
        self._server = server
        self._known = known
        self.catalog: Catalog = catalog.load(session)
        self._holders = locks.holders(session)

    def members(self, databases: Sequence[catalog.Database]) -> list[Member]:
        building = frozenset(self._holders)
        return members_of(self._server, self._known, self.catalog, databases, building)

    def underway(self) -> list[Underway]:
        return underway(self._known, self._holders)


def _occupied_bytes(member: Member) -> int:
    return member.record.size_bytes * (1 if member.spare == "none" else 2)
