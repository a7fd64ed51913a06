"""Which test databases are this process', and what is swept of those that are nobody's."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from django.db import connections
from psycopg import sql as pg

from django_pgsnap import safety
from django_pgsnap.clones import for_tests as comments
from django_pgsnap.clones.for_tests import FoundDatabase, TestDatabaseComment, run_lock_key
from django_pgsnap.clones.names import spare_name
from django_pgsnap.conf import TEST_DATABASES
from django_pgsnap.errors import DatabaseBusyError, NotEnabledError
from django_pgsnap.postgres import backends
from django_pgsnap.postgres.advisory_locks import try_acquire_lock
from django_pgsnap.postgres.session import Session
from django_pgsnap.postgres.targets import get_server, list_targets
from django_pgsnap.safety import check_enabled, is_in_tests
from django_pgsnap.testing import SnapshotRunner
from django_pgsnap.testing.databases import clones, own_databases
from django_pgsnap.testing.databases.clones import drop_in_background
from django_pgsnap.testing.databases.own_databases import OwnDatabase
from tests.conftest import (
    ListDatabases,
    MakeDatabase,
    MakeRole,
    RunSql,
    ServerAs,
    SessionAs,
    SetAlias,
)
from tests.records import copy_record, make_copy

UNHASHABLE = '[{"alias": [], "name": "n", "source": "s", "template": null, "place": []}]'
OWN = OwnDatabase(alias="default", name="test_live", source="live", template=None)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    own_databases._own.clear()
    os.environ.pop(TEST_DATABASES, None)
    safety._created_here.clear()


def list_present() -> list[OwnDatabase]:
    """Return the test databases that aliases lead to now."""
    return [own for own in map(own_databases.find_own_database, connections) if own is not None]


def left_by_a_run(session: Session, name: str, *, source: str = "live", kept: bool = False) -> None:
    session.execute(
        comments.write_comment(
            TestDatabaseComment(database=name, source=source, complete=True, kept=kept)
        )
    )


def test_found_by_where_the_alias_leads(set_alias: SetAlias) -> None:
    """A test database counts as long as its alias leads there."""
    set_alias("default", NAME="test_live")
    own_databases.register_database(OWN)
    assert list_present() == [OWN]

    connections["default"].settings_dict["NAME"] = "live"

    assert list_present() == []


def test_children_are_led_there(set_alias: SetAlias) -> None:
    """A process that a test starts works on the test database, not in development."""
    set_alias("default", NAME="test_live")
    own_databases.register_database(OWN)
    own_databases._own.clear()
    set_alias("default", NAME="live")

    own_databases.adopt_announced_databases()

    assert connections["default"].settings_dict["NAME"] == "test_live"
    assert own_databases.find_own_database("default") == replace(OWN, announced=True)


@pytest.mark.parametrize("announced", [True, False])
def test_runs_in_tests(announced: bool, set_alias: SetAlias) -> None:
    """A run that a test starts, here or in a child, leaves the database of that test alone."""
    set_alias("default", NAME="test_live", HOST="/no/such/socket")
    own = replace(OWN, announced=announced)
    own_databases.register_database(own)
    runner = SnapshotRunner(keepdb=True)

    runner.teardown_databases(runner.setup_databases(aliases=set()))

    assert own_databases.find_own_database("default") == own


@pytest.mark.parametrize(
    "value",
    ["", "nonsense", "{}", "[1]", '[{"alias": "default"}]', "null", "[" * 100_000, UNHASHABLE],
)
def test_children_who_cannot_read_it(
    value: str, set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken value stops no command; but nothing may be replaced then."""
    set_alias("default", NAME="live")
    monkeypatch.setenv(TEST_DATABASES, value)

    own_databases.adopt_announced_databases()

    assert list_present() == []
    with pytest.raises(NotEnabledError, match="PGSNAP_TEST_DATABASES in the environment cannot be"):
        check_enabled(list_targets(["default"]))


@pytest.mark.parametrize("change", [{"NAME": "another"}, {"HOST": "elsewhere"}, {"PORT": "1"}])
def test_children_with_other_settings(set_alias: SetAlias, change: dict[str, str]) -> None:
    """A process whose alias leads elsewhere is left alone."""
    set_alias("default", NAME="test_live")
    own_databases.register_database(OWN)
    own_databases._own.clear()
    set_alias("default", **{"NAME": "live", **change})

    own_databases.adopt_announced_databases()

    assert connections["default"].settings_dict["NAME"] == change.get("NAME", "live")
    assert own_databases.find_own_database("default") is None


def test_forgotten(set_alias: SetAlias) -> None:
    """When a test database is given up children are told so, and at the end of the run nothing."""
    set_alias("default", NAME="test_live")
    own_databases.register_database(OWN)
    own_databases.withdraw_announcement()
    assert [each["name"] for each in json.loads(os.environ[TEST_DATABASES])] == ["test_live"]

    own_databases.forget_database(get_server(connections["default"]), "test_live")

    assert os.environ[TEST_DATABASES] == "[]"
    assert own_databases.find_own_database("default", "test_live") is None
    own_databases.withdraw_announcement()
    assert TEST_DATABASES not in os.environ
    assert not is_in_tests()


def test_one_name_on_two_servers(set_alias: SetAlias) -> None:
    """One of them is given up without the other; second names and mirrors of the one go with it."""
    set_alias("default", NAME="test_live")
    set_alias("same", NAME="test_live", USER="another")
    set_alias("replica", NAME="test_live", PORT="2", TEST={"MIRROR": "default"})
    set_alias("other", NAME="test_live", PORT="1")
    for alias in ("default", "same", "replica", "other"):
        own_databases.register_database(replace(OWN, alias=alias))

    own_databases.forget_database(get_server(connections["default"]), "test_live")

    assert [own.alias for own in list_present()] == ["other"]


@pytest.mark.usefixtures("live")
def test_lost_session(session: Session, sql: RunSql) -> None:
    """When the session that holds the locks breaks, the next one takes them again."""
    name = str(connections["default"].settings_dict["NAME"])
    server = get_server(connections["default"])
    own_databases.claim_name(own_databases.get_lock_session(server), name)
    own_databases.register_database(replace(OWN, name=name))
    sql("SELECT pg_terminate_backend(%s, 5000)", [own_databases.get_lock_session(server).pid])
    with pytest.raises(psycopg.OperationalError):
        own_databases.get_lock_session(server).rows(pg.SQL("SELECT 1"))

    own_databases.get_lock_session(server)

    assert not try_acquire_lock(session, run_lock_key(name))
    own_databases.forget_database(server, name)
    assert try_acquire_lock(session, run_lock_key(name))


def test_one_run_at_a_time(session_as: SessionAs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that another run holds is not to be had, and its holder is named."""
    monkeypatch.setattr(own_databases, "_GONE_S", 0.01)
    other = session_as()
    own_databases.claim_name(other, "test_live")

    with pytest.raises(DatabaseBusyError) as caught:
        own_databases.claim_name(session_as(), "test_live")

    assert caught.value.message.startswith(
        f"The test database 'test_live' is in use by another test run: pid {other.pid}, role "
    )
    assert caught.value.hint == (
        "Wait for that run, or give this one another name in DATABASES: 'TEST': {'NAME': '…'}."
    )


def test_swept(session: Session, make_database: MakeDatabase, databases: ListDatabases) -> None:
    """What a killed run left of this project is dropped."""
    left_by_a_run(session, make_database("test_live"))
    left_by_a_run(session, make_database('test "live" ünïcode%_gw1'))

    clones.sweep_dead_runs(session, "live")

    assert databases() == []


def test_swept_while_a_spare_is_made(
    session: Session, session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What a killed run took stays while a spare is made of it, and no lock is kept for it."""
    left_by_a_run(session, make_database("test_live"))
    copy = copy_record(source="test_live")
    make_copy(session, copy)
    other = session_as()
    try_acquire_lock(other, spare_name(copy.identity))

    clones.sweep_dead_runs(session, "live")

    assert [each.name for each in databases()] == [copy.database]
    assert try_acquire_lock(other, "test_live")


def test_not_swept_while_the_run_lives(
    session: Session, session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What a living run holds is not swept."""
    left_by_a_run(session, make_database("test_live"))
    own_databases.claim_name(session_as(), "test_live")

    clones.sweep_dead_runs(session, "live")

    assert [each.name for each in databases()] == ["test_live"]


def test_not_swept_while_somebody_looks(
    session: Session, session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What somebody is connected to, is left to them."""
    left_by_a_run(session, make_database("test_live"))
    session_as(database="test_live")

    clones.sweep_dead_runs(session, "live")

    assert [each.name for each in databases()] == ["test_live"]


def test_not_swept(
    session: Session, make_database: MakeDatabase, role: MakeRole, sql: RunSql, set_alias: SetAlias
) -> None:
    """Neither what was kept is swept, nor another project's, nor what only looks like ours."""
    left_by_a_run(session, make_database("kept"), kept=True)
    left_by_a_run(session, make_database("other"), source="another")
    left_by_a_run(session, make_database("foreigner"))
    sql(pg.SQL("ALTER DATABASE foreigner OWNER TO {}").format(pg.Identifier(role())))
    left_by_a_run(session, make_database("before"))
    sql("ALTER DATABASE before RENAME TO renamed")
    left_by_a_run(session, make_database("developed"))
    set_alias("default", NAME="developed")
    make_database("test_live")
    before = sql("SELECT datname FROM pg_database ORDER BY oid")

    clones.sweep_dead_runs(session, "live")

    assert sql("SELECT datname FROM pg_database ORDER BY oid") == before


def test_not_dropped_under_somebody(
    server_as: ServerAs,
    session_as: SessionAs,
    make_database: MakeDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A test database that somebody is connected to stays at the end, and that is said."""
    monkeypatch.setattr(backends, "_LEAVING_S", 0.01)
    make_database("test_live")
    other = session_as(database="test_live")

    with pytest.raises(DatabaseBusyError) as caught:
        drop_in_background(server_as(), "test_live")

    assert caught.value.message.startswith(
        "The database 'test_live' cannot be dropped, since other sessions are using it:\n"
        f"  pid {other.pid}: role"
    )


@pytest.mark.parametrize(
    "comment", ["", "mine", "[]", "{}", '{"pgsnap_test": 2}', '{"pgsnap_test": 1, "database": "x"}']
)
def test_other_comments(
    session: Session, make_database: MakeDatabase, sql: RunSql, comment: str
) -> None:
    """Any other comment is not one of ours."""
    make_database("test_live")
    sql(pg.SQL("COMMENT ON DATABASE test_live IS {}").format(pg.Literal(comment)))

    found = comments.find_database(session, "test_live")

    assert found is not None
    assert found.comment is None
    assert comments.list_comments(session) == []


def test_made_from_its_first_moment(
    session: Session, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """A test database is a clone that is open, marked, and our own."""
    make_database("source")
    comment = TestDatabaseComment(database="test_live", source="live", complete=True, kept=False)

    clones.turn_into_test_database(session, clones.make_shut_clone(session, "source"), comment)

    assert comments.find_database(session, "test_live") == FoundDatabase(
        comment=comment, broken=False
    )
    (made,) = [each for each in databases() if each.name == "test_live"]
    assert (made.allows_connections, made.connection_limit) == (True, -1)


def test_dropped_name_is_free_at_once(
    server_as: ServerAs, make_database: MakeDatabase, sql: RunSql, databases: ListDatabases
) -> None:
    """A run may take the name while the server still drops what had it."""
    make_database("test_gone")
    checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    ((pid,),) = sql(checkpointer)
    os.kill(pid, signal.SIGSTOP)  # DROP DATABASE waits for it
    try:
        drop_in_background(server_as(), "test_gone")

        names = [database.name for database in databases()]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len(names) == 1
    assert names[0].startswith("pgsnap_drop_")


def test_dropped_by_a_test(server_as: ServerAs, databases: ListDatabases) -> None:
    """What is not there any more needs not be dropped."""
    drop_in_background(server_as(), "test_gone")

    assert databases() == []
