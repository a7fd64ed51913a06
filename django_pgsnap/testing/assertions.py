"""An assertion about what code did to the database: these changes, and no others.

It works inside a test's transaction, where nothing is committed: all rows are read before and
after through the test's own connection, and compared in memory. Test data are small.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from unittest import TestCase

from django.apps import apps
from django.db import connections
from psycopg import sql

from ..postgres.session import Session

# What is expected of a model: numbers of rows, or for changed ones also the names of the columns.
Expected = Mapping[str, Mapping[str, int | Collection[str]]]

# The rows of a table at one moment, by their key and a number that tells equal ones apart.
_Rows = dict[tuple[str, ...], dict[str, str | None]]

_KINDS: Final = ("added", "removed", "changed")
_MOST_EXAMPLES: Final = 5
# Which table a model's name means, the search path says: others may have it in other schemas.
_TABLES: Final = sql.SQL("""
SELECT n.nspname, c.relname, c.oid::pg_catalog.regclass::pg_catalog.text,
  pg_catalog.pg_table_is_visible(c.oid),
  ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0
      AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT a.attname::pg_catalog.text
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
       ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
      AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey)
    WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary)
 FROM pg_catalog.pg_class c
 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND c.oid OPERATOR(pg_catalog.>=) 16384
""")

# Values as their types' own output, which no cast that somebody made can change.
_ROWS: Final = sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT")


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


def _read_tables(using: str) -> dict[str, _Rows]:
    """Return all rows of all tables, by model label, or by name where there is no model."""
    connection = connections[using]
    connection.ensure_connection()
    labels = {
        model._meta.db_table: model._meta.label  # Django's API of models
        for model in apps.get_models(include_auto_created=True)
    }
    # Not by Django's cursor: the test may count its queries.
    session = Session(connection.connection)
    found = {}
    for schema, name, shown, is_visible, columns, key in session.rows(_TABLES):
        label = labels.get(name, shown) if is_visible else shown
        found[str(label)] = _read_table(session, sql.Identifier(schema, name), columns, key)
    return found


def _read_table(
    session: Session, table: sql.Identifier, columns: Sequence[str], key: Sequence[str]
) -> _Rows:
    # What is read of a table without columns is how many rows it has.
    shown: list[sql.Composable] = [*map(sql.Identifier, columns)] or [sql.NULL]
    query = _ROWS.format(sql.SQL(", ").join(shown), table)
    rows: _Rows = {}
    equal: Counter[tuple[str, ...]] = Counter()
    for values in session.copy_texts(query, len(shown)):
        row = dict(zip(columns, values, strict=False))
        identity = tuple(repr(row[column]) for column in key or columns)
        equal[identity] += 1
        rows[*identity, str(equal[identity])] = row
    return rows


def _differences(
    expected: Expected, before: Mapping[str, _Rows], after: Mapping[str, _Rows]
) -> Iterator[str]:
    for name in sorted({*expected, *before, *after}):
        wanted = expected.get(name, {})
        found = _compare(before.get(name, {}), after.get(name, {}))
        problems = [_compare_kind(kind, wanted.get(kind, 0), found[kind]) for kind in _KINDS]
        yield from (f"  {name}: {problem}" for problem in problems if problem)
        if any(problems):
            examples = ((kind, "; ".join(row.values())) for kind in found for row in found[kind])
            yield from (f"    {kind} {text}" for kind, text in sorted(examples)[:_MOST_EXAMPLES])
        if unknown := wanted.keys() - set(_KINDS):
            yield f"  {name}: no such kind of change: {', '.join(sorted(unknown))}"


def _compare(before: _Rows, after: _Rows) -> dict[str, list[dict[str, str]]]:
    """Return rows by kind of change, each as texts by the columns that it was changed in."""
    found: dict[str, list[dict[str, str]]] = {kind: [] for kind in _KINDS}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            kind = "added" if old is None else "removed"
            row = {name: f"{name}: {value!r}" for name, value in (old or new or {}).items()}
            found[kind].append(row)
        elif old != new:
            names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            row = {name: f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names}
            found["changed"].append(row)
    return found


def _compare_kind(
    kind: str, wanted: int | Collection[str], rows: Sequence[Mapping[str, str]]
) -> str | None:
    """Return what is wrong with the changes of one kind, None if they are as expected."""
    columns = sorted({name for row in rows for name in row})
    if isinstance(wanted, int):
        is_expected, expected = len(rows) == wanted, str(wanted)
    else:
        is_expected = kind == "changed" and columns == sorted(set(wanted))
        expected = f"{kind} columns {', '.join(sorted(wanted))}"
    where = f" in {', '.join(columns)}" if kind == "changed" and rows else ""
    return None if is_expected else f"{len(rows)} {kind}{where}, expected {expected}"
