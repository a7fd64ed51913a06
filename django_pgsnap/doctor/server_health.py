"""The server as a whole: what copies stand in the way of, and what a crash left on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql

from ..clones.strategy import is_wal_log_safe
from ..conf import config
from ..messages import format_size
from ..postgres.data_directory import can_read_data_directory, find_orphans
from ..postgres.inspection import measure_databases
from .findings import Finding, Scene

_SHUT: Final = sql.SQL(
    "SELECT datname FROM pg_database WHERE NOT datallowconn AND datname = ANY(%s) ORDER BY oid"
)
# Roles are referred to from shared objects and from inside databases. Those that nothing but
# our databases refers to could be dropped, were it not for them.
_KEPT_ROLES: Final = sql.SQL(
    "SELECT quote_ident(r.rolname), array_agg(DISTINCT d.datname::text)"
    " FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid"
    " LEFT JOIN pg_database d ON d.oid = CASE WHEN s.dbid <> 0 THEN s.dbid"
    " WHEN s.classid = 'pg_database'::regclass THEN s.objid END"
    " WHERE s.refclassid = 'pg_authid'::regclass GROUP BY r.rolname"
    " HAVING bool_and(coalesce(d.datname = ANY(%s), false)) ORDER BY r.rolname"
)


def find_server_problems(scene: Scene) -> Iterator[Finding]:
    """Say what concerns the whole server."""
    yield from _orphans(scene)
    yield from _upgrade(scene)
    yield from _kept_roles(scene)
    yield from _unsafe_wal_log(scene)
    yield from _too_large_for_spares(scene)


def _orphans(scene: Scene) -> Iterator[Finding]:
    if not can_read_data_directory(scene.watcher):
        yield scene.finding(
            "orphaned-files-unknown",
            "note",
            "data directory",
            "Your role may not look for files that a crashed server left of unfinished copies.",
            "Run doctor as a superuser once after a crash of the server.",
        )
        return
    for orphan in find_orphans(scene.watcher):
        yield scene.finding(
            "orphaned-files",
            "warning",
            orphan.path,
            f"It holds {format_size(orphan.size_bytes)} of no database, last changed "
            f"{orphan.modified}: CREATE DATABASE was filling it when the server crashed, or when "
            "it was stopped twice in a row.",
            "SQL cannot remove it. On the server's machine, as the server's user: "
            f"rm -r '{orphan.path}'",
        )


def _upgrade(scene: Scene) -> Iterator[Finding]:
    shut = [name for (name,) in scene.watcher.rows(_SHUT, [_ours(scene)])]
    if shut:
        yield scene.finding(
            "pg-upgrade",
            "note",
            _listed(shut),
            f"pg_upgrade refuses databases that nobody may connect to: {len(shut)} here.",
            "Before an upgrade run ./manage.py pgsnap purge, or open them (ALTER DATABASE "
            f"{sql.Identifier(shut[0]).as_string(None)} ALLOW_CONNECTIONS true; and so on); "
            "doctor says afterwards how to shut them again.",
        )


def _kept_roles(scene: Scene) -> Iterator[Finding]:
    for role, databases in scene.watcher.rows(_KEPT_ROLES, [_ours(scene)]):
        yield scene.finding(
            "kept-role",
            "note",
            role,
            f"DROP ROLE would fail only for what it has in {_listed(sorted(databases))}.",
            "Before dropping it, delete those snapshots or take them anew.",
        )


def _unsafe_wal_log(scene: Scene) -> Iterator[Finding]:
    if not is_wal_log_safe(scene.watcher):
        yield scene.finding(
            "wal-log-unsafe",
            "warning",
            f"PostgreSQL {scene.watcher.server_name}",
            "Its strategy WAL_LOG can corrupt the database that it copies. It is not used here, "
            "but by every other CREATE DATABASE.",
            "Upgrade to the latest minor release.",
        )


def _too_large_for_spares(scene: Scene) -> Iterator[Finding]:
    largest = max(measure_databases(scene.watcher, scene.present).values(), default=0)
    if largest > config().spare_max_bytes:
        yield scene.finding(
            "no-spare",
            "note",
            "PGSNAP['SPARE_MAX_BYTES']",
            f"The largest live database has {format_size(largest)}, above the limit of "
            f"{format_size(config().spare_max_bytes)}, so restores copy it unless the file "
            "system shares blocks.",
            "Raise the limit if the disk has room for one more copy.",
        )


def _ours(scene: Scene) -> list[str]:
    """Return the names of all shut databases of ours, other projects' too."""
    found = scene.catalog
    ours = [*found.copies(), *found.undos(), *found.spares.values(), *found.templates()]
    return list({database.name for database in (*ours, *scene.leftovers())})


def _listed(databases: list[str]) -> str:
    shown = ", ".join(databases[:3])
    return f"{shown} and {len(databases) - 3} more" if len(databases) > 3 else shown  # noqa: PLR2004
