"""The sessions on a live database: ending those that idle, waiting for those that work."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.postgres import backends
from django_pgsnap.postgres.backends import (
    Backend,
    BackendTerminator,
    BlockedTimer,
    open_temporary_session,
    read_backends,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, ServerAs, SessionAs
from tests.servers import SUPERUSER, Server
from tests.watching import PATIENCE_S, Background, Recorder, timeless, until

FINISH = "Finish or close them, wait longer with --wait, or end them with --force."
# Work that takes longer is not expected to be over in a moment.
LASTS_S = 0.2
Connect = Callable[..., psycopg.Connection]


@pytest.fixture(autouse=True)
def _live(make_database: MakeDatabase) -> None:
    make_database("live")
    make_database("other")


@pytest.fixture
def connect(clean_server: Server) -> Iterator[Connect]:
    """Opens a client's connection to the live database, and runs something there."""
    with ExitStack() as stack:

        def connect(*statements: str, user: str = SUPERUSER, **options: str) -> psycopg.Connection:
            options = {"dbname": "live", "application_name": "psql", **options}
            connection = clean_server.connect(user=user, **options)
            stack.callback(connection.close)
            for statement in statements:
                connection.execute(statement)
            return connection

        yield connect


@pytest.fixture
def working(clean_server: Server) -> Callable[[str], Background]:
    """Runs a statement on the live database in a thread, until somebody ends it."""

    def start(statement: str) -> Background:
        def run() -> None:
            with (
                suppress(psycopg.OperationalError),
                clean_server.connect("live", application_name="worker") as connection,
            ):
                connection.execute(statement)

        thread = Background(run)
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'worker'"
        with clean_server.connect() as connection:
            until(
                lambda: connection.execute(f"{query} AND state = 'active'").fetchone() is not None
            )
        return thread

    return start


def terminator(session: Session, *, wait_s: float = 0, force: bool = False) -> BackendTerminator:
    return BackendTerminator(session, ["live"], wait_s=wait_s, force=force)


def is_open(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def refused(each: BackendTerminator) -> tuple[str, str]:
    with pytest.raises(DatabaseBusyError) as caught:
        each.empty_databases()
    return caught.value.message, caught.value.hint


def test_nobody_there(session: Session) -> None:
    """An empty database is empty at once."""
    each = terminator(session)

    assert each.empty_databases() is True
    assert each.end_idle_backends() == []
    assert each.ended == set()


def test_what_is_seen_of_a_session(
    session: Session, connect: Connect, clean_server: Server
) -> None:
    """A session is described by who it is, where it comes from, and what it does."""
    other = connect("BEGIN", host="127.0.0.1", password=clean_server.password)

    (found,) = read_backends(session, ["live", "nowhere"])

    assert found.seconds is not None
    assert 0 <= found.seconds < 60
    assert found == Backend(
        pid=other.info.backend_pid,
        database="live",
        user="postgres",
        application="psql",
        client="127.0.0.1",
        kind="client backend",
        state="idle in transaction",
        seconds=found.seconds,
        endable=True,
    )
    assert str(found) == (
        f"pid {found.pid}: role 'postgres' (psql) from 127.0.0.1, idle in transaction "
        f"for {found.seconds:.0f} s"
    )


def test_own_session_does_not_count(session_as: SessionAs) -> None:
    """Who looks is not in the way, even on the live database itself."""
    assert read_backends(session_as(database="live"), ["live"]) == []


def test_parallel_workers_do_not_count(
    session: Session, working: Callable[[str], Background], server: Server
) -> None:
    """Only the leader of a parallel query is there to be ended."""
    setting = "debug_parallel_query" if server.version > "16" else "force_parallel_mode"
    working(f"SET {setting} = on; SELECT pg_sleep(60)")
    leader = pg.SQL("SELECT leader_pid FROM pg_stat_activity WHERE leader_pid IS NOT NULL")
    until(lambda: session.value(leader) is not None)

    (found,) = read_backends(session, ["live"])

    assert (found.pid, found.application) == (session.value(leader), "worker")


def test_idle_session_is_ended(session: Session, connect: Connect) -> None:
    """A session with nothing to lose is ended and counted; those on other databases stay."""
    idle, elsewhere = connect("SELECT 1"), connect("SELECT 1", dbname="other")
    each = terminator(session)

    assert each.empty_databases() is True

    assert each.ended == {idle.info.backend_pid}
    assert not is_open(idle)
    assert is_open(elsewhere)


def test_between_two_statements(
    session: Session, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has been idle for a moment only is given another one to send its next statement."""
    monkeypatch.setattr(backends, "_BETWEEN_STATEMENTS_S", 3600.0)
    client = connect("SELECT 1")
    each = terminator(session, wait_s=PATIENCE_S)

    assert not each.empty_databases()
    client.execute("SELECT 2")
    assert each.ended == set()
    each.end_idle_backends()
    assert each.ended == {client.info.backend_pid}


def test_between_two_statements_without_time(
    session: Session, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is to be waited for, who is idle is ended at the first look."""
    monkeypatch.setattr(backends, "_BETWEEN_STATEMENTS_S", 3600.0)
    client = connect("SELECT 1")
    each = terminator(session)

    assert each.empty_databases()
    assert each.ended == {client.info.backend_pid}


@pytest.mark.parametrize(
    ("statements", "state"),
    [
        (["BEGIN"], "idle in transaction"),
        (["BEGIN", "SAVEPOINT s"], "idle in transaction"),
    ],
)
def test_open_transaction_is_named(
    statements: list[str], state: str, session: Session, connect: Connect
) -> None:
    """A session inside a transaction is left alone, and named when the time is over."""
    busy = connect(*statements)

    message, hint = refused(terminator(session))

    assert timeless(message) == (
        "Other sessions are using 'live', after a wait of 0 s:\n"
        f"  pid {busy.info.backend_pid}: role 'postgres' (psql), {state} for 0 s"
    )
    assert hint == FINISH
    assert is_open(busy)


def test_wait_is_reported(session: Session, connect: Connect) -> None:
    """For whom one waits is told whenever that changes, three of them by name."""
    busy = [connect("BEGIN") for _ in range(5)]
    until(lambda: min(each.seconds or 0 for each in read_backends(session, ["live"])) > LASTS_S)
    recorder = Recorder()

    each = BackendTerminator(session, ["live"], wait_s=30, force=False, reporter=recorder)
    emptying = Background(each.empty_databases)
    until(lambda: bool(recorder.steps))
    for client in busy:
        client.execute("COMMIT")
    assert emptying.result() is True

    named = "; ".join(
        f"pid {each.info.backend_pid}: role 'postgres' (psql), idle in transaction"
        for each in sorted(busy, key=lambda each: each.info.backend_pid)[:3]
    )
    assert len(recorder.steps) == len(set(recorder.steps))
    assert recorder.steps[0] == f"Waiting up to 30 s for {named}; 2 more"


def test_failed_transaction_is_named(session: Session, connect: Connect) -> None:
    """A transaction that failed still is one."""
    busy = connect("BEGIN")
    with suppress(psycopg.errors.DivisionByZero):
        busy.execute("SELECT 1/0")

    assert "idle in transaction (aborted)" in refused(terminator(session))[0]


def test_running_query_is_named(session: Session, working: Callable[[str], Background]) -> None:
    """A session that runs a query is left alone, and named when the time is over."""
    working("SELECT pg_sleep(60)")

    message, hint = refused(terminator(session, wait_s=0.05))

    assert message.startswith("Other sessions are using 'live', after a wait of 0.05 s:\n")
    assert timeless(message).endswith(": role 'postgres' (worker), active for 0 s")
    assert hint == FINISH


def test_nobody_is_disturbed_in_vain(session: Session, connect: Connect) -> None:
    """As long as somebody is at work, those that idle are left alone."""
    idle, busy = connect("SELECT 1"), connect("BEGIN")
    until(lambda: min(each.seconds or 0 for each in read_backends(session, ["live"])) > LASTS_S)

    refused(terminator(session, wait_s=0.2))

    assert is_open(idle)
    assert is_open(busy)


def test_work_is_waited_for(session: Session, connect: Connect) -> None:
    """A session that finishes in time is ended after that, with all it did committed."""
    busy = connect("BEGIN", "CREATE TABLE t (); INSERT INTO t DEFAULT VALUES")
    recorder = Recorder()
    each = BackendTerminator(session, ["live"], wait_s=30, force=False, reporter=recorder)
    waiting = Background(each.empty_databases)
    until(lambda: bool(recorder.steps))

    busy.execute("COMMIT")

    assert waiting.result() is True
    assert each.ended == {busy.info.backend_pid}
    assert connect().execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_work_that_ends_in_idling(session: Session, connect: Connect) -> None:
    """Who has worked for long, and idles then, is ended: nobody was disturbed meanwhile."""
    client = connect("BEGIN")
    recorder = Recorder()
    each = BackendTerminator(session, ["live"], wait_s=20, force=False, reporter=recorder)
    emptying = Background(each.empty_databases)
    until(lambda: bool(recorder.steps))
    # It works for longer than the calm window, which begins only when that work is over.
    told = time.monotonic()
    until(lambda: time.monotonic() - told > 2 * backends._BRIEF_S)

    client.execute("COMMIT")

    assert emptying.result() is True
    assert not is_open(client)


def test_client_that_has_just_begun(
    session: Session, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins a transaction between our look and our word is not ended."""
    client = connect("SELECT 1")
    looked: list[list[Backend]] = []

    def look_then_begin(*arguments: Any) -> list[Backend]:
        found = read_backends(*arguments)
        if not looked:
            client.execute("BEGIN")
        looked.append(found)
        return found

    monkeypatch.setattr(backends, "read_backends", look_then_begin)

    message, _ = refused(terminator(session))

    assert looked[0][0].is_idle
    assert "idle in transaction" in message
    assert is_open(client)


def test_short_transactions_of_another_role(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """Of a role whose sessions we may not end, one short transaction after the other is work."""
    sql("GRANT pg_read_all_stats TO {}".format(role()))  # noqa: UP032
    client = connect("SELECT 1")
    stop = Event()

    def work() -> None:
        while not stop.is_set():
            client.execute("BEGIN; SELECT pg_sleep(0.001); COMMIT")

    working = Background(work)
    try:
        message, _ = refused(terminator(session_as("ordinary"), wait_s=0.5))
    finally:
        stop.set()
        working.result()

    assert str(client.info.backend_pid) in message


def test_blocked_timer(session: Session, connect: Connect) -> None:
    """Its time is over when somebody has been there for long, and begins anew without them."""
    connect("BEGIN")
    present = read_backends(session, ["live"])
    timer = BlockedTimer()

    assert timer.is_over(present) is False
    until(lambda: timer.is_over(present))
    assert timer.is_over([]) is False


def test_force(session: Session, connect: Connect, working: Callable[[str], Background]) -> None:
    """With force those that work are ended at once, too."""
    busy, active = connect("BEGIN"), working("SELECT pg_sleep(60)")
    each = terminator(session, force=True)

    assert each.empty_databases() is True

    active.result()
    assert not is_open(busy)
    assert len(each.ended) == 2


def test_state_that_may_not_be_seen(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """A role that may end a session but not see its state takes it for one at work."""
    role()
    role("colleague")
    sql("GRANT pg_signal_backend TO ordinary")
    connect("SELECT 1", user="colleague")
    session = session_as("ordinary")

    message, hint = refused(terminator(session))

    assert message.endswith(": role 'colleague' (psql), in a state we may not see")
    assert hint == (
        "To see what they do, let a superuser run: GRANT pg_read_all_stats TO ordinary; "
        "or end them all with --force."
    )
    sql("GRANT pg_read_all_stats TO ordinary")
    assert terminator(session).empty_databases() is True


def test_state_that_may_not_be_seen_is_forced(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """With force what it does need not be known."""
    role()
    role("colleague")
    sql("GRANT pg_signal_backend TO ordinary")
    connect("BEGIN", user="colleague")

    assert terminator(session_as("ordinary"), force=True).empty_databases() is True


@pytest.mark.parametrize("force", [False, True])
def test_session_of_another_role(
    force: bool, session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """Whom our role may not end is named, with the GRANT that helps, and it does."""
    role()
    role("colleague")
    connect("SELECT 1", user="colleague")
    session = session_as("ordinary")

    message, hint = refused(terminator(session, force=force))

    assert ": role 'colleague'" in message
    assert hint == (
        "Some belong to roles whose sessions yours may not end. Close them, or let a superuser "
        "run: GRANT pg_signal_backend, pg_read_all_stats TO ordinary; "
        "(a superuser's own sessions only a superuser can end)."
    )
    sql("GRANT pg_signal_backend, pg_read_all_stats TO ordinary")
    assert terminator(session, force=force).empty_databases() is True


def test_session_of_a_superuser(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """A superuser's session cannot be ended by anybody else, whatever was granted."""
    role()
    sql("GRANT pg_signal_backend, pg_read_all_stats TO ordinary")
    other = connect("SELECT 1")

    message, hint = refused(terminator(session_as("ordinary"), force=True))

    assert ": role 'postgres' (psql), idle" in message
    assert "only a superuser can end" in hint
    assert is_open(other)


def test_session_of_a_role_that_we_are(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """A member may end the sessions of its group's role, and see what they do."""
    role()
    role("group")
    sql('GRANT "group" TO ordinary')
    other = connect("SELECT 1", user="group")

    assert terminator(session_as("ordinary")).empty_databases() is True
    assert not is_open(other)


def test_server_that_lets_nobody_end_sessions(
    session_as: SessionAs, role: MakeRole, connect: Connect, sql: RunSql
) -> None:
    """Where the function itself was taken away, sessions that idle are waited for, and named."""
    role()
    connect("SELECT 1", user="ordinary")
    function = "FUNCTION pg_terminate_backend(integer, bigint)"
    sql(f"REVOKE EXECUTE ON {function} FROM PUBLIC")
    try:
        each = terminator(session_as("ordinary"))
        with pytest.raises(DatabaseBusyError, match=r"\(psql\), idle for"):
            each.end_idle_backends()
    finally:
        sql(f"GRANT EXECUTE ON {function} TO PUBLIC")

    assert each.ended == set()


def test_what_is_no_client(session: Session, connect: Connect) -> None:
    """A process of the server's own is named, and left alone even with force."""
    other = connect(replication="database")

    message, hint = refused(terminator(session, force=True))

    assert message.endswith(f"\n  pid {other.info.backend_pid}: walsender")
    assert hint == (
        "Stop the background processes named above first; they start again by themselves."
    )
    assert other.execute("IDENTIFY_SYSTEM").fetchone() is not None


def test_session_that_does_not_leave(
    session: Session, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was told to end need not be gone yet; it is not told twice."""
    idle = connect("SELECT 1")
    each = terminator(session, wait_s=30)

    each.ended.add(idle.info.backend_pid)

    assert each.empty_databases() is False
    assert is_open(idle)


def test_clients_that_come_back_at_once(
    session: Session, session_as: SessionAs, clean_server: Server, sql: RunSql
) -> None:
    """Clients that reconnect in a tight loop do not keep a copy from being made."""
    stop = Event()

    def reconnect() -> int:
        count = 0
        while not stop.is_set():
            with suppress(psycopg.OperationalError), clean_server.connect("live") as connection:
                count += 1
                connection.execute("SELECT 1")
        return count

    clients = [Background(reconnect) for _ in range(2)]
    each = terminator(session, wait_s=20)
    until(lambda: bool(read_backends(session, ["live"])))

    each.empty_databases()
    maker = session_as()
    copying = Background(lambda: maker.execute(pg.SQL("CREATE DATABASE copy TEMPLATE live")))
    while copying.is_alive():
        each.end_idle_backends()

    copying.result()
    stop.set()
    assert all(client.result() for client in clients)
    assert sql("SELECT count(*) FROM pg_database WHERE datname = 'copy'") == [(1,)]


def test_visit_leaves_no_trace(server_as: ServerAs, session: Session) -> None:
    """After a look into a live database nobody is there who would have to be ended."""
    with open_temporary_session(server_as(), session, "live", "looking") as inside:
        pid = inside.value(pg.SQL("SELECT pg_backend_pid()"))
        there = [backend.pid for backend in read_backends(session, ["live"])]

    assert there == [pid]
    assert read_backends(session, ["live"]) == []


def test_visit_does_not_wait_for_ever(
    server_as: ServerAs, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that does not go is left to whoever empties the database."""
    monkeypatch.setattr(backends, "_LEAVING_S", 0)
    monkeypatch.setattr(Session, "close", lambda _: None)

    with open_temporary_session(server_as(), session, "live", "looking") as inside:
        pass

    monkeypatch.undo()
    assert [backend.pid for backend in read_backends(session, ["live"])] == [inside.pid]
    inside.close()
