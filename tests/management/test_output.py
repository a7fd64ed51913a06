"""The diff on the command line: for people on a terminal, and for programs in a pipe."""

import json

import pytest
from django.core.management.base import CommandError
from django.db import connection

from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, RunSql
from tests.project import Manage
from tests.testapp.models import Author
from tests.watching import write


@pytest.fixture
def changed(live: str) -> None:
    """A database in which a row was added, one removed and one changed since the snapshot."""
    Author.objects.bulk_create([Author(pk=101, name="Ada"), Author(pk=102, name="Bob")])
    take("seeded")
    write("Ursula")
    Author.objects.filter(pk=101).update(name="Ada\x1b[31m " + "x" * 80)
    Author.objects.filter(pk=102).delete()
    connection.close()


def test_summary_and_rows(changed: None, call: Call) -> None:
    """Models with numbers, then the rows that were asked for, long values cut in the middle."""
    lines = call("pgsnap", "diff", "seeded", "--rows", "2").stdout.splitlines()

    assert [line.split() for line in lines[:2]] == [
        ["Model", "Added", "Removed", "Changed", "Columns", "that", "changed"],
        ["testapp.Author", "1", "1", "1", "name"],
    ]
    assert lines[2] == "testapp.Author"
    assert lines[3] == "  + id=1  name: Ursula"
    assert lines[4].startswith("  ~ id=101  name: Ada → Ada\N{REPLACEMENT CHARACTER}[31m xxxx")
    assert " … " in lines[4]
    assert lines[5:] == ["  ... and 1 more"]


def test_columns_without_a_value(live: str, call: Call, sql: RunSql) -> None:
    """A new row is shown without the columns that are NULL in it; a change to NULL is shown."""
    sql("CREATE TABLE thing (id int PRIMARY KEY, a text, b text)", dbname=live)
    sql("INSERT INTO thing VALUES (1, 'x', 'y')", dbname=live)
    take("seeded")
    sql("UPDATE thing SET a = NULL; INSERT INTO thing (id, b) VALUES (2, 'z')", dbname=live)

    lines = call("pgsnap", "diff", "seeded", "--rows", "2").stdout.splitlines()

    assert lines[-2:] == ["  ~ id=1  a: x → NULL", "  + id=2  b: z"]


def test_nothing_differs(live: str, call: Call) -> None:
    """Where nothing changed, that is said."""
    take("seeded")

    printed = call("pgsnap", "diff", "seeded", "--exit-code").stdout

    assert printed == "Nothing differs between seeded and live.\n"


def test_exit_code(changed: None, call: Call) -> None:
    """Scripts can ask by the exit status whether anything differs."""
    with pytest.raises(SystemExit) as caught:
        call("pgsnap", "diff", "seeded", "--exit-code")

    assert caught.value.code == 1


def test_json(changed: None, call: Call) -> None:
    """Each change is an object on a line of its own, rows as they are found."""
    lines = call("pgsnap", "diff", "seeded", "--json").stdout.splitlines()

    rows = [json.loads(line) for line in lines]
    assert [row["type"] for row in rows] == ["row", "row", "row", "diff", "table"]
    assert rows[2] == {
        "type": "row",
        "database": "default",
        "table": "testapp_author",
        "model": "testapp.Author",
        "kind": "removed",
        "key": {"id": "102"},
        "columns": {"id": ["102", None], "name": ["Bob", None]},
    }
    assert rows[-1]["changed_columns"] == {"name": 1}


def test_only_some_models(changed: None, call: Call) -> None:
    """A diff of a model that did not change is empty, whatever else did."""
    printed = call("pgsnap", "diff", "seeded", "--model", "testapp.Book").stdout

    assert printed == "Nothing differs between seeded and live.\n"


def test_unknown_model(changed: None, call: Call) -> None:
    """A model that does not exist is no reason to say that nothing differs."""
    with pytest.raises(CommandError, match=r"There is no model or table 'testapp\.Authors'"):
        call("pgsnap", "diff", "seeded", "--model", "testapp.Authors")


def test_replaced_states(changed: None, call: Call) -> None:
    """Any replaced state can be compared; names beside it, and numbers that are none, are not."""
    restore("seeded")
    restore("seeded")

    assert "testapp.Author" in call("pgsnap", "diff", "--undo").stdout
    with pytest.raises(CommandError, match=r"no replaced state 9 to compare with"):
        call("pgsnap", "diff", "--undo", "9")
    with pytest.raises(CommandError, match="compared with the live databases only"):
        call("pgsnap", "diff", "seeded", "--undo")


def test_reader_that_has_seen_enough(changed: None, manage: Manage) -> None:
    """A pipe that closes is no error."""
    process = manage.start("pgsnap", "diff", "seeded", "--json")
    assert process.stdout is not None
    process.stdout.close()

    assert process.wait(timeout=30) == 0
