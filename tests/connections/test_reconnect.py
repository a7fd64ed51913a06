"""Django's connections before and after an operation."""

import time
from typing import Any

import pytest
from django.db import connection, connections, transaction

from django_pgsnap.connections.reconnect import get_open_pool
from django_pgsnap.errors import InsideTransactionError
from django_pgsnap.postgres.targets import aliases_sharing_database
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import SetAlias
from tests.project import point
from tests.staleness import answer, change, is_fresh, threads
from tests.testapp.models import Author

SQLITE = "django.db.backends.sqlite3"

KINDS: dict[str, dict[str, Any]] = {
    "neither": {},
    "persistent": {"CONN_MAX_AGE": 600},
    "pool": {"OPTIONS": {"pool": {"min_size": 2}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_process_that_restores(live: str, kind: str) -> None:
    """In the process that restores, all threads answer their next request from the right data."""
    take("seeded")
    change()
    point("default", **KINDS[kind])

    with threads(2) as pool:
        before = [each.submit(answer, "/state/").result() for each in pool]
        before.append(answer("/state/"))
        restore("seeded")
        after = [each.submit(answer, "/state/").result() for each in pool]
        after.append(answer("/state/"))
        undo()
        undone = [each.submit(answer, "/state/").result() for each in pool]

    assert all(is_fresh(state, authors=1) for state in before)
    assert all(is_fresh(state, authors=0) for state in after)
    assert all(is_fresh(state, authors=1) for state in undone)


@pytest.mark.parametrize("kind", KINDS)
def test_code_outside_requests(live: str, kind: str) -> None:
    """The code that calls restore finds the restored data by its very next query."""
    take("seeded")
    point("default", **KINDS[kind])
    Author.objects.create(name="Ursula")

    restore("seeded")

    assert not Author.objects.exists()


def test_pool_is_ready_after_an_operation(live: str) -> None:
    """A pool of four, none of whose sessions is left, gives four that work without a pause."""
    point("default", OPTIONS={"pool": {"min_size": 4}})
    connection.ensure_connection()
    pool = get_open_pool(connections["default"])
    connection.close()
    pool.wait()

    take("seeded")
    began = time.monotonic()
    with threads(4) as each:
        found = [one.submit(Author.objects.count).result() for one in each]
        seconds = time.monotonic() - began

    assert found == [0, 0, 0, 0]
    assert get_open_pool(connections["default"]) is pool
    # By itself the pool would have slept for one second, then two, then four.
    assert seconds < 3


def test_pools_are_not_made(live: str) -> None:
    """A pool that was never used is not made for being looked for."""
    point("default", OPTIONS={"pool": True})

    take("seeded")

    assert get_open_pool(connections["default"]) is None
    assert connections["default"]._connection_pools == {}  # type: ignore[attr-defined]


def test_closed_pool(live: str) -> None:
    """A pool that somebody closed is left alone."""
    point("default", OPTIONS={"pool": {"min_size": 1}})
    connection.ensure_connection()
    pool = get_open_pool(connections["default"])
    connection.close()
    pool.close()

    take("seeded")

    assert get_open_pool(connections["default"]) is None


@pytest.mark.parametrize("alias", ["default", "again"])
def test_inside_atomic(alias: str, live: str, set_alias: SetAlias) -> None:
    """No operation begins inside atomic, on whichever alias of the database that is."""
    set_alias("again")

    with transaction.atomic(alias), pytest.raises(InsideTransactionError) as error:
        take("seeded")

    assert error.value.message == (
        f"This thread is inside transaction.atomic on {alias!r}, which a snapshot operation "
        "would break."
    )
    assert error.value.hint == (
        "Call it outside; in tests use TransactionTestCase, or pytest's "
        "@pytest.mark.django_db(transaction=True)."
    )


def test_atomic_elsewhere(lives: dict[str, str]) -> None:
    """A transaction on a database that is not concerned goes on."""
    with transaction.atomic("other"):
        Author.objects.using("other").create(name="Ursula")
        take("seeded", databases=["default"])
        assert Author.objects.using("other").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"NAME": "another"},
        {"HOST": "another.example"},
        {"PORT": "5433"},
        {"HOST": "", "OPTIONS": {"host": "another.example"}},
        {"OPTIONS": {"service": "another"}},
        {"ENGINE": SQLITE},
    ],
    ids=str,
)
def test_aliases_of_other_databases(set_alias: SetAlias, values: dict[str, Any]) -> None:
    """What differs in place or vendor is another database."""
    set_alias("other", **values)

    assert aliases_sharing_database(["default"]) == ["default"]


@pytest.mark.parametrize(
    ("default", "again"),
    [
        ({}, {}),
        ({}, {"TEST": {"MIRROR": "default"}}),
        ({}, {"CONN_MAX_AGE": 600, "USER": "reader"}),
        ({"HOST": "", "OPTIONS": {"host": "/tmp"}}, {"HOST": "/tmp", "OPTIONS": {}}),
        ({"PORT": 5432}, {"PORT": "5432"}),
    ],
    ids=str,
)
def test_aliases_of_one_database(
    set_alias: SetAlias, default: dict[str, Any], again: dict[str, Any]
) -> None:
    """Mirrors and duplicates are found, however they are written."""
    set_alias("default", **default)
    set_alias("other", NAME="another")
    set_alias("again", **again)

    assert aliases_sharing_database(["again"]) == ["default", "again"]
