"""Loops, shells and threads carry on after somebody's take or restore, without any request."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.postgres import signals as types
from django.db import InterfaceError, OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.test import modify_settings

from django_pgsnap.connections import reconnect
from django_pgsnap.connections.reconnect import get_open_pool
from django_pgsnap.signals import post_restore
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.staleness import heard, make_twin, swap_twin, threads
from tests.testapp.models import Author
from tests.watching import authors, until, write

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checked": {"CONN_HEALTH_CHECKS": True},
    "pool": {"OPTIONS": {"pool": {"min_size": 8, "max_size": 8}}},
    "checked pool": {
        "OPTIONS": {"pool": {"min_size": 8, "max_size": 8}},
        "CONN_HEALTH_CHECKS": True,
    },
    "no autocommit": {"AUTOCOMMIT": False},
}

LOOP = """
from django.db import connection, transaction
from tests.testapp.models import Author
print(Author.objects.count(), flush=True)
while input():
    with transaction.atomic():
        print(Author.objects.count(), flush=True)
    print(Author.objects.count(), flush=True)
"""


@pytest.fixture(params=KINDS)
def twin(live: str, request: pytest.FixtureRequest, server: Server) -> str:
    """The name of a live database whose twin, without authors, can take its place."""
    make_twin(server, live)
    write("Ursula")
    point("default", **KINDS[request.param])
    reconnect.watch_connections()
    connection.ensure_connection()
    connection.close()
    fill_pool()
    return live


def fill_pool() -> None:
    """Wait until a pool has all its connections: new ones would be in the way of `swap_twin`."""
    if pool := get_open_pool(connections["default"]):
        until(lambda: pool.get_stats()["pool_available"] + pool_connections_in_use() == 8)


def pool_connections_in_use() -> int:
    return int(connection.connection is not None)


def one_kind(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("twin", [kind], indirect=True)


def pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_loop(twin: str, server: Server) -> None:
    """A loop that never ends a request finds what took the place, by its next statement."""
    assert authors() == ["Ursula"]
    for expected in ([], ["Ursula"], []):
        if connection.get_autocommit() is False:
            transaction.commit()
        fill_pool()
        swap_twin(server, twin)
        started = time.monotonic()
        assert authors() == expected
        assert time.monotonic() - started < 10


def test_threads(twin: str, server: Server) -> None:
    """So does each of several threads, whose connections were all ended."""
    with threads(3) as several:
        before = [each.submit(authors).result() for each in several]
        for each in several:
            each.submit(connection_commit).result()
        swap_twin(server, twin)
        after = [each.result() for each in [each.submit(authors) for each in several]]

    assert before == [["Ursula"]] * 3
    assert after == [[]] * 3


def connection_commit() -> None:
    if not connection.get_autocommit():
        transaction.commit()


@one_kind("plain")
def test_atomic_block_that_begins(twin: str, server: Server) -> None:
    """A block that begins after the swap is a whole one."""
    authors()
    swap_twin(server, twin)

    with transaction.atomic():
        Author.objects.create(name="Stanisław")

    assert authors() == ["Stanisław"]


@one_kind("plain")
def test_inside_a_transaction(twin: str, sql: RunSql) -> None:
    """In a block whose session was ended the error stands; what comes after the block works."""
    with transaction.atomic():
        sql("SELECT pg_terminate_backend(%s, 5000)", [pid()])
        with pytest.raises((OperationalError, InterfaceError)):
            write("Octavia")

    assert authors() == ["Ursula"]


@one_kind("plain")
def test_error_outside_of_a_transaction(twin: str, sql: RunSql) -> None:
    """A connection that was lost in the middle of a statement is not kept."""
    with pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert authors() == ["Ursula"]


@one_kind("plain")
def test_notification(twin: str, sql: RunSql) -> None:
    """A session that has something to say is not taken for one that was ended."""
    with connection.cursor() as cursor:
        cursor.execute("LISTEN news")
    before = pid()
    sql("NOTIFY news, 'something'", dbname=twin)

    assert pid() == before
    assert pid() == before


@one_kind("plain")
def test_costs_nothing(twin: str) -> None:
    """To see whether a session was ended takes a few microseconds, and no round trip."""
    connection.ensure_connection()
    started = time.process_time()

    for _ in range(10_000):
        reconnect.is_ended(connection)

    assert (time.process_time() - started) / 10_000 < 0.0001


def test_take_and_restore_elsewhere(live: str, manage: Manage) -> None:
    """A shell carries on through takes and restores of another process."""
    shell = manage.start("shell", "-c", LOOP, stdin=-1, bufsize=1)
    assert shell.stdin is not None
    assert shell.stdout is not None
    found = [last_line(shell.stdout)]
    for verb in (take, restore, restore):
        verb("seeded")
        write("Ursula")
        shell.stdin.write("go\n")
        found += [last_line(shell.stdout), shell.stdout.readline()]
    shell.stdin.close()

    assert [line.strip() for line in found] == ["0", "1", "1", "1", "1", "1", "1"]


def last_line(lines: Iterator[str]) -> str:
    """Return the next line that is a number: newer shells tell what they import."""
    return next(line for line in lines if line.strip().isdigit())


@contextmanager
def receiving(signal: Any, receiver: Any) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def test_types_that_were_read_too_early(live: str, server: Server, sql: RunSql) -> None:
    """A connection that was set up from caches, while another thread cleared them, is made anew."""
    make_twin(server, live)
    for name in (f"{live}_twin", live):
        sql("""CREATE TYPE hstore AS ENUM ('"a"=>"1"')""", dbname=name)
    types.get_hstore_oids.cache_clear()  # type: ignore[attr-defined]

    with modify_settings(INSTALLED_APPS={"append": "django.contrib.postgres"}):
        assert hstore() == {"a": "1"}
        connection.close()
        swap_twin(server, live)

        with threads(1) as (other,):

            def be_overtaken(**_: Any) -> None:
                connection_created.disconnect(be_overtaken)
                other.submit(connection.ensure_connection).result()

            with receiving(connection_created, be_overtaken):
                value = hstore()

    assert value == {"a": "1"}


@one_kind("plain")
def test_types_that_were_stale_when_read(twin: str) -> None:
    """A connection whose caches prove to be stale later on is made anew, but in no transaction."""
    before = pid()
    with transaction.atomic():
        reconnect.clear_caches("default")
        inside = pid()
    after = [pid(), pid()]

    assert inside == before
    assert after == [after[0]] * 2
    assert before not in after


def hstore() -> object:
    with connection.cursor() as cursor:
        cursor.execute("""SELECT '"a"=>"1"'::hstore""")
        return cursor.fetchone()[0]


def test_receivers_that_raise(
    lives: dict[str, str], caplog: pytest.LogCaptureFixture, call: Any
) -> None:
    """A receiver that raises is reported; the others are told, and the restore succeeds."""
    take("seeded")

    def fail(using: str, **_: Any) -> None:
        raise ZeroDivisionError(using)

    with receiving(post_restore, fail), heard(post_restore) as calls:
        printed = call("pgsnap", "restore", "seeded")

    assert [each["using"] for each in calls] == ["default", "other"]
    for alias in lives:
        assert (
            f"The receiver {__name__}.test_receivers_that_raise.<locals>.fail of post_restore "
            f"failed for {alias!r}: ZeroDivisionError: {alias}" in " ".join(printed.stderr.split())
        )


def test_receiver_that_raises_elsewhere(
    live: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """In another process an innocent query is answered, and the failure is logged."""
    make_twin(server, live)
    assert Author.objects.count() == 0
    swap_twin(server, live)

    def fail(**_: Any) -> None:
        raise ZeroDivisionError

    with receiving(post_restore, fail):
        assert Author.objects.count() == 0

    assert "of post_restore failed for 'default': ZeroDivisionError" in caplog.text
