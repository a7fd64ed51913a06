"""Maintenance sessions: what they carry, how they fail, and what goes on when we leave."""

import getpass
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.errors import MissingRightError, ServerUnavailableError
from django_pgsnap.postgres import session as module
from django_pgsnap.postgres.server import Server, maintenance_name, milliseconds
from tests import servers
from tests.conftest import (
    ROLE_PASSWORD,
    ListDatabases,
    MakeDatabase,
    MakeRole,
    RunSql,
    ServerAs,
    SessionAs,
)
from tests.ports import free_port
from tests.project import ROOT, build_server, child_environment
from tests.watching import Background, held_up, is_sleeping, is_waiting, until

LOCK = "pg_advisory_lock(4711)"

TIMEOUTS = [
    "statement_timeout",
    "lock_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    pytest.param("transaction_timeout", marks=pytest.mark.pg(">= 17")),
]

SHOW = pg.SQL("SELECT current_setting(%s)")

CREATE_IN_A_CHILD = """
import sys
import django
from psycopg import sql
django.setup()
from tests.project import build_server
_, host, port, user = sys.argv
server = build_server(host=host, port=port, user=user)
with server.session("copy in a child") as session:
    session.execute(sql.SQL("CREATE DATABASE copy TEMPLATE live"))
"""


def over_tcp(server: servers.Server, **values: str) -> Server:
    defaults = {"user": "ordinary", "password": ROLE_PASSWORD}
    return build_server(host="127.0.0.1", port=str(server.port), **{**defaults, **values})


def refused(server: Server, database: str = "") -> tuple[str, str]:
    with pytest.raises(ServerUnavailableError) as caught:
        server.session_on(database, "test") if database else server.session("test")
    return caught.value.message, caught.value.hint


Child = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def child(clean_server: servers.Server) -> Iterator[Child]:
    """Starts a process that copies the database ``live``."""
    children = []

    def start() -> "subprocess.Popen[bytes]":
        where = [str(clean_server.root), str(clean_server.port), "postgres"]
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", CREATE_IN_A_CHILD, *where], cwd=ROOT, env=child_environment()
            )
        )
        return children[-1]

    yield start
    for process in children:
        process.kill()
        process.wait()


@pytest.fixture
def unused_port() -> str:
    return str(free_port())


@pytest.fixture
def ordinary(role: MakeRole) -> str:
    return role()


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_timeouts_of_the_role_are_put_aside(
    timeout: str, ordinary: str, sql: RunSql, session_as: SessionAs
) -> None:
    """A time-out that our role carries ends neither our statements nor our sessions."""
    sql(pg.SQL("ALTER ROLE {} SET {} = '300ms'").format(pg.Identifier(ordinary), pg.SQL(timeout)))

    assert session_as(ordinary).value(SHOW, [timeout]) == "0"


def test_statement_longer_than_the_roles_timeout(
    ordinary: str, sql: RunSql, session_as: SessionAs
) -> None:
    """A statement may take longer than the role's statement_timeout."""
    sql("ALTER ROLE ordinary SET statement_timeout = '50ms'")

    assert session_as(ordinary).value(pg.SQL("SELECT pg_sleep(0.15)::text")) == ""


def test_read_only_role_can_create(
    ordinary: str, sql: RunSql, session_as: SessionAs, databases: ListDatabases
) -> None:
    """A role whose transactions are read-only unless it says otherwise says otherwise."""
    sql("ALTER ROLE ordinary SET default_transaction_read_only = on")

    session_as(ordinary).execute(pg.SQL("CREATE DATABASE copy TEMPLATE template0"))

    assert [database.name for database in databases()] == ["copy"]


def test_maintenance_session_sees_the_catalog_only(
    ordinary: str, sql: RunSql, server_as: ServerAs
) -> None:
    """No function that somebody made in the maintenance database is mistaken for the server's."""
    sql("ALTER ROLE ordinary SET search_path = elsewhere")

    with server_as(ordinary).session("test", lock_timeout_s=1.5) as session:
        assert session.value(SHOW, ["search_path"]) == "pg_catalog"
        assert session.value(SHOW, ["lock_timeout"]) == "1500ms"


def test_session_on_a_live_database_sees_the_catalog_only(
    make_database: MakeDatabase, sql: RunSql, session_as: SessionAs
) -> None:
    """Inside a live database nothing is mistaken, either; the search path of Django is known."""
    make_database("live")
    sql("ALTER DATABASE live SET search_path = app, public")

    session = session_as(database="live")

    assert session.value(SHOW, ["search_path"]) == "pg_catalog"
    assert session.schemas == ["pg_catalog", "public"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0"), (0.0001, "1"), (0.25, "250"), (10, "10000")),
        *((1e12, "2147483647"), (float("inf"), "2147483647")),
    ],
)
def test_milliseconds(seconds: float, text: str) -> None:
    """A time-out is never rounded down to 0, which means for ever, nor up beyond an integer."""
    assert milliseconds(seconds) == text


def test_assumed_role(ordinary: str, role: MakeRole, session_as: SessionAs, sql: RunSql) -> None:
    """Where Django assumes a role, however odd its name, so do we."""
    role('Own"er %s')
    sql('GRANT "Own""er %s" TO ordinary')

    session = session_as(ordinary, role='Own"er %s')

    assert session.value(pg.SQL("SELECT current_user")) == 'Own"er %s'


def test_assumed_role_that_may_not_be(
    ordinary: str, role: MakeRole, server_as: ServerAs, sql: RunSql
) -> None:
    """A role that we may not assume is a connection that fails, and leaves no session behind."""
    role("owner")

    message, hint = refused(server_as(ordinary, role="owner"))

    assert message.endswith('permission denied to set role "owner"')
    assert hint == "Check USER and OPTIONS['assume_role'] of the alias in DATABASES."
    until(lambda: not sql("SELECT pid FROM pg_stat_activity WHERE usename = 'ordinary'"))


def test_shows_who_works_and_why(server_as: ServerAs) -> None:
    """Others see in pg_stat_activity what a session is for, and whose process it belongs to."""
    with server_as().session("restore seeded") as session:
        name = session.value(SHOW, ["application_name"])

    assert name.startswith(f"pgsnap restore seeded ({getpass.getuser()}@")


def test_user_without_a_name(monkeypatch: pytest.MonkeyPatch, server_as: ServerAs) -> None:
    """In a container the user may be a mere number."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    with server_as().session("test") as session:
        assert session.value(SHOW, ["application_name"]).startswith("pgsnap test (")


def test_server_that_cannot_watch_clients(
    monkeypatch: pytest.MonkeyPatch, session_as: SessionAs
) -> None:
    """A server that refuses client_connection_check_interval is used without it."""
    monkeypatch.setattr(module, "_STOP_WHEN_WE_DIE", {"client_connection_check_interval": "-1"})

    session = session_as()

    assert session.value(SHOW, ["client_connection_check_interval"]) == "0"
    assert session.value(SHOW, ["statement_timeout"]) == "0"


def test_facts(session_as: SessionAs, server: servers.Server) -> None:
    """A session knows its server's version and address, and its own process."""
    session = session_as()
    major, minor = map(int, server.version.split("."))

    assert session.server_version == major * 10000 + minor
    assert session.server_release == server.version
    assert session.address == ""
    assert session_as(host="127.0.0.1").address == "127.0.0.1"
    assert session.pid == session.value(pg.SQL("SELECT pg_backend_pid()"))
    assert not session.broken


def test_rows_and_value(session_as: SessionAs) -> None:
    """Rows are tuples; a value is the first column of the first row, or None."""
    session = session_as()

    assert session.rows(pg.SQL("VALUES (1, %s), (2, 'y')"), ["x"]) == [(1, "x"), (2, "y")]
    assert session.value(pg.SQL("VALUES (1, 2), (3, 4)")) == 1
    assert session.value(pg.SQL("SELECT 1 WHERE false")) is None


def test_message_is_one_transaction(
    session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """Of several statements in one message the server runs all or none."""
    make_database("live")
    message = pg.SQL("COMMENT ON DATABASE live IS 'x'; ALTER DATABASE live RENAME TO a; SELECT 1/0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        session_as().execute(message)

    assert [(each.name, each.comment) for each in databases()] == [("live", None)]


def test_configure_knows_what_the_server_knows(session_as: SessionAs) -> None:
    """A parameter that the server has not is passed over."""
    session = session_as()

    session.configure({"no_such_parameter": "1", "work_mem": "1MB"})

    assert session.value(SHOW, ["work_mem"]) == "1MB"


def test_cancel(session_as: SessionAs, clean_server: servers.Server) -> None:
    """Another thread may stop the statement that is running; the session goes on."""
    session = session_as()
    running = Background(lambda: session.execute(pg.SQL("SELECT pg_sleep(60)")))
    until(lambda: is_sleeping(clean_server))

    session.cancel()

    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result()
    assert session.value(pg.SQL("SELECT 1")) == 1


def test_broken(session_as: SessionAs, sql: RunSql) -> None:
    """A session that somebody ended is broken."""
    session = session_as()
    sql("SELECT pg_terminate_backend(%s, 5000)", [session.pid])

    with pytest.raises(psycopg.OperationalError):
        session.value(pg.SQL("SELECT 1"))

    assert session.broken


def test_wrong_password(ordinary: str, clean_server: servers.Server) -> None:
    """A refused password names server, role and the setting to look at."""
    message, hint = refused(over_tcp(clean_server, password="wrong"))

    assert message.startswith(
        "Cannot connect to database 'postgres' of the server at "
        f"127.0.0.1:{clean_server.port} as ordinary: "
    )
    assert message.endswith('password authentication failed for user "ordinary"')
    assert hint == "Check USER and PASSWORD of the alias in DATABASES."


def test_unknown_role(server_as: ServerAs) -> None:
    """A role that does not exist is a matter of USER."""
    message, hint = refused(server_as("nobody"))

    assert message.endswith('role "nobody" does not exist')
    assert hint == "Check USER and PASSWORD of the alias in DATABASES."


def test_role_that_may_not_log_in(ordinary: str, sql: RunSql, server_as: ServerAs) -> None:
    """A role that may not log in is a matter of USER."""
    sql("ALTER ROLE ordinary NOLOGIN")

    message, hint = refused(server_as(ordinary))

    assert message.endswith('role "ordinary" is not permitted to log in')
    assert hint == "Check USER and PASSWORD of the alias in DATABASES."


def test_server_down(unused_port: str) -> None:
    """A server that does not answer is to be started, or is somewhere else."""
    message, hint = refused(build_server(host="127.0.0.1", port=unused_port))

    assert f"of the server at 127.0.0.1:{unused_port}: connection failed" in message
    assert hint == "Start the server, or correct HOST and PORT of the alias in DATABASES."


def test_no_slot_left(role: MakeRole, server_as: ServerAs) -> None:
    """Where no more clients are let in, some have to go."""
    role(options="CONNECTION LIMIT 0")

    message, hint = refused(server_as("ordinary"))

    assert message.endswith('too many connections for role "ordinary"')
    assert hint == "Close some clients, or raise the limit of connections that the message names."


def test_database_missing(server_as: ServerAs) -> None:
    """A maintenance database that is not there can be replaced by another one, a live one not."""
    message, hint = refused(replace(server_as(), maintenance="nowhere"), "nowhere")

    assert message.startswith("Cannot connect to database 'nowhere' of the server at ")
    assert message.endswith('database "nowhere" does not exist')
    assert "PGSNAP['MAINTENANCE'], as {'dbname': '…'}" in hint
    assert refused(server_as(), "nowhere")[1].startswith("Restore a snapshot to make it again")


def test_may_not_connect(
    ordinary: str, sql: RunSql, make_database: MakeDatabase, server_as: ServerAs
) -> None:
    """A database that our role may not connect to is a matter of rights, not of the server."""
    make_database("live")
    sql("REVOKE CONNECT ON DATABASE live FROM PUBLIC")

    message, hint = refused(server_as(ordinary), "live")

    assert 'permission denied for database "live"' in message
    assert hint.startswith("Let the role connect to it, or name another database")


@pytest.mark.parametrize(
    ("live_names", "overrides", "name"),
    [
        (["live"], {}, "postgres"),
        (["live", "postgres"], {}, "pgsnap"),
        (["postgres"], {"dbname": "admin"}, "admin"),
        (["live"], {"host": "db"}, "postgres"),
    ],
)
def test_maintenance_name(live_names: list[str], overrides: dict[str, str], name: str) -> None:
    """Maintenance sessions go to postgres, unless that is live or the settings say otherwise."""
    assert maintenance_name(live_names, overrides) == name


def test_own_maintenance_database(
    ordinary: str, server_as: ServerAs, databases: ListDatabases
) -> None:
    """Where postgres is live, an ordinary role makes a small database to work from, once."""
    server = server_as(ordinary, maintenance="pgsnap")

    with (
        server.session("one", before_creating=bool) as one,
        server.session("two") as two,
    ):
        connected = {each.value(pg.SQL("SELECT current_database()")) for each in (one, two)}

    assert connected == {"pgsnap"}
    (made,) = databases()
    assert (made.name, made.owner, made.comment) == (
        "pgsnap",
        "ordinary",
        "Where django_pgsnap connects while it replaces other databases.",
    )


def test_own_maintenance_database_is_made_once(
    server_as: ServerAs, databases: ListDatabases
) -> None:
    """Of those who find it missing at the same time one makes it, and all go on."""
    server = server_as(maintenance="pgsnap")

    def connect(_: int) -> str:
        with server.session("test", before_creating=bool) as session:
            return str(session.value(pg.SQL("SELECT current_database()")))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(connect, range(4))) == ["pgsnap"] * 4
    assert [database.name for database in databases()] == ["pgsnap"]


def test_own_maintenance_database_cannot_be_made(role: MakeRole, server_as: ServerAs) -> None:
    """A role that may not make it is told what a superuser can run."""
    role(options="NOCREATEDB")

    with pytest.raises(MissingRightError) as caught:
        server_as("ordinary", maintenance="pgsnap").session("test", before_creating=bool)

    assert caught.value.message == (
        "The role may not create the database 'pgsnap', which it would work from."
    )
    assert caught.value.hint == ("Let a superuser run: CREATE DATABASE pgsnap TEMPLATE template0;")


def test_fired_statement_is_finished(
    session_as: SessionAs,
    sql: RunSql,
    make_database: MakeDatabase,
    clean_server: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server finishes what was fired, however long it takes, though the client is gone."""
    monkeypatch.setattr(module, "_STOP_WHEN_WE_DIE", {"client_connection_check_interval": "10ms"})
    make_database("live")
    session = session_as(database="live")
    statement = f"DO $$ BEGIN PERFORM {LOCK}; CREATE TABLE public.finished (); END $$"

    with clean_server.connect("live") as holder:
        holder.execute(f"SELECT {LOCK}")
        session.fire(pg.SQL(statement))
        until(lambda: is_waiting(clean_server, "pgsnap test"))
        holder.execute("SELECT pg_sleep(0.1)")

    until(lambda: sql("SELECT to_regclass('finished')", dbname="live") == [("finished",)])


def test_fired_statement_may_be_long(
    session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What does not fit into the network's buffers at once is sent to its end."""
    make_database("live")
    comment = "x" * 8 * 1024**2

    session_as().fire(pg.SQL("COMMENT ON DATABASE live IS {}").format(pg.Literal(comment)))

    until(lambda: databases()[0].comment == comment)


def test_fire_ends_the_session(
    session_as: SessionAs, sql: RunSql, clean_server: servers.Server
) -> None:
    """Whoever fires does not wait, and its session ends with the statement."""
    session = session_as()
    pid = session.pid

    with clean_server.connect() as holder:
        holder.execute(f"SELECT {LOCK}")
        session.fire(pg.SQL(f"SELECT {LOCK}"))
        until(lambda: is_waiting(clean_server, "pgsnap test"))

    with pytest.raises(psycopg.OperationalError, match="connection is closed"):
        session.value(pg.SQL("SELECT 1"))
    until(lambda: not sql("SELECT pid FROM pg_stat_activity WHERE pid = %s", [pid]))


def test_statement_of_a_killed_client_stops(
    make_database: MakeDatabase,
    clean_server: servers.Server,
    sql: RunSql,
    databases: ListDatabases,
    child: Child,
) -> None:
    """A client that is killed in the middle of CREATE DATABASE takes the copy with it."""
    make_database("live")
    running = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE copy%'"
    with held_up(clean_server, "live"):
        process = child()
        until(lambda: bool(sql(f"{running} AND state = 'active'")))

        process.send_signal(signal.SIGKILL)

        until(lambda: not sql(running))
    assert [database.name for database in databases()] == ["live"]
