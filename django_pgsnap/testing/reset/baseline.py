"""A baseline: the state that tests start from, and the rows of its small tables.

There is always a shut database that a test database can be cloned from to get there. Most tests
write to a few tables only; those are put back row by row, from what is kept in memory here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from ...clones.transitions import join_statements
from ...postgres.contents import read_sequence_positions
from ...postgres.session import Session
from .changes import Changes, Look

# A sequence's last value, and whether that was given out.
Position = tuple[int, bool]

# Cloning a small database anew takes some tens of milliseconds; what takes longer to put back row
# by row is not kept. See benchmarks/reset.py.
_MOST_PER_TABLE_BYTES: Final = 1024**2
_MOST_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A state that tests start from.

    Attributes:
        origin: Name of the shut database that clones are made of.
        clone: What the server has counted in such a clone, where nobody has been.
        ahead: Oids of the tables and sequences that are not as in such a clone.
        tables: Names of all tables, by their oids.
        rows: The rows of small tables that have any, as ``COPY`` gives them, by the tables' oids.
        positions: Where the sequences are, by their oids.
        bound: Oids of the tables that can be put back only with the whole database.
    """

    origin: str
    clone: Look
    ahead: frozenset[int]
    tables: Mapping[int, sql.Identifier]
    rows: Mapping[int, bytes]
    positions: Mapping[int, Position]
    bound: frozenset[int]

    def differing(self, other: Baseline) -> frozenset[int]:
        """Return what is not the same in another baseline of the same origin, by oid."""
        return frozenset(
            oid
            for oid in self.ahead | other.ahead
            if self.rows.get(oid) != other.rows.get(oid)
            or self.positions.get(oid) != other.positions.get(oid)
        )


def study(inside: Session, origin: str, found: Look) -> Baseline:
    """Return the baseline that a test database is at.

    Args:
        inside: A session on it.
        origin: Name of a shut database with the same contents.
        found: What the server has counted.
    """
    names = {oid: sql.Identifier(schema, name) for oid, schema, name in inside.rows(_TABLES)}
    rows, unread = _rows(inside, names)
    return Baseline(
        origin=origin,
        # In a new clone the server has counted nothing.
        clone={oid: replace(count, written=0) for oid, count in found.items()},
        ahead=frozenset(),
        tables=names,
        rows=rows,
        positions={oid: (last, called) for oid, last, called in read_sequence_positions(inside)},
        bound=unread | {oid for (oid,) in inside.rows(_BOUND)},
    )


def above(inside: Session, below: Baseline, changes: Changes) -> Baseline | None:
    """Return the baseline that a test database is at, after rows were written on top of another.

    Returns:
        None if it takes a clone of its own.
    """
    if changes.catalogs or changes.tables & below.bound:
        return None
    rows, unread = _rows(inside, {oid: below.tables[oid] for oid in changes.tables})
    if unread:
        return None
    others = {oid: text for oid, text in below.rows.items() if oid not in changes.tables}
    return replace(
        below,
        ahead=below.ahead | changes.tables | changes.sequences,
        rows={**others, **rows},
        positions={oid: (last, called) for oid, last, called in read_sequence_positions(inside)},
    )


def size_bytes(inside: Session, oids: Iterable[int]) -> int:
    """Return what the rows of tables and sequences occupy."""
    return int(inside.value(_SIZE, [list(oids)]))


def put_back(inside: Session, baseline: Baseline, oids: Collection[int]) -> None:
    """Put tables and sequences back to a baseline, in one transaction."""
    tables = [oid for oid in oids if oid in baseline.tables]
    moved = [(oid, *baseline.positions[oid]) for oid in oids if oid in baseline.positions]
    with inside.transaction():
        inside.execute(_EXACTLY)
        if tables:
            inside.execute(_WITHOUT_TRIGGERS)
            inside.execute(
                join_statements(
                    sql.SQL("DELETE FROM ONLY {}").format(baseline.tables[oid]) for oid in tables
                )
            )
        for oid in tables:
            if oid in baseline.rows:
                query = sql.SQL("COPY {} FROM STDIN").format(baseline.tables[oid])
                inside.copy_in(query, baseline.rows[oid])
        if moved:
            inside.rows(_SET_SEQUENCES, list(map(list, zip(*moved, strict=True))))


def _rows(
    inside: Session, tables: Mapping[int, sql.Identifier]
) -> tuple[dict[int, bytes], frozenset[int]]:
    """Return the rows of tables, and which tables are too large or not for us to read."""
    rows: dict[int, bytes] = {}
    unread = set()
    left = _MOST_BYTES
    with inside.transaction():
        inside.execute(_EXACTLY)
        for oid, size in inside.rows(_SIZES, [list(tables)]):
            if size > min(left, _MOST_PER_TABLE_BYTES):
                unread.add(oid)
                continue
            try:
                with inside.transaction():
                    text = inside.copy_out(sql.SQL("COPY {} TO STDOUT").format(tables[oid]))
            except psycopg.Error:
                unread.add(oid)
                continue
            left -= size
            if text:
                rows[oid] = text
    return rows, frozenset(unread)


_TABLES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'm') AND NOT c.relisshared AND c.relpersistence <> 't'"
    " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
)

# A table whose file is empty has no rows.
_SIZES: Final = sql.SQL(
    "SELECT oid, pg_table_size(oid) FROM unnest(%s::oid[]) AS t (oid)"
    " WHERE pg_relation_size(oid) > 0"
)
_SIZE: Final = sql.SQL(
    "SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM unnest(%s::oid[]) AS t (oid)"
)

# What is written as text has to be read again as the same. With row security, rows would be left
# out; like this there is an error.
_EXACTLY: Final = sql.SQL(
    "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres;"
    " SET LOCAL extra_float_digits = 1; SET LOCAL row_security = off;"
    " SET LOCAL bytea_output = hex; SET LOCAL xmloption = content"
)

# Triggers, foreign keys among them, would write to other tables. Where our role may not switch
# them off there are but the keys that Django makes, which can wait for the end (`_BOUND`).
_WITHOUT_TRIGGERS: Final = sql.SQL(
    "SET CONSTRAINTS ALL DEFERRED;"
    " SELECT set_config('session_replication_role', 'replica', true)"
    " WHERE has_parameter_privilege('session_replication_role', 'SET')"
)

# Deleting all rows and inserting others would do something else, or not be allowed.
_BOUND: Final = sql.SQL(
    "SELECT c.oid FROM pg_class c,"
    " (SELECT has_parameter_privilege('session_replication_role', 'SET') AS may) me"
    " WHERE c.relkind = 'm' OR c.relkind = 'r' AND (c.relhasrules"
    " OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND (t.tgenabled IN ('A', 'R')"
    "   OR NOT me.may AND NOT t.tgisinternal AND t.tgenabled <> 'D'))"
    " OR NOT me.may AND EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f'"
    "   AND c.oid IN (f.conrelid, f.confrelid)"
    "   AND (NOT f.condeferrable OR f.confdeltype <> 'a')))"
)

_SET_SEQUENCES: Final = sql.SQL(
    "SELECT setval(oid::regclass, last, called)"
    " FROM unnest(%s::oid[], %s::bigint[], %s::bool[]) AS s (oid, last, called)"
)
