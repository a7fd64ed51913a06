"""Work that a restore replaced can be had back, whatever was restored and undone since."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from threading import Event

import psycopg
import pytest
from django.db import connection, transaction
from psycopg import sql as pg

from django_pgsnap.errors import InsideTransactionError, ObstacleError, PgsnapError
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.restore import checkpoint, restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.histories.looking import kept_authors
from tests.project import Manage
from tests.servers import Server
from tests.watching import PATIENCE_S, Background, authors, settle, until, write

REFUSING_TRIGGER = """
    CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql
        AS $$ BEGIN IF current_setting('testapp.refuses', true) = 'yes' THEN
            RAISE 'nobody comes in here'; END IF; END $$;
    CREATE EVENT TRIGGER refuse_logins ON login EXECUTE FUNCTION refuse();
    ALTER EVENT TRIGGER refuse_logins ENABLE ALWAYS
"""

# What keeps our role out of its own live database.
OBSTACLES = {
    "connection limit": "ALTER DATABASE {live} CONNECTION LIMIT 0",
    "no connections allowed": "ALTER DATABASE {live} ALLOW_CONNECTIONS false",
    "library that is not there": "ALTER DATABASE {live} SET session_preload_libraries = 'gone'",
    "no slot left": "ALTER ROLE ordinary CONNECTION LIMIT 2",
    "no right to connect": "REVOKE CONNECT ON DATABASE {live} FROM PUBLIC, ordinary",
}

BLOCK = """
from django_pgsnap import checkpoint
with checkpoint():
    print("inside", flush=True)
    __import__("time").sleep(60)
"""

VERBS: dict[str, Callable[[], object]] = {
    "take": lambda: take("again"),
    "restore": lambda: restore("seeded"),
    "undo": undo,
}


def test_undo_and_redo_before_another_restore(live: str, server: Server) -> None:
    """A state that was only looked at does not push the work out."""
    take("a")
    write("changed")
    take("b")
    write("WORK")
    restore("a")

    undo()
    undo()
    restore("b")

    assert authors() == ["changed"]
    assert ["WORK", "changed"] in kept_authors("default", server)


def test_same_restore_twice_on_two_servers(
    two_servers: Server, server: Server, live_pair: dict[str, str]
) -> None:
    """Restoring an unchanged state again keeps the work, on two servers as on one."""
    take("seeded")
    for alias in live_pair:
        write("WORK", alias=alias)
    restore("seeded")

    restore("seeded")

    for alias in live_pair:
        assert ["WORK"] in kept_authors(alias, server, two_servers)


def test_work_before_a_checkpoint(live: str, server: Server) -> None:
    """What a checkpoint took and put back has no other copy, so the next restore keeps it."""
    take("seeded")
    write("WORK")
    with checkpoint():
        write("block")

    restore("seeded")

    assert ["WORK"] in kept_authors("default", server)


def test_work_between_nested_checkpoints(live: str, server: Server) -> None:
    """What the outer block did before the inner one is kept when the outer one ends."""
    with checkpoint():
        write("outer")
        with checkpoint():
            write("inner")

    assert authors() == []
    assert ["outer"] in kept_authors("default", server)


def test_restored_snapshot_is_deleted(live: str, server: Server) -> None:
    """A restored state whose snapshot is gone is the last of its kind, so it is kept."""
    take("seeded")
    write("Ursula")
    take("a")
    write("WORK")
    restore("a")
    delete("a")

    restore("seeded")

    assert ["Ursula"] in kept_authors("default", server)


def test_checkpoints_of_threads_that_overlap(live: str) -> None:
    """Two threads whose blocks overlap cannot both be taken back, so one of them is refused."""
    first_is_over, second_is_inside = Event(), Event()

    def second_block() -> None:
        try:
            with checkpoint():
                second_is_inside.set()
                first_is_over.wait(PATIENCE_S)
        finally:
            second_is_inside.set()

    def overlapping() -> None:
        with checkpoint():
            second = Background(second_block)
            second_is_inside.wait(PATIENCE_S)
        first_is_over.set()
        second.result()

    try:
        with pytest.raises(PgsnapError):
            overlapping()
    finally:
        first_is_over.set()


def test_checkpoints_of_processes_that_overlap(live: str, manage: Manage, server: Server) -> None:
    """The second one is refused, and told by whom, until the first has ended, however it did."""
    first = manage.start("shell", "-c", BLOCK)
    assert first.stdout
    assert "inside\n" in iter(first.stdout.readline, "")

    with pytest.raises(ObstacleError) as caught, checkpoint():
        pytest.fail("two blocks at once")
    first.kill()
    first.wait(PATIENCE_S)
    settle(server)
    with checkpoint(), checkpoint():
        pass

    assert f"inside a checkpoint of {live!r}: pid " in caught.value.message
    assert f":{first.pid})'" in caught.value.message


def test_writes_without_counters(live: str, server: Server, sql: RunSql) -> None:
    """A row counts as work though the session that wrote it was not counted."""
    take("seeded")
    restore("seeded")
    with server.connect(live, options="-c track_counts=off") as uncounted:
        # Nor does it call a sequence.
        uncounted.execute("INSERT INTO testapp_author (id, name) VALUES (1000, 'WORK')")

    restore("seeded")

    assert ["WORK"] in kept_authors("default", server)


def test_clients_that_keep_coming(live: str, server: Server) -> None:
    """Of clients that come again until the very swap, each row is in one state or in the other."""
    take("seeded")
    restore("seeded")
    is_over = Event()
    acknowledged: list[str] = []

    def come() -> None:
        for number in count(1000):
            with (
                suppress(psycopg.OperationalError),
                server.connect(live, options="-c track_counts=off") as client,
            ):
                client.execute(
                    "INSERT INTO testapp_author (id, name) VALUES (%s, %s)", [number, str(number)]
                )
                acknowledged.append(str(number))
            if is_over.is_set():
                return

    clients = Background(come)
    until(lambda: bool(acknowledged))
    restore("seeded")
    is_over.set()
    clients.result()

    kept = {name for state in kept_authors("default", server) for name in state}
    assert set(acknowledged) <= kept | set(authors())


def test_work_that_came_back_by_undo(live: str, server: Server) -> None:
    """Work that an undo brought back, and nobody touched since, goes in its turn like any other."""
    take("a")
    for name in ("one", "two", "three"):
        write(name)
        restore("a")
    undo(3)
    restore("a")
    write("four")

    restore("a")

    kept = [names for names in kept_authors("default", server) if names]
    assert kept == [["four"], ["one"], ["three"]]


def test_work_beside_a_whole(lives: dict[str, str], server: Server) -> None:
    """A state that has to stay for another database's sake pushes out no newer one."""
    take("both")
    for alias in lives:
        write("zero", alias=alias)
    restore("both")
    for name in ("one", "two", "three"):
        write(name)
        restore("both", databases=["default"])

    assert kept_authors("default", server) == [["three"], ["two"], ["one"], ["zero"]]
    write("four")
    restore("both", databases=["default"])
    assert kept_authors("default", server) == [["four"], ["three"], ["two"], ["zero"]]


def test_clone_of_a_deleted_snapshot(live: str, server: Server) -> None:
    """An unwritten state whose snapshot is gone goes in its turn like any other."""
    take("empty")
    write("one")
    take("a")
    write("two")
    restore("empty")
    restore("a")
    delete("a")
    restore("empty")
    for name in ("three", "four"):
        write(name)
        restore("empty")

    kept = kept_authors("default", server)
    assert kept == [["four"], ["three"], ["one"]]


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_live_database_that_lets_us_not_in(
    obstacle: str, live_owned: str, server: Server, sql: RunSql
) -> None:
    """Where our role cannot look whether anything was written, the restore works all the same."""
    take("seeded")
    write("WORK")
    restore("seeded")
    settle(server)
    sql(OBSTACLES[obstacle].format(live=live_owned))

    restore("seeded")

    _let_in(live_owned, sql)
    assert authors() == []
    assert ["WORK"] in kept_authors("default", server)


@pytest.mark.pg(">= 17")
def test_trigger_that_refuses_logins(live_owned: str, server: Server, sql: RunSql) -> None:
    """Where a login trigger keeps everybody out, the restore works all the same."""
    sql(REFUSING_TRIGGER, dbname=live_owned)
    take("seeded")
    write("WORK")
    restore("seeded")
    settle(server)
    sql("ALTER ROLE ordinary SET testapp.refuses = 'yes'")

    restore("seeded")

    sql("ALTER ROLE ordinary RESET testapp.refuses")
    assert authors() == []
    assert ["WORK"] in kept_authors("default", server)


@pytest.mark.parametrize("verb", VERBS)
def test_right_to_connect_revoked(verb: str, live_owned: str, server: Server, sql: RunSql) -> None:
    """Who may not connect to the live database owns it all the same, and the command works."""
    take("seeded")
    write("WORK")
    restore("seeded")
    settle(server)
    sql(OBSTACLES["no right to connect"].format(live=live_owned))

    VERBS[verb]()

    _let_in(live_owned, sql)
    assert authors() == (["WORK"] if verb == "undo" else [])


@pytest.mark.parametrize("verb", VERBS)
def test_open_transaction_without_autocommit(verb: str, live: str) -> None:
    """A transaction that Django has open is as good a reason to refuse as `atomic` is."""
    take("seeded")
    restore("seeded")
    transaction.set_autocommit(False)
    try:
        connection.cursor().execute("INSERT INTO testapp_author (name) VALUES ('WORK')")

        with pytest.raises(InsideTransactionError):
            VERBS[verb]()

        transaction.commit()
    finally:
        with suppress(transaction.TransactionManagementError):
            transaction.rollback()
        transaction.set_autocommit(True)
    assert authors() == ["WORK"]


def _let_in(live: str, sql: RunSql) -> None:
    """Take the obstacles away."""
    sql(
        pg.SQL(
            "ALTER DATABASE {0} CONNECTION LIMIT -1; ALTER DATABASE {0} ALLOW_CONNECTIONS true;"
            " ALTER DATABASE {0} RESET session_preload_libraries;"
            " GRANT CONNECT ON DATABASE {0} TO PUBLIC;"
            " ALTER ROLE ordinary CONNECTION LIMIT -1"
        ).format(pg.Identifier(live))
    )
