"""What is left when the server itself dies in the middle of something, and what happens then."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import LazySettings
from django.db import connection
from psycopg import sql as pg

from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.doctor.findings import Finding
from django_pgsnap.errors import ServerError
from django_pgsnap.postgres.server import server_errors
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ListDatabases, RunSql
from tests.project import Manage
from tests.servers import Server
from tests.testapp.models import Author

DEADLINE_S = 30

# Large enough that its copy can be caught half-way.
PADDING = """
    CREATE TABLE padding AS
    SELECT n, repeat('x', 1000) AS text FROM generate_series(1, 80000) n
"""


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def authors() -> list[str]:
    names = list(Author.objects.order_by("name").values_list("name", flat=True))
    connection.close()
    return names


def write(name: str) -> None:
    Author.objects.create(name=name)
    connection.close()


def crash_and_restart(server: Server) -> None:
    server.crash()
    server.start()


def directories_without_row(
    server: Server, sql: Callable[[str], list[tuple[Any, ...]]]
) -> set[Path]:
    rows = {str(oid) for (oid,) in sql("SELECT oid FROM pg_database")}
    present = (server.data_dir / "base").iterdir()
    return {path for path in present if path.name.isdigit() and path.name not in rows}


def die_in_mid_copy(server: Server, sql: RunSql) -> None:
    """Wait for a CREATE DATABASE that has made files, and crash before it ends."""
    copying = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%pgsnap%'"
    # One connection, since a copy may be over before another one is there.
    watcher = server.connect()

    def look(query: str) -> list[tuple[Any, ...]]:
        return watcher.execute(query).fetchall()

    def caught() -> bool:
        makers = look(f"{copying} AND state = 'active'")
        if not makers or not directories_without_row(server, look):
            return False
        os.kill(makers[0][0], signal.SIGSTOP)
        if not directories_without_row(server, look):
            os.kill(makers[0][0], signal.SIGCONT)  # too quick to be caught
            return False
        os.kill(makers[0][0], signal.SIGKILL)
        return True

    with closing(watcher):
        wait_for(caught)
    crash_and_restart(server)


def test_lost_connection_is_told_in_a_line() -> None:
    """The three lines of libpq about a server that is gone become one sentence."""
    text = (
        "consuming input failed: server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n"
        "\tbefore or while processing the request."
    )

    with pytest.raises(ServerError) as failure, server_errors():
        raise psycopg.OperationalError(text)

    assert failure.value.message == (
        "The server refused, or the connection was lost: consuming input failed: server closed "
        "the connection unexpectedly This probably means the server terminated abnormally before "
        "or while processing the request. Each live database is as it was, or as it shall be."
    )


@pytest.fixture(autouse=True)
def _no_orphans_for_others(server: Server, sql: RunSql) -> Iterator[None]:
    """A crash may leave files of a drop that was on its way, and the doctor would name them."""
    yield
    for path in directories_without_row(server, sql):
        shutil.rmtree(path, ignore_errors=True)  # the server may remove it, too


@pytest.fixture
def large_live(live: str, sql: RunSql) -> str:
    """A live database with one author, and with padding."""
    sql(PADDING, dbname=live)
    write("Ursula")
    return live


def orphans() -> list[Finding]:
    return [each for each in diagnose().findings if each.kind == "orphaned-files"]


def remove(findings: list[Finding]) -> None:
    for finding in findings:
        shutil.rmtree(finding.object)


def test_crash_in_the_middle_of_a_take(
    large_live: str, server: Server, sql: RunSql, manage: Manage, databases: ListDatabases
) -> None:
    """Nothing of the take is left but files, which doctor names; the next take works."""
    taking = manage.start("pgsnap", "take", "seeded")

    die_in_mid_copy(server, sql)
    _, stderr = taking.communicate()

    assert taking.returncode == 1
    assert "Traceback" not in stderr
    assert [database.name for database in databases()] == [large_live]
    assert authors() == ["Ursula"]
    found = orphans()
    assert [each.object for each in found] == [
        str(path) for path in directories_without_row(server, sql)
    ]
    remove(found)
    assert diagnose().problems == ()
    take("seeded", spare=False)
    write("Octavia")
    restore("seeded")
    assert authors() == ["Ursula"]


def test_crash_while_a_spare_is_made(
    large_live: str, server: Server, sql: RunSql, databases: ListDatabases
) -> None:
    """The snapshot is there and restores, by copying; of the spare there are only files."""
    take("seeded")

    die_in_mid_copy(server, sql)

    assert [snapshot.spare for snapshot in overview().snapshots] == ["none"]
    found = orphans()
    assert len(found) == 1
    remove(found)
    write("Octavia")
    restore("seeded")
    assert authors() == ["Ursula"]
    undo()
    assert authors() == ["Octavia", "Ursula"]


def test_crash_right_after_a_swap(live: str, server: Server, settings: LazySettings) -> None:
    """What a restore has reported done is done, and what it replaced can be had back."""
    settings.PGSNAP = {**settings.PGSNAP, "SPARES": False}
    write("Ursula")
    take("seeded")
    write("Octavia")

    restore("seeded")
    crash_and_restart(server)

    assert authors() == ["Ursula"]
    undo()
    assert authors() == ["Octavia", "Ursula"]
    assert [each.kind for each in diagnose(fix=True).problems] == []


def test_crash_in_the_middle_of_a_fired_drop(
    live: str, server: Server, sql: RunSql, checkpointer: int, databases: ListDatabases
) -> None:
    """The drop is finished by the next command; live database and snapshot are untouched."""
    write("Ursula")
    take("seeded", spare=False)
    write("Octavia")
    restore("seeded", undo=False)
    # Then its mark is on disk, which it is not as soon as one can see it.
    dropping = (
        "SELECT pid FROM pg_stat_activity WHERE query ~ '^DROP' AND wait_event ~ '^Checkpoint'"
    )
    wait_for(lambda: sql(dropping))

    os.kill(checkpointer, signal.SIGKILL)
    crash_and_restart(server)

    ((to_drop,),) = sql("SELECT datname FROM pg_database WHERE datconnlimit = -2")
    assert to_drop.startswith("pgsnap_drop_")
    assert authors() == ["Ursula"]
    take("next", spare=False)
    wait_for(lambda: to_drop not in [database.name for database in databases()])
    assert [snapshot.name for snapshot in overview().snapshots] == ["next", "seeded"]


@pytest.mark.parametrize("kind", ["copy", "spare", "undo"])
def test_interrupted_drop_is_finished_by_the_next_command(
    live: str, sql: RunSql, databases: ListDatabases, kind: str
) -> None:
    """A half-dropped database of ours is no snapshot, spare or undo any more, and goes."""
    write("Ursula")
    taken = take("seeded").members[0]
    spare = f"pgsnap_spare_{taken.record.identity}"
    wait_for(lambda: overview().snapshots[0].spare == "ready")
    restore("seeded")
    wait_for(lambda: overview().snapshots[0].spare == "ready")
    to_drop = {
        "copy": taken.database.name,
        "spare": spare,
        "undo": overview().undos[0].members[0].database.name,
    }[kind]
    sql(
        pg.SQL("UPDATE pg_database SET datconnlimit = -2 WHERE datname = {}").format(
            pg.Literal(to_drop)
        )
    )
    oid = next(database.oid for database in databases() if database.name == to_drop)

    take("next", spare=False)

    wait_for(lambda: oid not in [database.oid for database in databases()])
    assert authors() == ["Ursula"]
    assert len(overview().undos) == (kind != "undo")
    assert [snapshot.name for snapshot in overview().snapshots] == [
        "next",
        *(["seeded"] if kind != "copy" else []),
    ]
