"""The directories of databases on the server's disk: how far a copy is, and what a crash left.

A database of the default tablespace has a directory named by its oid below ``base``, one of
another tablespace below that tablespace's versioned directory (manual, "Database File Layout"). A
database under construction has no row in ``pg_database`` yet.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import psycopg
from psycopg import sql

from .session import Session

_ALLOWED: Final = sql.SQL(
    "SELECT has_function_privilege('pg_ls_dir(text,boolean,boolean)', 'execute')"
    " AND has_function_privilege('pg_stat_file(text,boolean)', 'execute')"
)
# A tablespace's directory may also serve a cluster of another major version, an upgraded one's
# predecessor for instance.
_WITHOUT_ROW: Final = sql.SQL(
    "SELECT p || '/' || entry FROM (SELECT 'base' UNION ALL"
    " SELECT 'pg_tblspc/' || t.oid || '/' || v FROM pg_tablespace t,"
    " pg_ls_dir('pg_tblspc/' || t.oid, true, false) v"
    " WHERE t.spcname NOT IN ('pg_default', 'pg_global') AND starts_with(v,"
    " 'PG_' || current_setting('server_version_num')::int / 10000 || '_')) parents (p),"
    " pg_ls_dir(p, true, false) entry"
    " WHERE entry ~ '^[0-9]+$' AND entry::oid NOT IN (SELECT oid FROM pg_database)"
)
_BYTES: Final = sql.SQL(
    "SELECT coalesce(sum((pg_stat_file(d || '/' || f, true)).size), 0)::bigint"
    " FROM ({}) made (d), pg_ls_dir(d, true, false) f WHERE d <> ALL(%s)"
).format(_WITHOUT_ROW)
# CREATE DATABASE holds this lock from before it makes a directory until its row is visible, or
# the directory gone (source, createdb). File times come from a coarser clock than transactions'.
_UNTOUCHED_BY_WRITERS: Final = sql.SQL(
    "WITH writers AS (SELECT a.xact_start FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'relation' AND l.relation = 'pg_database'::regclass AND l.granted"
    " AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
    " 'AccessExclusiveLock'))"
    " SELECT d FROM unnest(%s::text[]) d WHERE NOT EXISTS (SELECT FROM writers"
    " WHERE xact_start IS NULL OR coalesce((pg_stat_file(d, true)).modification"
    " > xact_start - interval '1 second', true))"
)
_ORPHANS: Final = sql.SQL(
    "SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')"
    " THEN current_setting('data_directory') || '/' ELSE '' END || d,"
    " (pg_stat_file(d)).modification::text,"
    " (SELECT coalesce(sum((pg_stat_file(d || '/' || f, true)).size), 0)::bigint"
    " FROM pg_ls_dir(d, true, false) f) FROM unnest(%s::text[]) d ORDER BY d"
)


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A directory that belongs to no database, and never will."""

    path: str  # relative to the data directory where our role may not see where that is
    modified: str  # when the server last made a file in it, as the server writes a time
    size_bytes: int


def list_unfinished(session: Session) -> list[str] | None:
    """Return the directories without a database; None where our role may not look.

    Usually only a superuser may.
    """
    return session.column(_WITHOUT_ROW) if session.value(_ALLOWED) else None


def find_orphans(session: Session) -> list[Orphan] | None:
    """Return the directories that a crash of the server left, None where our role may not look.

    A database that is being made at this moment has no visible row either. So:

    1. Directories without a row are noted.
    2. Those that somebody may still be filling are left out: all that changed since the oldest
       transaction began that may be making a database. Without any, whoever made one of the
       directories has ended.
    3. Then its row is visible by now, or the directory is gone. What is still there without a row
       is nobody's.
    """
    try:
        if (noted := list_unfinished(session)) is None:
            return None
        settled = set(session.column(_UNTOUCHED_BY_WRITERS, [noted]))
        left = sorted(settled.intersection(session.column(_WITHOUT_ROW)))
        return session.values(Orphan, _ORPHANS, [left])
    except psycopg.errors.UndefinedFile:  # a tablespace or a directory went away: look again
        return find_orphans(session)


def measure_growth(session: Session, before: Sequence[str] | None) -> int | None:
    """Return how many bytes are in directories without a database that were not there before.

    Other people's count too, where several databases are being made on the server.
    """
    return None if before is None else int(session.value(_BYTES, [list(before)]))


_DIRECTORIES: Final = sql.SQL(
    "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
    " UNION ALL SELECT pg_tablespace_location(oid) FROM pg_tablespace"
)


def read_free_bytes(session: Session) -> int | None:
    """Return what is free on the fullest disk of the server; None where one cannot see that.

    The server does not tell it. So it is seen only on the same machine, of the tablespaces, and of
    the data directory by a role that may know where it is.
    """
    if session.address and not ip_address(session.address).is_loopback:
        return None
    found = []
    for directory in filter(None, session.column(_DIRECTORIES)):
        # A container's directory of the same name is on another disk, and usually not there.
        with suppress(OSError):
            found.append(shutil.disk_usage(directory).free)
    return min(found, default=None)
