"""A diff is exact: it says what a comparison of all rows says, whatever was done in between."""

from contextlib import suppress

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql as pg

from django_pgsnap.comparison.diff import diff
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import RunSql
from tests.servers import Server

# Rows by their key, and a number that tells equal ones apart.
Keyed = dict[tuple[str, ...], dict[str, object]]

# Tables of every build: with partitions, heirs, no key, a key of several columns, values of each
# kind, long ones that are stored elsewhere, and rows that are computed.
SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE TABLE zoo (
    id int PRIMARY KEY, f float8 DEFAULT 'NaN', n numeric DEFAULT 1.10, j json DEFAULT '{"a": 1}',
    jb jsonb DEFAULT '{"b": [1, null]}', a text[] DEFAULT '{x,NULL}', r int4range DEFAULT '[1,5)',
    b bytea DEFAULT '\\x00ff', t timestamptz DEFAULT '2020-01-01', i interval DEFAULT '1 day 2:00',
    m mood DEFAULT 'sad', p pair DEFAULT '(1,"x y")', empty text DEFAULT '',
    long text DEFAULT repeat('x', 10), g int GENERATED ALWAYS AS (length(empty)) STORED
);
CREATE TABLE part (id int, region int, name text, PRIMARY KEY (region, id))
    PARTITION BY LIST (region);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2, 3);
CREATE TABLE parent (id int PRIMARY KEY, name text);
CREATE TABLE heir (extra text, PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE keyless (name text, "odd ""x" int);
CREATE MATERIALIZED VIEW seen AS SELECT id, name FROM parent;
"""
FILL = """
INSERT INTO zoo (id) SELECT generate_series(1, 20);
INSERT INTO part SELECT i, i % 3 + 1, 'n' || i FROM generate_series(1, 20) i;
INSERT INTO parent SELECT i, 'n' || i FROM generate_series(1, 20) i;
INSERT INTO heir SELECT i, 'n' || i, 'e' FROM generate_series(21, 40) i;
INSERT INTO keyless SELECT 'n' || i % 5, i % 3 FROM generate_series(1, 20) i;
SELECT lo_from_bytea(4711, 'one'), lo_from_bytea(4712, 'two');
"""
CHANGES = (
    "UPDATE zoo SET f = 'Infinity' WHERE id = 1",
    "UPDATE zoo SET n = 1.1 WHERE id = 2",
    "UPDATE zoo SET j = '{\"a\":1}' WHERE id = 3",
    "UPDATE zoo SET jb = NULL, a = '{}' WHERE id = 4",
    "UPDATE zoo SET empty = NULL WHERE id = 5",
    "UPDATE zoo SET long = repeat(md5(id::text), 3000) WHERE id IN (6, 7)",
    "UPDATE zoo SET m = 'happy', p = '(2,)' WHERE id = 8",
    "DELETE FROM zoo WHERE id > 15",
    "INSERT INTO zoo (id) SELECT generate_series(100, 110) ON CONFLICT DO NOTHING",
    "UPDATE part SET region = region % 3 + 1 WHERE id = 3",
    "UPDATE part SET name = 'moved' WHERE region = 2",
    "DELETE FROM part WHERE id < 4",
    "ALTER TABLE part DETACH PARTITION part_1",
    "UPDATE parent SET name = name || '!' WHERE id % 7 = 0",
    "INSERT INTO heir VALUES (99, 'n', NULL) ON CONFLICT DO NOTHING",
    "UPDATE keyless SET name = 'other' WHERE name = 'n1'",
    "INSERT INTO keyless VALUES ('n2', NULL), ('n2', NULL)",
    "DELETE FROM keyless WHERE ctid IN (SELECT min(ctid) FROM keyless)",
    "REFRESH MATERIALIZED VIEW seen",
    "TRUNCATE keyless",
    "VACUUM FULL zoo",
    "VACUUM (FREEZE) part",
    "VACUUM parent",
    "ALTER TABLE parent ADD COLUMN IF NOT EXISTS more int DEFAULT 7",
    "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'new' BEFORE 'happy'",
    "CREATE TABLE IF NOT EXISTS made AS SELECT generate_series(1, 2)",
    "SELECT lo_put(4711, 0, 'One'), lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = 4712",
    "BEGIN; UPDATE parent SET name = 'gone'; ROLLBACK",
)
STEP = st.one_of(st.sampled_from(CHANGES), st.sampled_from(("take b", "restore a", "restore b")))


@pytest.fixture
def brute_force(sql: RunSql, live: str, clean_server: Server) -> "BruteForce":
    sql(SCHEMA, dbname=live)
    sql(FILL, dbname=live)
    return BruteForce(sql, clean_server)


class BruteForce:
    """Reads all rows of a database, and compares them in memory."""

    def __init__(self, sql: RunSql, server: Server) -> None:
        self._sql = sql
        self._server = server

    def changes(self, old: str, new: str) -> dict[str, tuple[int, int, int]]:
        """Return the number of rows added, removed and changed, by table."""
        before, after = self._read(old), self._read(new)
        found = {}
        for table in sorted(before.keys() | after.keys()):
            counts = _count(before.get(table, {}), after.get(table, {}))
            if any(counts):
                found[table] = counts
        return found

    def _read(self, database: str) -> dict[str, Keyed]:
        """Return all rows, by table, and by key and number of the row among equal ones."""
        clone = "brute_force"
        self._sql(
            pg.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                pg.Identifier(clone), pg.Identifier(database)
            )
        )
        try:
            with self._server.connect(clone) as inside:
                tables = inside.execute(TABLES).fetchall()
                return {table: self._rows(inside, table, key) for table, key in tables}
        finally:
            self._sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(clone)))

    @staticmethod
    def _rows(inside: psycopg.Connection, table: str, key: list[str]) -> Keyed:
        columns = inside.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attnum > 0 AND NOT attisdropped",
            [table],
        ).fetchall()
        rows = inside.execute(
            pg.SQL("SELECT row_to_json(whole)::jsonb FROM (SELECT {} FROM {} {} t) whole").format(
                pg.SQL(", ").join(
                    pg.SQL("{0}::text AS {0}").format(pg.Identifier(column))
                    for (column,) in columns
                ),
                # Partitions are counted with their table, heirs by themselves.
                pg.SQL("" if table == "part" else "ONLY"),
                pg.SQL(table),
            )
        ).fetchall()
        found: Keyed = {}
        for (row,) in rows:
            identity = tuple(str(row[column]) for column in key or sorted(row))
            number = 0
            while (*identity, str(number)) in found:
                number += 1
            found[*identity, str(number)] = row
        return found


TABLES = """
SELECT c.oid::regclass::text, coalesce((SELECT array_agg(a.attname::text) FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
    WHERE i.indrelid = c.oid AND i.indisprimary), '{}')
FROM pg_class c WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND (c.oid >= 16384
    OR c.relname = 'pg_largeobject')
"""


def _count(before: Keyed, after: Keyed) -> tuple[int, int, int]:
    """Return the number of rows added, removed and changed in columns that both have."""
    both = before.keys() & after.keys()
    changed = [
        key
        for key in both
        if any(before[key][c] != after[key][c] for c in before[key].keys() & after[key].keys())
    ]
    return len(after.keys() - both), len(before.keys() - both), len(changed)


@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_like_brute_force(
    steps: list[str], live: str, sql: RunSql, brute_force: BruteForce
) -> None:
    """Random changes and restores in between make no difference to what is counted."""
    kept: dict[str, Snapshot] = {"a": take("a", spare=False)}
    kept["b"] = kept["a"]
    try:
        for step in steps:
            verb, _, name = step.partition(" ")
            if verb == "take":
                kept["b"] = take("b", replace=True, spare=False)
            elif verb == "restore":
                restore(kept[name].name, undo=False)
            else:
                # Not everything can be done twice; what is refused changes nothing.
                with suppress(psycopg.Error):
                    sql(step, dbname=live)

        for snapshot in set(kept.values()):
            found = diff(snapshot.name)
            expected = brute_force.changes(snapshot.members[0].database.name, live)
            counted = {
                table.table.removeprefix("pg_catalog."): (table.added, table.removed, table.changed)
                for table in found.tables
            }
            assert counted == expected
    finally:
        restore("a", undo=False)
        delete(*{snapshot.name for snapshot in kept.values()})
