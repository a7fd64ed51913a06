"""What was written in a test database: which tables and sequences, told without reading them all.

The server counts the rows that are inserted, updated and deleted in each table, those of
transactions that were rolled back, too (manual, pg_stat_all_tables). The counts of a session are
complete once its backend is gone, so nobody may be there when this looks. TRUNCATE gives a table
another file. DDL and large objects write to the system catalogs. Sequences are not counted: each
is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from ..inspection import positions
from ..server import Session

Position = tuple[int, bool]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What the server says of a table, or of a materialized view.

    Attributes:
        schema: Its schema.
        name: Its name.
        is_catalog: Whether it is one of the server's own.
        written: How many rows were ever inserted, updated or deleted.
        file: Number of its file, another one after TRUNCATE.
        size_bytes: Size on disk without indexes; 0 only where it has no rows.
    """

    schema: str
    name: str
    is_catalog: bool
    written: int
    file: int
    size_bytes: int

    @property
    def identifier(self) -> sql.Identifier:
        """Its name as SQL takes it."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a database was found.

    Attributes:
        tables: What the server says of each table, by its oid.
        positions: Where each sequence is, by its oid.
    """

    tables: Mapping[int, Table]
    positions: Mapping[int, Position]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was written between two looks.

    Attributes:
        catalogs: Whether it was more than rows and sequences: DDL, large objects.
        tables: Oids of the tables.
        sequences: Oids of the sequences.
    """

    catalogs: bool
    tables: frozenset[int]
    sequences: frozenset[int]


def look(inside: Session) -> Look:
    """Return how a database is found now, by a session on it when nobody else is there.

    Raises:
        psycopg.Error: Our role may not read a sequence.
    """
    return Look(
        tables=_tables(inside),
        positions={oid: (last, called) for oid, last, called in positions(inside)},
    )


def look_again(inside: Session, before: Look, oids: Iterable[int]) -> Look:
    """Return how a database is found once these tables were written, and its sequences set."""
    # A session's own counts are complete when it has been told to hand them over.
    inside.rows(_HAND_OVER)
    return Look(
        tables={**before.tables, **_tables(inside, list(oids))},
        positions=before.positions,
    )


def changes(before: Look, now: Look) -> Changes:
    """Return what was written between two looks."""
    differing = {
        oid
        for oid in {*before.tables, *now.tables}
        if _state(before.tables.get(oid)) != _state(now.tables.get(oid))
    }
    return Changes(
        catalogs=(
            before.tables.keys() != now.tables.keys()
            or before.positions.keys() != now.positions.keys()
            or any(now.tables[oid].is_catalog for oid in differing)
        ),
        tables=frozenset(differing),
        sequences=frozenset(
            oid for oid, found in now.positions.items() if before.positions.get(oid) != found
        ),
    )


def _state(table: Table | None) -> tuple[int, int] | None:
    return None if table is None else (table.written, table.file)


def _tables(inside: Session, oids: list[int] | None = None) -> dict[int, Table]:
    return {
        oid: Table(
            schema=schema,
            name=name,
            is_catalog=is_catalog,
            written=written,
            file=file,
            size_bytes=size_bytes,
        )
        for oid, schema, name, is_catalog, written, file, size_bytes in inside.rows(_TABLES, [oids])
    }


_HAND_OVER: Final = sql.SQL("SELECT pg_stat_force_next_flush()")

# ANALYZE writes statistics, which change no result.
_TABLES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname, c.relnamespace = 'pg_catalog'::regnamespace,"
    " pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)"
    "   + pg_stat_get_tuples_deleted(c.oid),"
    " coalesce(pg_relation_filenode(c.oid), 0),"
    " CASE WHEN pg_relation_size(c.oid) = 0 THEN 0 ELSE coalesce(pg_table_size(c.oid), 0) END"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'm') AND NOT c.relisshared AND c.relpersistence <> 't'"
    " AND c.oid <> ALL (ARRAY['pg_statistic', 'pg_statistic_ext_data']::regclass[])"
    " AND c.oid = ANY (coalesce(%s, ARRAY[c.oid]))"
)
