"""What a diff tells: exactly what changed, in any history."""

from collections.abc import Callable, Iterable

import pytest
from psycopg import sql as pg

from django_pgsnap.comparison.contents import count_rows
from django_pgsnap.comparison.diff import diff
from django_pgsnap.comparison.sides import Side
from django_pgsnap.comparison.tables import Table
from django_pgsnap.comparison.types import Diff
from django_pgsnap.errors import ServerUnavailableError
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.watching import write

Told = dict[str, tuple[int, int, int]]


def told(found: Diff) -> Told:
    """Return what was added, removed and changed, by table or model."""
    return {table.name: (table.added, table.removed, table.changed) for table in found.tables}


@pytest.fixture
def run(live: str, sql: RunSql) -> Callable[[str], object]:
    """Runs SQL on the live database."""
    return lambda query: sql(query, dbname=live)


def test_nothing_changed(live: str) -> None:
    """A database that nobody wrote since is the same, by the versions of its rows."""
    write("Ursula")
    take("seeded")

    assert diff("seeded").is_empty


def test_live_database_that_is_gone(live: str, sql: RunSql) -> None:
    """It is said how to have it again, and that works."""
    take("seeded", spare=False)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    with pytest.raises(ServerUnavailableError, match="Restore a snapshot to make it again"):
        diff("seeded")

    restore("seeded")
    assert diff("seeded").is_empty


def test_rows(run: Callable[[str], object]) -> None:
    """Rows that were added, removed and changed are told, with the columns that changed."""
    run("INSERT INTO testapp_author (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    take("seeded")
    run(
        "INSERT INTO testapp_author (id, name) VALUES (4, 'd');"
        "DELETE FROM testapp_author WHERE id = 1;"
        "UPDATE testapp_author SET name = 'B' WHERE id = 2;"
        "UPDATE testapp_author SET name = 'c' WHERE id = 3"
    )

    found = diff("seeded", rows=10)

    (table,) = found.tables
    assert (table.model, table.method) == ("testapp.Author", "row versions")
    assert (table.added, table.removed, table.changed) == (1, 1, 1)
    assert table.changed_columns == {"name": 1}
    assert [(row.kind, dict(row.key), dict(row.columns)) for row in table.rows] == [
        ("removed", {"id": "1"}, {"id": ("1", None), "name": ("a", None)}),
        ("changed", {"id": "2"}, {"name": ("b", "B")}),
        ("added", {"id": "4"}, {"id": (None, "4"), "name": (None, "d")}),
    ]


def test_tables_that_one_side_lacks_or_has_empty(
    run: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted, and only as many of their rows are read as are to be shown."""
    run("CREATE TABLE emptied AS SELECT generate_series(1, 3)")
    run("CREATE TABLE dropped AS TABLE emptied")
    take("seeded", spare=False)
    run("TRUNCATE emptied; DROP TABLE dropped; CREATE TABLE made AS SELECT generate_series(1, 5)")

    shown = diff("seeded", rows=2)
    monkeypatch.setattr("django_pgsnap.comparison.contents._ordered", None)
    counted = diff("seeded")

    assert told(counted) == {"dropped": (0, 3, 0), "emptied": (0, 3, 0), "made": (5, 0, 0)}
    assert told(shown) == told(counted)
    assert [len(table.rows) for table in shown.tables] == [2, 2, 2]


def test_rows_that_are_not_read(
    run: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of which only some rows are read leaves no sorted ones on the server's disk."""
    run("CREATE TABLE dropped AS SELECT generate_series(1, 3)")
    take("seeded", spare=False)
    run("DROP TABLE dropped; CREATE TABLE made AS SELECT generate_series(1, 5)")
    left = []

    def count(side: Side, parts: Iterable[Table]) -> int:
        cursors = "SELECT name FROM pg_cursors WHERE name LIKE 'pgsnap%'"
        left.append(side.session.column(pg.SQL(cursors)))
        return count_rows(side, parts)

    monkeypatch.setattr("django_pgsnap.comparison.compare.count_rows", count)

    assert [len(table.rows) for table in diff("seeded", rows=2).tables] == [2, 2]
    assert left == [[], []]


def test_equal_rows_without_a_key(run: Callable[[str], object]) -> None:
    """Of two equal rows one is deleted, and the other written again as it was."""
    run("CREATE TABLE keyless (name text)")
    run("INSERT INTO keyless VALUES ('a'), ('a')")
    take("seeded")
    run("DELETE FROM keyless WHERE ctid = '(0,1)'")
    run("UPDATE keyless SET name = name")

    assert told(diff("seeded")) == {"keyless": (0, 1, 0)}


def test_branches_of_history(live: str, run: Callable[[str], object]) -> None:
    """What is older than a snapshot can differ from it all the same."""
    write("Ursula")
    take("a")
    run("INSERT INTO testapp_author (name) VALUES ('only in b')")
    take("b")
    restore("a")

    assert told(diff("b")) == {"testapp.Author": (0, 1, 0)}
    assert told(diff("a")) == {}
    assert told(diff("a", "b")) == {"testapp.Author": (1, 0, 0)}
    assert told(diff(undo=1)) == {"testapp.Author": (0, 1, 0)}


# What is done to a table of 50 rows after the snapshot, and what the diff tells of it.
SAME_FILE = {
    "nothing": ("SELECT 1", {}),
    "a row written again as it was": ("UPDATE thing SET name = name WHERE id = 3", {}),
    "a freeze": ("VACUUM (FREEZE) thing", {}),
    "a change by a subtransaction": (
        "BEGIN; SAVEPOINT a; UPDATE thing SET name = 'x' WHERE id = 3; RELEASE a; COMMIT",
        {"thing": (0, 0, 1)},
    ),
    "a change that was rolled back": ("BEGIN; UPDATE thing SET name = 'x'; ROLLBACK", {}),
    "a row deleted, and made anew in its place": (
        (
            "DELETE FROM thing WHERE id = 3; VACUUM thing;"
            "INSERT INTO thing (id, name) VALUES (3, 'changed')"
        ),
        {"thing": (0, 0, 1)},
    ),
    "a new key": ("UPDATE thing SET id = 99 WHERE id = 3", {"thing": (1, 1, 0)}),
    "all rows deleted": ("DELETE FROM thing", {"thing": (0, 50, 0)}),
    "a NULL": ("UPDATE thing SET name = NULL WHERE id = 3", {"thing": (0, 0, 1)}),
}
OTHER_FILE = {
    "rows rewritten": ("VACUUM FULL thing", {}),
    "emptied and filled again": (
        (
            "CREATE TABLE kept AS TABLE thing; TRUNCATE thing;"
            "INSERT INTO thing SELECT * FROM kept; DROP TABLE kept"
        ),
        {},
    ),
    "emptied": ("TRUNCATE thing", {"thing": (0, 50, 0)}),
    "tables swapped": (
        (
            "CREATE TABLE other (LIKE thing INCLUDING ALL); ALTER TABLE thing RENAME TO gone;"
            "ALTER TABLE other RENAME TO thing; DROP TABLE gone"
        ),
        {"thing": (0, 50, 0)},
    ),
    "columns swapped": (
        (
            "ALTER TABLE thing ADD COLUMN label text; UPDATE thing SET label = 'l';"
            "ALTER TABLE thing RENAME COLUMN name TO n;"
            "ALTER TABLE thing RENAME COLUMN label TO name"
        ),
        {"thing": (0, 0, 50)},
    ),
    "a column with a default that no row has": (
        "ALTER TABLE thing ADD COLUMN more int DEFAULT 7",
        {},
    ),
    "an enum's label renamed": (
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        {"thing": (0, 0, 50)},
    ),
}


@pytest.fixture
def thing(run: Callable[[str], object]) -> Callable[[str], object]:
    """Makes a table of 50 rows, takes a snapshot, and runs SQL, a statement at a time."""
    run("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    run(
        "CREATE TABLE thing (id int PRIMARY KEY, name text, mood mood DEFAULT 'sad');"
        "INSERT INTO thing (id, name) SELECT i, 'n' || i FROM generate_series(1, 50) i"
    )
    take("seeded")

    def change(script: str) -> None:
        if script.startswith("BEGIN"):
            run(script)
        else:
            for statement in script.split(";"):
                run(statement)

    return change


@pytest.mark.parametrize("change", SAME_FILE)
def test_same_file(change: str, thing: Callable[[str], object]) -> None:
    """Versions of rows tell what happened where the table still has its file."""
    script, expected = SAME_FILE[change]

    thing(script)

    found = diff("seeded")
    assert told(found) == expected
    assert {table.method for table in found.tables} <= {"row versions"}


@pytest.mark.parametrize("change", OTHER_FILE)
def test_other_file(change: str, thing: Callable[[str], object]) -> None:
    """Contents tell what happened where they share no versions of rows."""
    script, expected = OTHER_FILE[change]

    thing(script)

    found = diff("seeded")
    assert told(found) == expected
    assert {table.method for table in found.tables} <= {"contents"}
