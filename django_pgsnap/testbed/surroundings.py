"""What a template depends on outside of the project: the server, the role, what is installed."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from psycopg import sql

from ..session import Session
from .ground import cloned_from


def ingredients(session: Session, template_database: str | None) -> dict[str, Any]:
    """Return what a new database depends on that no project decides, by name.

    Args:
        session: A maintenance session, as the role that migrates.
        template_database: The name in ``TEST["TEMPLATE"]``, if there is one.
    """
    return {
        "distributions": distributions(),
        "python": sys.version,
        "server": session.rows(_SERVER),
        "extensions": session.rows(_EXTENSIONS),
        "template database": session.rows(_TEMPLATE, [cloned_from(template_database)]),
        "role": session.rows(_ROLE),
    }


def distributions() -> list[str]:
    """Return all installed distributions, by the directories that have version in their names."""
    found: set[str] = set()
    for directory in {path or os.curdir for path in sys.path}:
        if os.path.isdir(directory):  # noqa: PTH112  # a hot spot of the start-up
            found.update(
                name
                for name in os.listdir(directory)  # noqa: PTH208  # the same
                if name.endswith((".dist-info", ".egg-info"))
            )
    return sorted(found)


_SERVER: Final = sql.SQL(
    "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'TimeZone',"
    " 'default_tablespace', 'default_text_search_config', 'lc_monetary', 'lc_numeric',"
    " 'lc_time', 'DateStyle', 'IntervalStyle', 'standard_conforming_strings') ORDER BY name"
)
_EXTENSIONS: Final = sql.SQL(
    "SELECT name, default_version FROM pg_available_extensions ORDER BY name"
)
# What is written into it shows in its counters, see `ground`. After a crash the server counts from
# zero; it notes that time with those of the background writer only.
_TEMPLATE: Final = sql.SQL(
    "SELECT d.oid, d.datname, d.encoding, d.datcollate, d.datctype, d.datcollversion,"
    " s.stats_reset, b.stats_reset"
    " FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid, pg_stat_bgwriter b"
    " WHERE d.datname = %s"
)
_ROLE: Final = sql.SQL(
    "SELECT r.rolname, r.rolsuper, s.setdatabase, s.setconfig FROM pg_roles r"
    " LEFT JOIN pg_db_role_setting s ON s.setdatabase = 0 AND s.setrole IN (0, r.oid)"
    " WHERE r.rolname = current_user ORDER BY 3, 4"
)
