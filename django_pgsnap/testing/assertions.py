"""An assertion about what code did to the database: these changes, and no others.

It works inside a test's transaction, where nothing is committed: all rows are read before and
after through the test's own connection, and compared in memory. Test data are small.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import TestCase

from django.apps import apps
from django.db import connections
from psycopg import sql

# What is expected of a model: numbers of rows, or for changed ones also the names of the columns.
Expected = Mapping[str, Mapping[str, int | Collection[str]]]

_Row = tuple[str | None, ...]
_Key = tuple[str, ...]

_KINDS: Final = ("added", "removed", "changed")
_MOST_EXAMPLES: Final = 5
_TABLES: Final = """
SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relname, n.nspname,
  (SELECT pg_catalog.array_agg(ARRAY[a.attname::pg_catalog.text,
      (a.atttypid OPERATOR(pg_catalog.<) 16384)::pg_catalog.text] ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0
      AND NOT a.attisdropped),
  (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text)
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
       ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
      AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey)
    WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary)
 FROM pg_catalog.pg_class c
 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND c.oid OPERATOR(pg_catalog.>=) 16384
"""


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The rows of a table at one moment, by their key and a number that tells equal ones apart."""

    columns: tuple[str, ...]
    rows: Mapping[_Key, _Row]


_NO_TABLE: Final = _Table(columns=(), rows={})


@dataclass
class _TableChanges:
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    columns: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)


class DatabaseChangesMixin(TestCase):
    """Adds ``assertDatabaseChanges`` to Django's test cases."""

    @contextmanager
    def assertDatabaseChanges(  # noqa: N802  # as unittest and Django name assertions
        self, expected: Expected, *, using: str = "default"
    ) -> Iterator[None]:
        """Fail unless the block changes the database exactly as expected.

        Args:
            expected: By model label or table name: ``{"added": 1, "removed": 3, "changed": 2}``,
                each a number of rows; of changed rows also the names of all columns that may and
                must change: ``{"changed": {"name", "email"}}``. What is not named must not change.
            using: Alias of the database.
        """
        before = _read_tables(using)
        yield
        problems = list(_differences(expected, before, _read_tables(using)))
        if problems:
            raise self.failureException("\n".join(["The database changed otherwise:", *problems]))


@contextmanager
def check_database_changes(expected: Expected, *, using: str = "default") -> Iterator[None]:
    """Do what `DatabaseChangesMixin.assertDatabaseChanges` does, for tests that are functions."""
    with DatabaseChangesMixin().assertDatabaseChanges(expected, using=using):
        yield


def _read_tables(using: str) -> dict[str, _Table]:
    """Return all rows of all tables, by model label, or by name where there is no model."""
    connection = connections[using]
    connection.ensure_connection()
    labels = {
        model._meta.db_table: model._meta.label  # Django's API of models
        for model in apps.get_models(include_auto_created=True)
    }
    # The driver's own cursor: the test may count its queries.
    with connection.connection.cursor() as cursor:
        tables = cursor.execute(_TABLES).fetchall()
        return {
            labels.get(name, shown): _read_table(cursor, schema, name, dict(columns or ()), key)
            for shown, name, schema, columns, key in tables
        }


_OF_OWN_TYPE: Final = sql.SQL("{}::pg_catalog.text")
# Whoever made a type may have made a cast to text; its output is the server's own.
_OF_MADE_TYPE: Final = sql.SQL(
    "CASE WHEN pg_catalog.num_nulls({0}) OPERATOR(pg_catalog.=) 0 THEN pg_catalog.concat({0}) END"
)


def _read_table(
    cursor: Any, schema: str, name: str, types: Mapping[str, str], key: Sequence[str] | None
) -> _Table:
    columns = list(types)
    values = sql.SQL(", ").join(
        (_OF_OWN_TYPE if is_own == "true" else _OF_MADE_TYPE).format(sql.Identifier(column))
        for column, is_own in types.items()
    )
    query = sql.SQL("SELECT {} FROM ONLY {}").format(values, sql.Identifier(schema, name))
    positions = [columns.index(column) for column in key or columns]
    rows: dict[_Key, _Row] = {}
    for row in cursor.execute(query):
        identity = tuple(repr(row[position]) for position in positions)
        number = 0
        while (*identity, str(number)) in rows:
            number += 1
        rows[*identity, str(number)] = tuple(row)
    return _Table(columns=tuple(columns), rows=rows)


def _compare(before: _Table, after: _Table) -> _TableChanges:
    changes = _TableChanges()
    columns = after.columns or before.columns
    for key in before.rows.keys() | after.rows.keys():
        old, new = before.rows.get(key), after.rows.get(key)
        if old == new:
            continue
        kind = "added" if old is None else "removed" if new is None else "changed"
        changes.counts[kind] += 1
        if old is not None and new is not None:
            values = zip(columns, old, new, strict=False)
            different = {c: f"{c}: {a!r} -> {b!r}" for c, a, b in values if a != b}
            changes.columns.update(different)
            told = "; ".join(different.values())
        else:
            told = "; ".join(f"{c}: {v!r}" for c, v in zip(columns, old or new or (), strict=False))
        changes.examples.append(f"    {kind} {told}")
    return changes


def _differences(
    expected: Expected, before: Mapping[str, _Table], after: Mapping[str, _Table]
) -> Iterator[str]:
    for name in sorted({*expected, *before, *after}):
        wanted = expected.get(name, {})
        changes = _compare(before.get(name, _NO_TABLE), after.get(name, _NO_TABLE))
        wrong = [kind for kind in _KINDS if not _fits(kind, wanted.get(kind, 0), changes)]
        for kind in wrong:
            yield f"  {name}: {_told(kind, changes)}, expected {_wanted(kind, wanted.get(kind, 0))}"
        if wrong:
            yield from sorted(changes.examples)[:_MOST_EXAMPLES]
    for name, wanted in expected.items():
        if unknown := wanted.keys() - set(_KINDS):
            yield f"  {name}: no such kind of change: {', '.join(sorted(unknown))}"


def _fits(kind: str, wanted: int | Collection[str], changes: _TableChanges) -> bool:
    if isinstance(wanted, int):
        return changes.counts[kind] == wanted
    return kind == "changed" and set(wanted) == changes.columns


def _told(kind: str, changes: _TableChanges) -> str:
    columns = f" in {', '.join(sorted(changes.columns))}" if kind == "changed" else ""
    return f"{changes.counts[kind]} {kind}{columns if changes.counts[kind] else ''}"


def _wanted(kind: str, wanted: int | Collection[str]) -> str:
    return str(wanted) if isinstance(wanted, int) else f"{kind} columns {', '.join(sorted(wanted))}"
