"""The server as a whole: what copies stand in the way of, crashed copies' files, slow settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql

from ..clones.strategy import WAL_LOG_MAX_BYTES, can_share_blocks, is_wal_log_safe
from ..conf import config
from ..formatting import format_size
from ..postgres.data_directory import can_read_data_directory, find_orphans
from .findings import Finding, Scene

# A session that looks on, one per live database, one that looks inside, one for a drop.
_SESSIONS_BESIDE_LIVE: Final = 3

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
_SLOTS: Final = sql.SQL(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0)"
    " - count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'"
)
_LARGEST: Final = sql.SQL(
    "SELECT coalesce(max(pg_database_size(oid)), 0)::bigint FROM pg_database"
    " WHERE datname = ANY(%s) AND (has_database_privilege(oid, 'CONNECT')"
    " OR pg_has_role('pg_read_all_stats', 'USAGE'))"
)


def find_server_problems(scene: Scene) -> Iterator[Finding]:
    """Say what concerns the whole server."""
    yield from _orphans(scene)
    yield from _upgrade(scene)
    yield from _kept_roles(scene)
    yield from _slots(scene)
    yield from _slow(scene)


def _orphans(scene: Scene) -> Iterator[Finding]:
    if not can_read_data_directory(scene.session):
        yield scene.finding(
            "orphaned-files-unknown",
            "note",
            "data directory",
            "Your role may not look for files that a crashed server left of unfinished copies.",
            "Run doctor as a superuser once after a crash of the server.",
        )
        return
    for orphan in find_orphans(scene.session):
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
    shut = [name for (name,) in scene.session.rows(_SHUT, [_ours(scene)])]
    if shut:
        yield scene.finding(
            "pg-upgrade",
            "note",
            _listed(shut),
            f"pg_upgrade refuses {_count(len(shut), 'database')} that nobody may connect to.",
            "Before an upgrade delete the snapshots, or keep them by opening them (ALTER DATABASE "
            f"{sql.Identifier(shut[0]).as_string(None)} ALLOW_CONNECTIONS true; and so on); "
            "doctor says afterwards how to shut them again.",
        )


def _kept_roles(scene: Scene) -> Iterator[Finding]:
    for role, databases in scene.session.rows(_KEPT_ROLES, [_ours(scene)]):
        yield scene.finding(
            "kept-role",
            "note",
            role,
            f"DROP ROLE would fail only for what it has in {_listed(sorted(databases))}.",
            "Before dropping it, delete those snapshots (see pgsnap list) or take them anew.",
        )


def _slots(scene: Scene) -> Iterator[Finding]:
    free = int(scene.session.value(_SLOTS))
    needed = len(scene.targets) + _SESSIONS_BESIDE_LIVE
    if free < needed:
        yield scene.finding(
            "connections-full",
            "warning",
            "max_connections",
            f"Only {max(free, 0)} connections are free, and a take or restore needs {needed}.",
            "Close clients, or run ALTER SYSTEM SET max_connections = … and restart the server.",
        )


def _slow(scene: Scene) -> Iterator[Finding]:
    session = scene.session
    largest = int(session.value(_LARGEST, [scene.present]))
    if session.value(sql.SQL("SELECT current_setting('fsync')::bool")):
        yield scene.finding(
            "fsync",
            "note",
            "fsync",
            "It is on, so every copy and drop waits for the disk, as it must where data counts.",
            "On a machine whose data can be made again: ALTER SYSTEM SET fsync = off; SELECT "
            "pg_reload_conf(); (a power cut can then destroy every database of the server).",
        )
    if not is_wal_log_safe(session):
        yield scene.finding(
            "wal-log-unsafe",
            "warning",
            f"PostgreSQL {session.server_name}",
            "Its strategy WAL_LOG, the quickest for small databases, can corrupt the database "
            "that it copies; it is not used here, but by every CREATE DATABASE of others.",
            "Upgrade to the latest minor release.",
        )
    if largest > WAL_LOG_MAX_BYTES and not can_share_blocks(session):
        yield scene.finding(
            "no-block-sharing",
            "note",
            f"PostgreSQL {session.server_name}",
            f"It copies all {format_size(largest)} of the largest live database, even where the "
            "file system could share blocks.",
            "PostgreSQL 18 shares them on XFS, btrfs, ZFS and APFS.",
        )
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
    present = scene.catalog
    shut = [*present.copies(), *present.undos(), *present.spares(), *present.templates()]
    ours = [*shut, *scene.leftovers()]
    return list(dict.fromkeys(database.name for database in ours))


def _listed(databases: list[str]) -> str:
    shown = ", ".join(databases[:3])
    return f"{shown} and {len(databases) - 3} more" if len(databases) > 3 else shown  # noqa: PLR2004


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
