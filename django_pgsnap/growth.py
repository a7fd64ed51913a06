"""How far a copy is, seen by the files that appear in the server's data directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from .server import Session

# A database of the default tablespace has a directory named by its oid below base, one of another
# tablespace below that tablespace's versioned directory (manual, "Database File Layout"). A
# database under construction has no row yet, so its directory has none either.
_PARENTS: Final = sql.SQL(
    "SELECT 'base' UNION ALL"
    " SELECT 'pg_tblspc/' || t.oid || '/' || v FROM pg_tablespace t,"
    " pg_ls_dir('pg_tblspc/' || t.oid) v WHERE t.spcname NOT IN ('pg_default', 'pg_global')"
)
_UNNAMED: Final = sql.SQL(
    "SELECT p || '/' || entry FROM unnest(%s::text[]) p, pg_ls_dir(p, true, false) entry"
    " WHERE entry ~ '^[0-9]+$' AND entry::oid NOT IN (SELECT oid FROM pg_database)"
)
_BYTES: Final = sql.SQL(
    "SELECT coalesce(sum((pg_stat_file(d || '/' || f, true)).size), 0)::bigint"
    " FROM unnest(%s::text[]) d, pg_ls_dir(d, true, false) f"
)
_ALLOWED: Final = sql.SQL(
    "SELECT has_function_privilege('pg_ls_dir(text,boolean,boolean)', 'execute')"
    " AND has_function_privilege('pg_ls_dir(text)', 'execute')"
    " AND has_function_privilege('pg_stat_file(text,boolean)', 'execute')"
)


class Growth:
    """Watches the directories of databases under construction.

    Usually only a superuser may look; for others `done_bytes` is None. Where several databases
    are being made on the server, other people's count too, so it is an indication.
    """

    def __init__(self, session: Session) -> None:
        """Remember what is there before our copies begin."""
        self._session = session
        self._parents: list[str] = []
        self._before: set[str] = set()
        if session.value(_ALLOWED):
            self._parents = [path for (path,) in session.rows(_PARENTS)]
            self._before = set(self._unnamed())

    def done_bytes(self) -> int | None:
        """Return how much has been copied, None where our role may not look."""
        if not self._parents:
            return None
        try:
            directories = [path for path in self._unnamed() if path not in self._before]
            return int(self._session.value(_BYTES, [directories]))
        except psycopg.errors.UndefinedFile:  # a tablespace went away
            return None

    def _unnamed(self) -> Sequence[str]:
        return [path for (path,) in self._session.rows(_UNNAMED, [self._parents])]
