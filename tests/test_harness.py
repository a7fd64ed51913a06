"""What the suite's fixtures promise to the other tests."""

import json

import pytest
from django.conf import settings
from django.db import connection, connections

from tests.conftest import Call, ListDatabases, RunSql
from tests.project import Manage
from tests.servers import Server
from tests.testapp.models import Author, Genre


def test_live_is_migrated_and_takes_commits(live: str) -> None:
    """The live database holds what migrations inserted, and what a test writes is committed."""
    Author.objects.create(name="Ursula")

    assert connection.settings_dict["NAME"] == live
    assert [genre.name for genre in Genre.objects.order_by("name")] == ["Essay", "Novel", "Poetry"]
    connection.close()
    assert Author.objects.get().name == "Ursula"


def test_nothing_of_an_earlier_test_is_left(live: str, databases: ListDatabases) -> None:
    """A test sees its own live database and no rows of another test's."""
    assert [database.name for database in databases()] == [live]
    assert not Author.objects.exists()


def test_project_with_two_databases(lives: dict[str, str]) -> None:
    """The aliases of `lives` point at two databases that are written separately."""
    Author.objects.using("other").create(name="Ursula")

    assert list(connections) == ["default", "other"] == list(lives)
    assert not Author.objects.using("default").exists()


def test_project_with_one_database(live: str) -> None:
    """With `live` the project has no alias but `default`."""
    assert list(connections) == ["default"]


@pytest.mark.parametrize("live", ['Übung "100%" \\ №1'], indirect=True)
def test_live_under_an_odd_name(live: str, manage: Manage) -> None:
    """A test may choose the name of its live database, and child processes follow."""
    Author.objects.create(name="Ursula")

    ended = manage("dumpdata", "testapp.Author")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [row["fields"] for row in json.loads(ended.stdout)] == [{"name": "Ursula"}]


def test_live_of_an_ordinary_role(live_owned: str, databases: ListDatabases, sql: RunSql) -> None:
    """The role owns its live database and every table in it, and is no superuser."""
    owners = sql(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", dbname=live_owned
    )

    Author.objects.create(name="Ursula")

    assert owners == [("ordinary",)]
    assert [database.owner for database in databases()] == ["ordinary"]
    assert settings.DATABASES["default"]["USER"] == "ordinary"
    assert sql("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = 'ordinary'") == [
        (False, True)
    ]


def test_call_returns_what_a_command_prints(live: str, call: Call) -> None:
    """A command may run in the test process, on the live database."""
    assert call("diffsettings", all=True).stdout.count(live) == 1


def test_server_recovers_from_a_crash(live: str, server: Server) -> None:
    """A crashed server starts again on the same port with what was committed."""
    Author.objects.create(name="Ursula")
    connection.close()

    server.crash()
    server.start()

    assert Author.objects.get().name == "Ursula"


@pytest.mark.pg(">= 1000")
def test_marker_skips_by_server_version() -> None:
    """A test that needs a newer server does not run."""
    pytest.fail("there is no such server")
