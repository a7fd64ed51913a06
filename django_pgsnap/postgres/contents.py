"""What is read inside a live database, before it is copied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from ..migration_drift import Migrations
from .session import Session


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a snapshot records of a live database.

    Attributes:
        migrations: Applied migrations as (app, name), sorted; None where they may not be read.
        relations: How many tables, indexes and sequences there are, which have a file each.
    """

    migrations: Migrations | None
    unlogged: tuple[str, ...]
    relations: int = 0


def read_contents(session: Session) -> Contents:
    """Return what the database that the session is on holds."""
    return Contents(
        migrations=read_migrations(session),
        unlogged=tuple(name for (name,) in session.rows(_UNLOGGED, [list(session.schemas)])),
        relations=int(session.value(_RELATIONS)),
    )


def read_sequence_positions(session: Session) -> list[tuple[int, int, bool]]:
    """Return where all sequences are: oid, last value, and whether that was given out.

    Raises:
        psycopg.errors.InsufficientPrivilege: Our role may not read one.
        psycopg.errors.UndefinedTable: One was dropped meanwhile.
    """
    sequences = session.rows(_LIST_SEQUENCES)
    found = []
    for start in range(0, len(sequences), _SEQUENCES_PER_QUERY):
        part = sequences[start : start + _SEQUENCES_PER_QUERY]
        found += session.rows(
            sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {}::pg_catalog.oid, last_value, is_called FROM {}").format(
                    sql.Literal(oid), sql.Identifier(schema, name)
                )
                for oid, schema, name in part
            )
        )
    return [(int(oid), int(last), bool(called)) for oid, last, called in found]


def read_migrations(session: Session) -> Migrations | None:
    """Return the applied migrations as (app, name), sorted; none where our role may not read."""
    # What other roles have put there instead could run functions of theirs in our name: a view, or
    # a table with a policy.
    session.configure({"row_security": "off"})
    # Django finds the table by the search path, and so does this.
    schema = session.value(_MIGRATIONS, {"schemas": list(session.schemas)})
    if schema is None:
        return ()
    # Unlike COPY, SELECT would be planned, and that runs functions of an index' expressions.
    query = sql.SQL("COPY {} (app, name) TO STDOUT")
    try:
        rows = session.copy_texts(query.format(sql.Identifier(schema, "django_migrations")), 2)
    except psycopg.errors.InsufficientPrivilege:
        return None
    return tuple(sorted({(str(app), str(name)) for app, name in rows}))


_SEQUENCES_PER_QUERY: Final = 200

_MIGRATIONS: Final = sql.SQL(
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname = 'django_migrations' AND c.relkind IN ('r', 'p')"
    " AND n.nspname = ANY(%(schemas)s)"
    " ORDER BY array_position(%(schemas)s::text[], n.nspname::text) LIMIT 1"
)

_LIST_SEQUENCES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relkind OPERATOR(pg_catalog.=) 'S'"
    " AND c.relpersistence OPERATOR(pg_catalog.<>) 't' ORDER BY c.oid"
)
_RELATIONS: Final = sql.SQL("SELECT count(*) FROM pg_class WHERE relkind IN ('r','i','t','m','S')")
_UNLOGGED: Final = sql.SQL(
    "SELECT CASE WHEN n.nspname = ANY(%s) THEN '' ELSE quote_ident(n.nspname) || '.' END"
    " || quote_ident(c.relname)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relpersistence = 'u' AND c.relkind = 'r' ORDER BY 1"
)


# Who may not connect may not see a size either (manual, "Database Object Management Functions").
_SIZES: Final = sql.SQL(
    "SELECT datname, CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')"
    " OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
    " THEN pg_catalog.pg_database_size(oid) END"
    " FROM pg_catalog.pg_database WHERE datname = ANY(%s)"
)


def measure_databases(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Return what databases occupy on disk, without those that are gone or may not be measured."""
    found = session.rows(_SIZES, [list(names)])
    return {name: int(size) for name, size in found if size is not None}
