"""Choosing: which snapshot a name means, and why there may be none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import sql

from .. import names
from ..errors import SnapshotNotFoundError
from .model import Member, Snapshot, snapshots_of
from .site import Site


def find_in(sites: Sequence[Site], name: str | None) -> Snapshot:
    """Return the snapshot that a name means among those of an operation's databases.

    Args:
        sites: The servers' parts of the operation.
        name: The snapshot's name; None for the newest.

    Raises:
        SnapshotNotFoundError: There is none of that name, or it belongs to a stranger.
    """
    try:
        return find([member for site in sites for member in site.copies()], name)
    except SnapshotNotFoundError:
        for site in sites:
            _check_strangers(site, name)
        raise


def _check_strangers(site: Site, name: str | None) -> None:
    """Say so where what was looked for is there, but belongs to a role that we do not trust."""
    for database in site.catalog.untrusted():
        record = database.record
        if record is None or record.kind != "copy" or record.source not in site.sources:
            continue
        live = site.catalog.get(record.source)
        if live is not None and name in (None, record.name):
            adopt = sql.SQL("ALTER DATABASE {} OWNER TO {};").format(
                sql.Identifier(database.name), sql.Identifier(live.owner)
            )
            raise SnapshotNotFoundError(
                f"There is no snapshot {record.name!r} of {live.name!r} that counts: the database "
                f"{database.name!r} says it is one, but belongs to the role {database.owner!r}, "
                f"while the live database belongs to {live.owner!r}.",
                hint=f"If you know it to be yours, run: {adopt.as_string(None)}",
            )


def find(members: Iterable[Member], name: str | None) -> Snapshot:
    """Return the snapshot that a name means among these members.

    Raises:
        SnapshotNotFoundError: There is none of that name.
    """
    return choose(snapshots_of(members), name)


def choose(found: Sequence[Snapshot], name: str | None) -> Snapshot:
    """Return the snapshot that a name means among these, newest first; arguments as for `find`."""
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
