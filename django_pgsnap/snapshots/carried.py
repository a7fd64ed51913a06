"""What a snapshot carries beside the data: the properties that its copies are set up with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import properties
from ..errors import SnapshotNotFoundError
from ..properties import Privilege, Properties
from ..session import Session
from . import operation
from .model import Member, Snapshot


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What one copy carries, for a live database that is gone.

    Attributes:
        alias: The alias of the live database.
        owner: The owning role.
        privileges: Who may do what: ``reader: CONNECT``.
        settings: Its settings, for a role or for all: ``reader: work_mem = 64MB``.
        connection_limit: How many sessions it takes, -1 for any number.
        comment: The user's own comment, None without one.
        labels: Its security labels: ``selinux: …``.
    """

    alias: str
    owner: str
    privileges: tuple[str, ...]
    settings: tuple[str, ...]
    connection_limit: int
    comment: str | None
    labels: tuple[str, ...]


def carried(snapshot: Snapshot) -> list[Carried]:
    """Return what each copy of a snapshot carries, in the order of its members.

    Raises:
        SnapshotNotFoundError: A copy has gone meanwhile.
        PgsnapError: A server cannot be reached.
    """
    found: dict[str, Carried] = {}
    for server in {member.server: None for member in snapshot.members}:
        here = [member for member in snapshot.members if member.server == server]
        with operation.server_errors(), server.session("show") as session:
            for member, each in zip(here, _read(session, snapshot, here), strict=True):
                found[member.database.name] = _carried(member, each)
    return [found[member.database.name] for member in snapshot.members]


def _read(session: Session, snapshot: Snapshot, here: Sequence[Member]) -> list[Properties]:
    try:
        return properties.read(session, *(member.database.name for member in here))
    except KeyError as error:
        raise SnapshotNotFoundError(
            f"The snapshot {snapshot.name!r} has just been deleted.",
            hint="See which ones there are.",
        ) from error


def _carried(member: Member, each: Properties) -> Carried:
    return Carried(
        alias=member.alias,
        owner=each.owner,
        privileges=_privileges(each.privileges),
        settings=tuple(
            sorted(
                f"{role}: {name} = {value}" if role else f"{name} = {value}"
                for (role, name), value in each.settings.items()
            )
        ),
        # These say of the copy itself what stage it is at, so they are kept in its record.
        connection_limit=member.record.connection_limit,
        comment=member.record.comment,
        labels=tuple(sorted(f"{provider}: {label}" for provider, label in each.labels.items())),
    )


def _privileges(given: frozenset[Privilege]) -> tuple[str, ...]:
    by_grantee: dict[str, set[str]] = {}
    for each in given:
        option = " WITH GRANT OPTION" if each.grantable else ""
        by_grantee.setdefault(each.grantee or "PUBLIC", set()).add(f"{each.privilege}{option}")
    return tuple(
        f"{grantee}: {', '.join(sorted(privileges))}"
        for grantee, privileges in sorted(by_grantee.items())
    )
