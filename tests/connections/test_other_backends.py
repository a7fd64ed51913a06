"""Database backends of other packages: what is theirs is left alone, and snapshots work."""

from collections.abc import Iterator
from threading import Thread

import pytest
from django.conf import settings
from django.db import connection, connections
from psycopg import sql

from django_pgsnap.connections.reconnect import get_open_pool
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.testing.reset.connections import close_idle_connections, watch_connections
from tests.conftest import SetAlias
from tests.servers import Server
from tests.staleness import answer
from tests.watching import authors, settle, write

ENGINES = {
    "django_db_geventpool.backends.postgresql_psycopg3": {"OPTIONS": {"MAX_CONNS": 2}},
    "dj_db_conn_pool.backends.postgresql": {"POOL_OPTIONS": {"POOL_SIZE": 1, "MAX_OVERFLOW": 0}},
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, live: str, set_alias: SetAlias) -> Iterator[str]:
    """The engine of the alias, with few connections, so that each one that is kept is missed."""
    pytest.importorskip(request.param.partition(".")[0])
    pytest.importorskip("gevent" if "gevent" in request.param else "sqlalchemy")
    set_alias("default", ENGINE=request.param, **ENGINES[request.param])
    yield request.param
    connections["default"].close()


def test_take_and_restore(engine: str, server: Server) -> None:
    """Snapshots are taken and restored, by more sessions than the backend's own pool has."""
    write("Ursula")
    for _ in range(3):
        take("seeded", replace=True)
    write("Stanisław")
    connection.close()

    restore("seeded")

    settle(server)
    assert authors() == ["Ursula"]


def test_pool_of_others(engine: str) -> None:
    """What another package calls its pools is no pool of Django's."""
    assert authors() == []
    assert get_open_pool(connections["default"]) is None


def test_session_by_its_connection(engine: str) -> None:
    """A session goes by the driver's connection, whatever the pool wraps it in."""
    connection.ensure_connection()

    session = Session(connection.connection)

    assert session.pid == session.value(sql.SQL("SELECT pg_backend_pid()"))


def test_requests(engine: str) -> None:
    """Pages are answered, one after the other."""
    assert [answer("/state/")["status"] for _ in range(3)] == [200] * 3


def test_thread_that_idles(engine: str) -> None:
    """A thread's connection is not closed with a lock held that its pool wants too."""
    watch_connections()
    left: list[object] = []

    def work() -> None:
        authors()
        left.append(connections["default"])

    thread = Thread(target=work)
    thread.start()
    thread.join()

    ended = Thread(target=close_idle_connections, args=[["default"]], daemon=True)
    ended.start()
    ended.join(10)

    assert not ended.is_alive()
    assert settings.DATABASES
