"""What is to take the live databases' places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from .. import reconnect
from ..arrivals import Arrival
from ..catalog import Database
from ..metadata import Record
from ..targets import Target
from .model import Member, Snapshot
from .site import Site


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A shut database that is to take a live one's place.

    Attributes:
        site: The server it is on.
        target: The live database.
        database: The database that comes.
        record: The copy or undo that it stands for.
        set_up_like: A database with the properties to use if the live one is missing.
    """

    site: Site
    target: Target
    database: Database
    record: Record
    set_up_like: str

    @classmethod
    def of(cls, site: Site, target: Target, member: Member, database: Database) -> Self:
        """Return a database that stands for a member, that member itself or a clone of it."""
        return cls(
            site=site,
            target=target,
            database=database,
            record=member.record,
            set_up_like=member.database.name,
        )


def matched_with_live(
    sites: Sequence[Site], members: Sequence[Member]
) -> Iterator[tuple[Site, Target, Member]]:
    """Yield each member with the live database whose place it is about."""
    for member in members:
        for site in sites:
            for target in site.targets:
                if site.server == member.server and target.name == member.record.source:
                    yield site, target, member


def arrivals_of(incoming: Sequence[Incoming], snapshot: Snapshot | None) -> list[Arrival]:
    """Return what Django will meet behind which aliases."""
    return [
        Arrival(alias=alias, name=each.target.name, oid=each.database.oid, snapshot=snapshot)
        for each in incoming
        for alias in reconnect.aliases_of([each.target.alias])
    ]
