"""A baseline: the state that tests start from, and the rows of its small tables.

There is always a shut database that a test database can be cloned from to get there. Most tests
write to a few tables only; those are put back row by row, from what is kept in memory here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from .. import stages
from ..server import Session
from .dirty import Changes, Look, Position, Table

# Cloning a small database anew takes some tens of milliseconds; what takes longer to put back row
# by row is not kept. See benchmarks/reset.py.
_MOST_PER_TABLE_BYTES: Final = 1024**2
_MOST_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A state that tests start from.

    Attributes:
        origin: Name of the shut database that clones are made of.
        clone: How such a clone is found, when nobody has been there.
        ahead: Oids of the tables whose rows are others than in such a clone.
        positions: Where the sequences are.
        rows: The rows of small tables that have any, as ``COPY`` gives them, by the tables' oids.
        bound: Oids of the tables that can be put back only with the whole database.
    """

    origin: str
    clone: Look
    ahead: frozenset[int]
    positions: Mapping[int, Position]
    rows: Mapping[int, bytes]
    bound: frozenset[int]

    def differing(self, other: Baseline) -> frozenset[int]:
        """Return the tables whose rows are not the same in another baseline of the same origin."""
        return frozenset(
            oid for oid in self.ahead | other.ahead if self.rows.get(oid) != other.rows.get(oid)
        )


def study(inside: Session, origin: str, found: Look) -> Baseline:
    """Return the baseline that a test database is at.

    Args:
        inside: A session on it.
        origin: Name of a shut database with the same contents.
        found: How it was found.
    """
    rows, bound = _rows(inside, found.tables, found.tables)
    return Baseline(
        origin=origin,
        clone=_fresh(found),
        ahead=frozenset(),
        positions=found.positions,
        rows=rows,
        bound=bound | {oid for (oid,) in inside.rows(_BOUND)},
    )


def above(inside: Session, below: Baseline, found: Look, changes: Changes) -> Baseline | None:
    """Return the baseline that a test database is at, after rows were written on top of another.

    Returns:
        None if it takes a clone of its own.
    """
    if changes.catalogs or changes.tables & below.bound:
        return None
    rows, bound = _rows(inside, found.tables, changes.tables)
    if bound:
        return None
    untouched = {oid: text for oid, text in below.rows.items() if oid not in changes.tables}
    return replace(
        below,
        ahead=below.ahead | changes.tables,
        positions=found.positions,
        rows={**untouched, **rows},
    )


def put_back(
    inside: Session,
    baseline: Baseline,
    tables: Mapping[int, Table],
    written: Iterable[int],
    moved: Iterable[int],
) -> None:
    """Put tables and sequences back to a baseline, in one transaction.

    Args:
        inside: A session on the test database.
        baseline: The baseline.
        tables: What the server says of the tables.
        written: Oids of the tables that differ.
        moved: Oids of the sequences that differ.
    """
    chosen = [(tables[oid].identifier, baseline.rows.get(oid)) for oid in written]
    positions = [(oid, *baseline.positions[oid]) for oid in moved]
    with inside.transaction():
        if chosen:
            inside.execute(_WITHOUT_TRIGGERS)
            inside.execute(
                stages.together(sql.SQL("DELETE FROM ONLY {}").format(name) for name, _ in chosen)
            )
        for name, rows in chosen:
            if rows:
                inside.copy_in(sql.SQL("COPY {} FROM STDIN").format(name), rows)
        if positions:
            inside.rows(_SET_SEQUENCES, list(map(list, zip(*positions, strict=True))))


def _rows(
    inside: Session, tables: Mapping[int, Table], oids: Iterable[int]
) -> tuple[dict[int, bytes], frozenset[int]]:
    """Return the rows of tables, and which tables are too large or not for us to read."""
    rows: dict[int, bytes] = {}
    left = _MOST_BYTES
    unread = set()
    # With row security, COPY would leave rows out; like this it fails.
    inside.configure({"row_security": "off"})
    for oid in oids:
        table = tables[oid]
        if table.is_catalog or not table.size_bytes:
            continue
        if table.size_bytes > min(left, _MOST_PER_TABLE_BYTES):
            unread.add(oid)
            continue
        try:
            found = inside.copy_out(sql.SQL("COPY {} TO STDOUT").format(table.identifier))
        except psycopg.Error:
            unread.add(oid)
            continue
        if found:
            rows[oid] = found
            left -= table.size_bytes
    return rows, frozenset(unread)


def _fresh(found: Look) -> Look:
    """Return how a clone is found: the server has counted nothing in it."""
    return replace(
        found, tables={oid: replace(table, written=0) for oid, table in found.tables.items()}
    )


# Triggers, foreign keys among them, would write to other tables. Where our role may not switch
# them off there are but the keys that Django makes, which can wait for the end (`_BOUND`).
_WITHOUT_TRIGGERS: Final = sql.SQL(
    "SET LOCAL row_security = off; SET CONSTRAINTS ALL DEFERRED;"
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
