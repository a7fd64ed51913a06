"""The snapshot that ``migrate`` takes by itself."""

import pytest
from django.core.management.base import CommandError
from django.db import connection
from pytest_django import Settings

from django_pgsnap.conf import TEST_DATABASES
from django_pgsnap.errors import SnapshotPinnedError
from django_pgsnap.snapshots.manage import pin
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore
from tests.conftest import Call, MakeDatabase, RunSql
from tests.project import point
from tests.servers import Server
from tests.testapp.models import Genre


@pytest.fixture
def wanted(live: str, settings: Settings) -> str:
    """A live database of a project that wants it."""
    settings.PGSNAP = {**settings.PGSNAP, "BEFORE_MIGRATE": True}
    return live


def test_taken_before_anything_is_applied(wanted: str, call: Call) -> None:
    """The snapshot holds what the migration changed, and the output says how to go back."""
    genres = Genre.objects.count()
    printed = call("migrate", "testapp", "zero").stdout
    assert "testapp_genre" not in connection.introspection.table_names()

    (snapshot,) = list_snapshots()
    assert f"To go back: ./manage.py pgsnap restore {snapshot.name}" in printed
    restore(snapshot.name)
    assert Genre.objects.count() == genres > 0


@pytest.mark.parametrize("tables", [["legacy"], []])
def test_first_migration(
    wanted: str, make_database: MakeDatabase, sql: RunSql, call: Call, tables: list[str]
) -> None:
    """Tables that no migration made are worth a snapshot; of an empty database there is none."""
    point("default", NAME=make_database("fresh"))
    for table in tables:
        sql(f"CREATE TABLE {table} (id int)", dbname="fresh")

    call("migrate", "contenttypes", "0001", verbosity=0)

    assert len(list_snapshots()) == len(tables)


@pytest.mark.parametrize("arguments", [("testapp",), ("testapp", "0001", "--plan")])
def test_nothing_to_apply(wanted: str, call: Call, arguments: tuple[str, ...]) -> None:
    """Where nothing is applied, nothing is taken."""
    call("migrate", *arguments)

    assert list_snapshots() == ()


def test_only_where_it_is_wanted(live: str, call: Call) -> None:
    """Without the setting there is none."""
    call("migrate", "sites", "zero")

    assert list_snapshots() == ()


def test_the_last_ones_stay(wanted: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes when there are more than three, a pinned one stays."""
    monkeypatch.setattr("django_pgsnap.snapshots.before_migrate._KEPT", 1)
    taken = []
    for _ in range(3):
        call("migrate", "sites", "zero", verbosity=0)
        taken.append(list_snapshots()[0].name)
        restore(taken[-1])
        if len(taken) == 1:
            pin(taken[0])

    assert [each.name for each in list_snapshots()] == [taken[2], taken[0]]


def test_old_one_that_cannot_be_deleted(
    wanted: str,
    call: Call,
    sql: RunSql,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stays, and the migration goes on: the snapshot before it was taken."""
    monkeypatch.setattr("django_pgsnap.snapshots.before_migrate._KEPT", 0)
    monkeypatch.setattr("django_pgsnap.snapshots.before_migrate.delete", refuse)

    printed = call("migrate", "sites", "zero").stdout

    assert "django_site" not in connection.introspection.table_names()
    (snapshot,) = list_snapshots()
    assert f"Took {snapshot.name!r}" in printed
    assert caplog.messages == ["More snapshots of earlier migrations stay than need be: Pinned."]


def refuse(*names: str) -> None:
    raise SnapshotPinnedError("Pinned.", hint="")


def test_many_migrations_of_one_process(wanted: str, call: Call) -> None:
    """A process that migrates a database again and again takes one snapshot of it: the first."""
    for target in ("zero", "0001", "0002", "zero", "0002"):
        call("migrate", "sites", target, verbosity=0)

    (snapshot,) = list_snapshots()
    call("migrate", "sites", "zero", verbosity=0)
    restore(snapshot.name)
    assert "django_site" in connection.introspection.table_names()


def test_never_in_tests(wanted: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test run that migrates its databases takes none."""
    with monkeypatch.context() as patch:
        patch.setenv(TEST_DATABASES, "[]")
        call("migrate", "sites", "zero")

    assert list_snapshots() == ()


def test_no_migration_without_it(
    wanted: str, call: Call, server: Server, settings: Settings
) -> None:
    """Where it cannot be taken, nothing is applied."""
    settings.PGSNAP = {**settings.PGSNAP, "WAIT_S": 0}
    connection.close()
    with server.connect(wanted) as other:
        other.execute("BEGIN")
        with pytest.raises(CommandError, match="No migration was applied"):
            call("migrate", "sites", "zero")

    assert "django_site" in connection.introspection.table_names()
