"""What tests of the use cases look at, and what they wait for."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Thread

import psycopg
from django.db import connections
from psycopg import sql

from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.reporting import Reporter
from tests.conftest import TEMPLATE
from tests.servers import SUPERUSER, Server
from tests.state import Database, databases
from tests.testapp.models import Author

PATIENCE_S = 30
LONGEST_PAUSE_S = 0.02


class Recorder(Reporter):
    """Remembers what an operation reports."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def step(self, message: str) -> None:
        """Remember a step."""
        self.steps.append(message)

    def note(self, message: str) -> None:
        """Remember a fact."""
        self.notes.append(message)

    def warn(self, message: str) -> None:
        """Remember a warning."""
        self.warnings.append(message)


class Background(Thread):
    """Runs a function in a thread, and hands over what it returned or raised."""

    def __init__(self, function: Callable[[], object]) -> None:
        """Start at once."""
        super().__init__(daemon=True)
        self._function = function
        self._error: BaseException | None = None
        self._result: object = None
        self.start()

    def run(self) -> None:
        """Run the function, and leave none of Django's connections behind."""
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001  # for whoever asks for the result
            self._error = error
        finally:
            connections.close_all()

    def result(self) -> object:
        """Wait for the end, and return the result or raise the error."""
        self.join(PATIENCE_S)
        assert not self.is_alive(), "still running"
        if self._error:
            raise self._error
        return self._result


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline, pause_s = time.monotonic() + PATIENCE_S, 0.002
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(pause_s)
        # Many a look costs a connection, which takes the processor from what is waited for.
        pause_s = min(1.2 * pause_s, LONGEST_PAUSE_S)


def timeless(message: str) -> str:
    """Return a message as if all that it tells of had just begun; a busy machine takes its time."""
    return re.sub(r"\bfor \d+ s\b", "for 0 s", message)


def settle(server: Server) -> list[Database]:
    """Wait until the server has done what it was sent off to do, and return the databases."""
    with server.connect() as connection:
        until(lambda: not _maintenance_sessions(connection))
    return [database for database in databases(server) if database.name != TEMPLATE]


@contextmanager
def until_threads_end() -> Iterator[None]:
    """Wait at the end for threads that began within, such as open sessions that nobody needs."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_S)


def is_locked(server: Server, database: str) -> bool:
    """Tell whether an operation has got hold of a live database."""
    with server.connect() as connection:
        query = (
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND (classid::bigint << 32) | objid::bigint = %s"
        )
        return connection.execute(query, [lock_key(database)]).fetchone() is not None


def is_sleeping(server: Server) -> bool:
    """Tell whether a session is in pg_sleep."""
    with server.connect() as watcher:
        query = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return watcher.execute(query).fetchone() is not None


def is_held(server: Server, database: str) -> bool:
    """Tell whether somebody copies a database."""
    with server.connect() as connection:
        query = (
            "SELECT FROM pg_locks WHERE locktype = 'object' AND mode = 'ShareLock' AND granted"
            " AND objid = (SELECT oid FROM pg_database WHERE datname = %s)"
        )
        return connection.execute(query, [database]).fetchone() is not None


def is_waiting(server: Server, application: str) -> bool:
    """Tell whether a session of that application waits for a lock."""
    with server.connect() as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE %s AND wait_event_type = 'Lock'"
        )
        row = connection.execute(query, [f"{application}%"]).fetchone()
    return row is not None and row[0] > 0


@contextmanager
def held_up(server: Server, database: str) -> Iterator[psycopg.Connection]:
    """Keep CREATE DATABASE from getting on with a database, until a rollback or the end."""
    with server.connect() as blocker:
        blocker.execute("BEGIN")
        blocker.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(sql.Identifier(database)))
        yield blocker
        blocker.execute("ROLLBACK")


@contextmanager
def in_transaction(
    server: Server, database: str, user: str = SUPERUSER
) -> Iterator[psycopg.Connection]:
    """Keep a session inside a transaction on a database, as a client that writes there does."""
    with closing(server.connect(database, user, application_name="psql")) as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO testapp_author (name) VALUES ('at work')")
        yield connection


def authors(alias: str = "default") -> list[str]:
    """Return the names of the authors in a live database."""
    return sorted(Author.objects.using(alias).values_list("name", flat=True))


def write(*names: str, alias: str = "default") -> None:
    """Add authors to a live database, and leave it."""
    for name in names:
        Author.objects.using(alias).create(name=name)
    connections[alias].close()


def oids(present: list[Database]) -> dict[str, int]:
    """Return oids by database name."""
    return {database.name: database.oid for database in present}


def _maintenance_sessions(connection: psycopg.Connection) -> int:
    # That of a checkpoint stays as long as its block.
    query = """SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsnap %'
        AND application_name NOT LIKE 'pgsnap checkpoint (%'"""
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
