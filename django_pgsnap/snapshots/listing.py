"""Looking: which snapshots there are, what they occupy, and which one a name means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import catalog, guard, locks, names, targets
from ..catalog import Catalog
from ..errors import SnapshotNotFoundError
from ..server import Server, Session
from ..targets import Target
from . import operation
from .model import Member, Snapshot, Undo, snapshots_of, undos_of
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
        with operation.server_errors(), server.session("list") as session:
            guard.check_address(session, group)
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
    return _choose(list_snapshots(databases=databases), name)


def find(members: Iterable[Member], name: str | None) -> Snapshot:
    """Return the snapshot that a name means among these members.

    Raises:
        SnapshotNotFoundError: There is none of that name.
    """
    return _choose(snapshots_of(members), name)


def _choose(found: Sequence[Snapshot], name: str | None) -> Snapshot:
    # Two of one name exist only where a replacement across servers was interrupted. The newest
    # complete one is meant then.
    matching = [snapshot for snapshot in found if name is None or snapshot.name == name]
    complete = [snapshot for snapshot in matching if snapshot.is_complete]
    if matching:
        return (complete or matching)[0]
    if not found:
        wanted = "There is no snapshot yet" if name is None else f"There is no snapshot {name!r}"
        raise SnapshotNotFoundError(f"{wanted}.", hint="Take one with pgsnap take.")
    similar = names.nearest(name or "", [snapshot.name for snapshot in found])
    raise SnapshotNotFoundError(
        f"There is no snapshot {name!r}.",
        hint=f"Did you mean {' or '.join(map(repr, similar))}?"
        if similar
        else f"There are: {', '.join(snapshot.name for snapshot in found)}.",
    )


class _Here:
    """One server, as it is at this moment."""

    def __init__(self, server: Server, session: Session, known: Sequence[Target]) -> None:
        self._server = server
        self._known = known
        self.catalog: Catalog = catalog.load(session)
        self._holders = locks.holders(session)

    def members(self, databases: Sequence[catalog.Database]) -> list[Member]:
        building = frozenset(self._holders)
        return operation.members(self._server, self._known, self.catalog, databases, building)

    def underway(self) -> list[Underway]:
        return underway(self._known, self._holders)


def _occupied_bytes(member: Member) -> int:
    return member.record.size_bytes * (1 if member.spare == "none" else 2)
