"""A baseline: the state that tests start from, and the rows of its small tables.

A test database can always be cloned from the baseline's origin, which is a shut database. Most
tests write to a few tables only; those are put back row by row, from what is kept in memory here.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from ...postgres.inspection import read_sequence_positions
from ...postgres.session import Session
from .changes import (
    CatalogStates,
    Changes,
    TableCounters,
    are_catalogs_unchanged,
    read_catalog_states,
    read_user_objects,
)

# Cloning a small database anew takes some tens of milliseconds; what takes longer to put back row
# by row is not kept. See benchmarks/reset.py.
_MAX_TABLE_BYTES: Final = 1024**2
_MAX_TOTAL_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A state that tests start from. Tables and sequences are known by their oids."""

    origin: str  # the shut database that clones are made of
    clone_counters: TableCounters  # of a clone that nobody has connected to
    changed_since_origin: frozenset[int]  # tables and sequences that differ from such a clone
    tables: Mapping[int, sql.Identifier]
    rows: Mapping[int, bytes]  # those of small tables that have any, as ``COPY`` gives them
    positions: Mapping[int, tuple[int, bool]]  # sequences' last values, and whether given out
    needs_full_clone: frozenset[int]  # tables that cannot be put back row by row
    catalogs: CatalogStates
    objects: frozenset[int]  # its schemas, tables, functions and the like

    def find_differences(self, other: "Baseline") -> frozenset[int]:
        """Return the oids of what another baseline of the same origin holds differently."""
        return frozenset(
            oid
            for oid in self.changed_since_origin | other.changed_since_origin
            if self.rows.get(oid) != other.rows.get(oid)
            or self.positions.get(oid) != other.positions.get(oid)
        )


def read_baseline(inside: Session, origin: str, counters: TableCounters) -> Baseline:
    """Return the baseline that a test database is at, as a shut database, the origin, is, too."""
    tables = {oid: sql.Identifier(schema, name) for oid, schema, name in inside.rows(_TABLES)}
    rows, unread = _read_rows(inside, tables)
    return Baseline(
        origin=origin,
        clone_counters={
            oid: counter._replace(written=0, committed=0, analyzed=0)
            for oid, counter in counters.items()
        },
        changed_since_origin=frozenset(),
        tables=tables,
        rows=rows,
        positions=read_sequence_positions(inside),
        needs_full_clone=unread | {oid for (oid,) in inside.rows(_NEEDS_FULL_CLONE)},
        catalogs=read_catalog_states(inside),
        objects=read_user_objects(inside),
    )


def extend_baseline(inside: Session, below: Baseline, changes: Changes) -> Baseline | None:
    """Return the baseline that a test database is at, after rows were written on top of another.

    It is None if clones of that other one's origin cannot be brought there row by row.
    """
    if changes.tables & below.needs_full_clone:
        return None
    if not are_catalogs_unchanged(inside, below.catalogs, changes.catalogs):
        return None
    rows, unread = _read_rows(inside, {oid: below.tables[oid] for oid in changes.tables})
    if unread:
        return None
    others = {oid: text for oid, text in below.rows.items() if oid not in changes.tables}
    return replace(
        below,
        changed_since_origin=below.changed_since_origin | changes.relations,
        rows={**others, **rows},
        positions=read_sequence_positions(inside),
    )


def measure_relations(inside: Session, oids: Iterable[int]) -> int:
    return int(inside.value(_TOTAL_SIZE, [list(oids)]))


def put_rows_back(inside: Session, baseline: Baseline, oids: Collection[int]) -> None:
    """Put tables and sequences back to a baseline, in one transaction."""
    tables = [oid for oid in oids if oid in baseline.tables]
    moved = [(oid, *baseline.positions[oid]) for oid in oids if oid in baseline.positions]
    emptying = (sql.SQL("DELETE FROM ONLY {}").format(baseline.tables[oid]) for oid in tables)
    with inside.transaction():
        inside.execute(sql.SQL("; ").join([_AS_READ, _WITHOUT_TRIGGERS, *emptying]))
        for oid in tables:
            if oid in baseline.rows:
                query = sql.SQL("COPY {} FROM STDIN").format(baseline.tables[oid])
                with inside.copy(query) as copy:
                    copy.write(baseline.rows[oid])
        if moved:
            inside.rows(_SET_SEQUENCES, list(map(list, zip(*moved, strict=True))))


def _read_rows(
    inside: Session, tables: Mapping[int, sql.Identifier]
) -> tuple[dict[int, bytes], frozenset[int]]:
    """Return the rows of tables, and which tables are too large or not for us to read."""
    rows: dict[int, bytes] = {}
    left = _MAX_TOTAL_BYTES
    with inside.transaction():
        inside.execute(_AS_READ)
        sizes: dict[int, int] = dict(inside.rows(_SIZES, [list(tables)]))
        for oid, size in sizes.items():
            if size <= min(left, _MAX_TABLE_BYTES):
                query = sql.SQL("COPY {} TO STDOUT").format(tables[oid])
                with suppress(psycopg.Error):
                    with inside.transaction(), inside.copy(query) as copy:
                        text = b"".join(map(bytes, copy))
                    rows[oid] = text
                    left -= size
    unread = frozenset(sizes.keys() - rows.keys())
    return {oid: text for oid, text in rows.items() if text}, unread


_TABLES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'm'])"
    " AND NOT c.relisshared AND c.relpersistence OPERATOR(pg_catalog.<>) 't'"
    " AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema'])"
)

# A table whose file is empty has no rows.
_SIZES: Final = sql.SQL(
    "SELECT oid, pg_catalog.pg_table_size(oid)"
    " FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS t (oid)"
    " WHERE pg_catalog.pg_relation_size(oid) OPERATOR(pg_catalog.>) 0"
)
_TOTAL_SIZE: Final = sql.SQL(
    "SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(oid)), 0)"
    " FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS t (oid)"
)

# What is written as text has to be read again as the same. With row security, COPY would leave out
# rows; switched off like this, it fails instead. A test database need not survive a crash.
_AS_READ: Final = sql.SQL(
    "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres;"
    " SET LOCAL extra_float_digits = 1; SET LOCAL row_security = off;"
    " SET LOCAL bytea_output = hex; SET LOCAL xmloption = content;"
    " SET LOCAL synchronous_commit = off"
)

# Triggers, foreign keys among them, would write to other tables. Where our role may not switch
# them off, the only foreign keys left are Django's, which can wait for the end of the transaction
# (see `_NEEDS_FULL_CLONE`).
_WITHOUT_TRIGGERS: Final = sql.SQL(
    "SET CONSTRAINTS ALL DEFERRED;"
    " SELECT pg_catalog.set_config('session_replication_role', 'replica', true)"
    " WHERE pg_catalog.has_parameter_privilege('session_replication_role', 'SET')"
)

# Rules and triggers that we cannot switch off would make deleting and inserting rows do more than
# that; and a materialized view takes neither.
_NEEDS_FULL_CLONE: Final = sql.SQL(
    "SELECT c.oid FROM pg_catalog.pg_class c, (SELECT"
    "   pg_catalog.has_parameter_privilege('session_replication_role', 'SET') AS may) me"
    " WHERE c.relkind OPERATOR(pg_catalog.=) 'm'"
    " OR c.relkind OPERATOR(pg_catalog.=) 'r' AND (c.relhasrules"
    " OR EXISTS (SELECT FROM pg_catalog.pg_trigger t"
    "   WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid"
    "   AND (t.tgenabled OPERATOR(pg_catalog.=) ANY (ARRAY['A', 'R'])"
    "   OR NOT me.may AND NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'))"
    " OR NOT me.may AND EXISTS (SELECT FROM pg_catalog.pg_constraint f"
    "   WHERE f.contype OPERATOR(pg_catalog.=) 'f'"
    "   AND c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[f.conrelid, f.confrelid])"
    "   AND (NOT f.condeferrable OR f.confdeltype OPERATOR(pg_catalog.<>) 'a')))"
)

_SET_SEQUENCES: Final = sql.SQL(
    "SELECT pg_catalog.setval(oid::pg_catalog.regclass, last, called) FROM ROWS FROM"
    " (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.int8[]),"
    " pg_catalog.unnest(%s::pg_catalog.bool[])) AS s (oid, last, called)"
)
