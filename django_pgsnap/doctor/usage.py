"""What the project's databases occupy, by kind."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from .. import names
from .finding import Usage
from .scene import Scene

# Who may not connect may not see a size either (manual, "Database Object Management Functions").
_BYTES = sql.SQL(
    "SELECT coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT')"
    " OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(oid) END), 0)::bigint"
    " FROM pg_database WHERE datname = ANY(%s)"
)


def usage(scenes: Iterable[Scene]) -> tuple[Usage, ...]:
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
            names.spare_name(member.record.identity) for member in copies if member.spare == "ready"
        ],
        "undos": [member.database.name for member in scene.undos()],
        "leftovers": [database.name for database in scene.leftovers()],
    }
