"""Making clones: several at once, as of one moment, with another try where that can help."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.clones import copying
from django_pgsnap.clones.copying import CopyBarrier, copy_databases
from django_pgsnap.clones.records import Strategy
from django_pgsnap.clones.transitions import Clone, CopyJob
from django_pgsnap.errors import CopyFailedError, DatabaseBusyError
from django_pgsnap.postgres import backends
from django_pgsnap.postgres.backends import BackendTerminator
from django_pgsnap.postgres.session import Query, Session
from django_pgsnap.reporting import Reporter
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import ListDatabases, MakeDatabase, RunSql, ServerAs
from tests.servers import Server
from tests.watching import Background, timeless, until

SIZE_BYTES = 8_000_000
WAITING_COPIES = "SELECT 1 FROM pg_locks WHERE mode = 'ShareLock' AND NOT granted"


@dataclass(frozen=True, kw_only=True)
class Tampered(Clone):
    """A clone whose statement is another one, as long as a condition holds."""

    instead: Query
    when: Callable[[Clone], bool] = lambda _: True

    @property
    def statement(self) -> Query:
        return self.instead if self.when(self) else super().statement


class Listener(Reporter):
    """Hears how far copying is, and may interrupt it."""

    def __init__(self, interruption: BaseException | None = None) -> None:
        self.heard: list[tuple[int | None, int]] = []
        self._interruption = interruption

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        self.heard.append((done_bytes, total_bytes))
        if self._interruption:
            raise self._interruption


class Audience(Listener):
    """Has a copy last until it has heard that so many bytes are there, or that nobody can tell."""

    # A copy that lasts so long waits for a lock that is given back then.
    statement = pg.SQL("SELECT pg_advisory_lock(4711)")

    def __init__(self, connection: psycopg.Connection, enough_bytes: int = 0) -> None:
        super().__init__()
        self._connection = connection
        self._enough_bytes = enough_bytes
        connection.execute(self.statement)

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        super().copied(done_bytes, total_bytes)
        if done_bytes is None or done_bytes >= self._enough_bytes:
            self._connection.execute("SELECT pg_advisory_unlock_all()")


MakeJob = Callable[..., CopyJob]


@pytest.fixture
def make_job(server_as: ServerAs, make_database: MakeDatabase) -> Iterator[MakeJob]:
    """Makes a live database, and what is needed to copy it."""
    opened: list[Session] = []
    watchers: list[Session] = []

    def make(
        source: str = "live",
        *,
        user: str = "postgres",
        strategy: Strategy = "wal_log",
        wait_s: float = 20,
        is_live: bool = True,
    ) -> CopyJob:
        make_database(source, owner=user)
        server = server_as(user)
        session = server.session("test")
        if not watchers:
            watchers.append(server.session("test"))
        opened.append(session)
        return CopyJob(
            clone=Clone(source=source, name=f"{source}_copy", owner=user, strategy=strategy),
            size_bytes=SIZE_BYTES,
            session=session,
            watcher=watchers[0],
            server=server,
            terminator=BackendTerminator(watchers[0], [source], wait_s=wait_s, force=False)
            if is_live
            else None,
        )

    yield make
    for session in opened + watchers:
        session.close()


def raising(code: str, **details: str) -> Query:
    """Return a statement on which the server raises this error."""
    options = ", ".join(f"{name.upper()} = '{text}'" for name, text in details.items())
    block = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', {options}; END"
    return pg.SQL("DO {}").format(pg.Literal(block))


def tampered(
    job: CopyJob, instead: Query, when: Callable[[Clone], bool] = lambda _: True
) -> CopyJob:
    clone = job.clone
    values: dict[str, Any] = {
        "source": clone.source,
        "name": clone.name,
        "owner": clone.owner,
        "strategy": clone.strategy,
    }
    return replace(job, clone=Tampered(**values, instead=instead, when=when))


def names_of(databases: ListDatabases) -> list[str]:
    return [database.name for database in databases()]


def oid_of(sql: RunSql, name: str) -> int:
    return int(sql("SELECT oid FROM pg_database WHERE datname = %s", [name])[0][0])


def test_copies_one(make_job: MakeJob, sql: RunSql, databases: ListDatabases) -> None:
    """A copy has its source's data, and it is told how it was made."""
    job = make_job()
    sql("CREATE TABLE t AS SELECT 42 AS answer", dbname="live")

    done, seconds = copy_databases([job], Reporter())

    assert list(done) == [job]
    assert 0 < seconds < 60
    sql("ALTER DATABASE live_copy ALLOW_CONNECTIONS true")
    assert sql("SELECT answer FROM t", dbname="live_copy") == [(42,)]


def test_copies_a_shut_one(make_job: MakeJob, databases: ListDatabases) -> None:
    """A copy of a copy needs nobody to be kept away."""
    job = make_job(is_live=False)

    copy_databases([job], Reporter())

    assert names_of(databases) == ["live", "live_copy"]


def test_clients_are_ended_before(make_job: MakeJob, clean_server: Server) -> None:
    """Idle clients are ended first, and counted."""
    job = make_job()
    with clean_server.connect("live") as client:
        copy_databases([job], Reporter())

        assert job.terminator is not None
        assert job.terminator.ended == {client.info.backend_pid}


def test_busy_client_is_named(
    make_job: MakeJob, clean_server: Server, databases: ListDatabases
) -> None:
    """A client at work is left alone, and nothing is copied."""
    job = make_job(wait_s=0)
    with clean_server.connect("live") as client:
        client.execute("BEGIN")

        with pytest.raises(DatabaseBusyError, match=f"pid {client.info.backend_pid}"):
            copy_databases([job], Reporter())

        client.execute("COMMIT")
    assert names_of(databases) == ["live"]


def test_copies_several_as_of_one_moment(
    make_job: MakeJob, clean_server: Server, sql: RunSql
) -> None:
    """What is written to one database and then to another is never found in the other alone."""
    jobs = [make_job("first"), make_job("second")]
    for name in ("first", "second"):
        sql("CREATE TABLE t (n int)", dbname=name)
    stop = Event()

    def write(name: str, number: int) -> bool:
        with suppress(psycopg.OperationalError), clean_server.connect(name) as connection:
            connection.execute("INSERT INTO t VALUES (%s)", [number])
            return True
        return False

    def write_all() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for name in ("first", "second"):
                while not write(name, number) and not stop.is_set():
                    pass

    writer = Background(write_all)
    until(lambda: sql("SELECT max(n) > 3 FROM t", dbname="second") == [(True,)])

    done, _ = copy_databases(jobs, Reporter())

    stop.set()
    writer.result()
    assert [job.clone.strategy for job in done] == ["wal_log", "wal_log"]
    found = []
    for name in ("first_copy", "second_copy"):
        sql(pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(pg.Identifier(name)))
        found.append(sql("SELECT coalesce(max(n), 0) FROM t", dbname=name)[0][0])
    assert found[0] - found[1] in {0, 1}


def test_session_that_is_starting(
    make_job: MakeJob, clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is still starting may come to write, so no copy begins before it is there."""
    jobs = [make_job(), make_job("other")]
    was_open: list[bool] = []
    look = CopyBarrier.open_if_still

    def look_and_tell(self: CopyBarrier) -> None:
        look(self)
        was_open.append(self.is_open)

    monkeypatch.setattr(CopyBarrier, "open_if_still", look_and_tell)
    with _starting(clean_server, "live"):
        copying = Background(lambda: copy_databases(jobs, Reporter()))
        until(lambda: len(was_open) >= 3)
        assert not any(was_open)
    copying.result()

    assert any(was_open)


@contextmanager
def _starting(server: Server, database: str) -> Iterator[None]:
    """Have a session begin, and pause after the server has let it pass.

    It is stopped while it waits: elsewhere it might hold what every look at the locks needs.
    """
    starting = (
        "SELECT pid FROM pg_locks JOIN pg_locks AS waiting USING (pid)"
        " WHERE pg_locks.locktype = 'object' AND pg_locks.mode = 'RowExclusiveLock'"
        " AND pg_locks.objid = (SELECT oid FROM pg_database WHERE datname = %s)"
        " AND waiting.relation = 'pg_db_role_setting'::regclass AND NOT waiting.granted"
    )

    def connect() -> None:
        with suppress(psycopg.OperationalError):
            server.connect(database).close()

    with server.connect() as blocker:
        blocker.execute("BEGIN; LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE")
        client = Background(connect)
        until(lambda: blocker.execute(starting, [database]).fetchone() is not None)
        ((pid,),) = blocker.execute(starting, [database]).fetchall()
        os.kill(pid, signal.SIGSTOP)
        blocker.execute("ROLLBACK")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
    client.result()


def test_tries_again_for_one_moment(
    make_job: MakeJob, databases: ListDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the databases were not still, clients are let in, and all is made anew."""
    monkeypatch.setattr(copying, "_LONGEST_S", 0.2)
    tries = []

    def first_time(_: Clone) -> bool:
        tries.append(1)
        return len(tries) == 1

    # This one does not wait for the lock, as if it had been done before the other could begin.
    jobs = [make_job("first"), tampered(make_job("second"), pg.SQL("SELECT 1"), first_time)]

    copy_databases(jobs, Reporter())

    assert len(tries) > 1
    assert names_of(databases) == ["first", "first_copy", "second", "second_copy"]


def test_gives_up_on_one_moment(
    make_job: MakeJob, databases: ListDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are not still when the time is over, nothing stays."""
    monkeypatch.setattr(copying, "_LONGEST_S", 0.2)
    jobs = [make_job("first", wait_s=0.3), tampered(make_job("second"), pg.SQL("SELECT 1"))]

    with pytest.raises(DatabaseBusyError) as caught:
        copy_databases(jobs, Reporter())

    assert caught.value.message == "Other sessions are using 'first': some that are starting."
    assert names_of(databases) == ["first", "second"]


def test_holder_that_is_ended(
    make_job: MakeJob,
    clean_server: Server,
    sql: RunSql,
    databases: ListDatabases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies that could begin too early, since somebody ended who held them back, do not count."""
    monkeypatch.setattr(backends, "_BRIEF_S", 60)
    elsewhere = BackendTerminator(make_job("third").watcher, ["third"], wait_s=20, force=False)
    jobs = [replace(make_job(name), terminator=elsewhere) for name in ("first", "second")]
    with clean_server.connect("first") as client:
        copying_both = Background(lambda: copy_databases(jobs, Reporter()))
        until(lambda: len(sql(WAITING_COPIES)) == 2)
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN;%%'")
        until(lambda: "second_copy" in names_of(databases))
        too_early = oid_of(sql, "second_copy")
        client.close()
        copying_both.result()

    assert names_of(databases) == ["first", "first_copy", "second", "second_copy", "third"]
    assert oid_of(sql, "second_copy") != too_early


def test_shut_ones_need_no_moment(make_job: MakeJob, databases: ListDatabases) -> None:
    """Clones of copies show their copies' moment, whenever each is made."""
    jobs = [
        make_job("first", is_live=False),
        tampered(make_job("second", is_live=False), pg.SQL("SELECT 1")),
    ]

    copy_databases(jobs, Reporter())

    assert names_of(databases) == ["first", "first_copy", "second"]


def test_one_failure_leaves_none(make_job: MakeJob, databases: ListDatabases) -> None:
    """When one of several fails, those that were complete go again."""
    failing = tampered(make_job("second"), raising("53100", message="no space"))

    with pytest.raises(CopyFailedError):
        copy_databases([make_job("first"), failing], Reporter())

    assert names_of(databases) == ["first", "second"]


def test_disk_full(make_job: MakeJob, databases: ListDatabases) -> None:
    """A full disk is explained, with what makes room."""
    job = tampered(make_job(), raising("53100", message="no space left on device"))

    with pytest.raises(CopyFailedError) as caught:
        copy_databases([job], Reporter())

    assert caught.value.message == (
        "The server's disk is full: no room for another 8,000,000 bytes to copy 'live'. "
        "Nothing has changed."
    )
    assert caught.value.hint == (
        "Delete snapshots that you do not need (./manage.py pgsnap delete), "
        "or keep no spares (PGSNAP['SPARES'] = 0)."
    )
    assert names_of(databases) == ["live"]


@pytest.mark.parametrize(
    ("details", "hint"),
    [
        ({"hint": "Do that."}, "Do that."),
        ({"detail": "That is so."}, "That is so."),
        ({}, "See the server's log."),
    ],
)
def test_any_other_error(details: dict[str, str], hint: str, make_job: MakeJob) -> None:
    """What else the server says is passed on, with its code."""
    job = tampered(make_job(), raising("58P01", message="file is gone", **details))

    with pytest.raises(CopyFailedError) as caught:
        copy_databases([job], Reporter())

    assert caught.value.message == (
        "The server could not copy 'live': file is gone (58P01). Nothing has changed."
    )
    assert caught.value.hint == hint


def test_refusal_to_share_blocks(make_job: MakeJob, databases: ListDatabases) -> None:
    """Where the file system refuses to share blocks, all are copied plainly."""

    def sharing(clone: Clone) -> bool:
        return clone.strategy == "clone"

    refused = raising("XX000", message="could not clone file: Operation not supported")
    jobs = [
        tampered(make_job("first", strategy="clone"), refused, sharing),
        make_job("second", strategy="wal_log"),
    ]

    done, _ = copy_databases(jobs, Reporter())

    assert [job.clone.strategy for job in done] == ["file_copy", "wal_log"]
    assert names_of(databases) == ["first", "first_copy", "second", "second_copy"]


def test_internal_error_of_a_plain_copy(make_job: MakeJob) -> None:
    """The same error of a plain copy is an error."""
    job = tampered(make_job(strategy="file_copy"), raising("XX000", message="corrupt"))

    with pytest.raises(CopyFailedError, match="corrupt"):
        copy_databases([job], Reporter())


def test_session_that_comes_meanwhile(make_job: MakeJob, databases: ListDatabases) -> None:
    """A client that slipped in between is ended, and the copy made in the next try."""
    tries = []

    def first_time(_: Clone) -> bool:
        tries.append(1)
        return len(tries) == 1

    job = tampered(make_job(), raising("55006", message="is being accessed"), first_time)

    copy_databases([job], Reporter())

    assert names_of(databases) == ["live", "live_copy"]


@pytest.mark.parametrize("is_live", [True, False])
def test_session_that_stays(is_live: bool, make_job: MakeJob, clean_server: Server) -> None:
    """Where nobody can be ended any more, or need be, those that are there are named."""
    job = make_job(wait_s=0, is_live=is_live)
    if job.terminator:
        job = replace(
            job, terminator=BackendTerminator(job.watcher, ["other"], wait_s=0, force=False)
        )
    job = tampered(job, raising("55006", message="is being accessed"))
    with clean_server.connect("live") as client:
        client.execute("SELECT 1")
        pid = client.info.backend_pid
        with pytest.raises(DatabaseBusyError) as caught:
            copy_databases([job], Reporter())

    assert timeless(caught.value.message) == (
        f"Other sessions are using 'live':\n  pid {pid}: role 'postgres', idle for 0 s"
    )
    assert caught.value.hint == (
        "Finish or close them, wait longer with --wait, or end them with --force."
    )


def test_cancelled_by_somebody(make_job: MakeJob, databases: ListDatabases) -> None:
    """A copy that somebody cancelled leaves nothing."""
    job = make_job()
    job = tampered(job, pg.SQL("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(9)"))

    with pytest.raises(CopyFailedError) as caught:
        copy_databases([job], Reporter())

    assert caught.value.message == (
        "The server could not copy 'live': canceling statement due to user request (57014). "
        "Nothing has changed."
    )
    assert names_of(databases) == ["live"]


def test_terminated_by_somebody(make_job: MakeJob, databases: ListDatabases) -> None:
    """A copy whose session somebody ended leaves nothing."""
    job = make_job()
    job = tampered(job, pg.SQL("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(9)"))

    with pytest.raises(CopyFailedError, match=r"\(57P01\)"):
        copy_databases([job, make_job("second")], Reporter())

    assert names_of(databases) == ["live", "second"]


def test_lost_connection(make_job: MakeJob) -> None:
    """A connection that is lost says what becomes of the copy."""
    error = copying._explain_error(make_job(), psycopg.OperationalError("server closed"))

    assert isinstance(error, CopyFailedError)
    assert error.message == "The connection was lost while copying 'live': server closed"
    assert error.hint == (
        "If the server carried on, the unfinished copy is removed by the next command."
    )


def test_lock_that_is_not_to_be_had(make_job: MakeJob, databases: ListDatabases) -> None:
    """Whoever began the operation finds out who holds the lock, so the error stays what it is."""
    job = tampered(make_job(), raising("55P03", message="lock timeout"))

    with pytest.raises(psycopg.errors.LockNotAvailable):
        copy_databases([job], Reporter())

    assert names_of(databases) == ["live"]


def test_error_of_our_own(make_job: MakeJob) -> None:
    """An error that has nothing to do with the server stays what it is."""
    error = LookupError()

    assert copying._explain_error(make_job(), error) is error


@pytest.mark.parametrize("strategy", ["wal_log", "file_copy"])
def test_interrupted(
    strategy: Strategy, make_job: MakeJob, databases: ListDatabases, clean_server: Server
) -> None:
    """Ctrl-C in the middle of a copy leaves nothing, and no statement under way."""
    job = make_job(strategy=strategy)
    sleeping = tampered(make_job("second"), pg.SQL("SELECT pg_sleep(60)"))
    jobs = [replace(each, terminator=None) for each in (job, sleeping)]

    with pytest.raises(KeyboardInterrupt):
        copy_databases(jobs, Listener(KeyboardInterrupt()))

    assert names_of(databases) == ["live", "second"]
    with clean_server.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~* %s"
        assert connection.execute(query, ["^(create database|select pg_sleep)"]).fetchone() == (0,)


def test_progress_of_a_superuser(make_job: MakeJob, clean_server: Server) -> None:
    """A superuser hears how much is there of how much."""
    with clean_server.connect() as connection:
        listener = Audience(connection)

        copy_databases([tampered(make_job(), listener.statement)], listener)

    assert set(listener.heard) == {(0, SIZE_BYTES)}


def test_progress_of_an_ordinary_role(
    make_job: MakeJob, role: Callable[[], str], clean_server: Server
) -> None:
    """Others hear that it goes on, and how large it will be."""
    with clean_server.connect() as connection:
        listener = Audience(connection)

        copy_databases([tampered(make_job(user=role()), listener.statement)], listener)

    assert set(listener.heard) == {(None, SIZE_BYTES)}


def test_progress_by_earlier_copies(
    make_job: MakeJob, role: Callable[[], str], clean_server: Server
) -> None:
    """Where an earlier copy tells how fast the server is, others hear a share that grows."""
    most = int(SIZE_BYTES * 0.95)
    with clean_server.connect() as connection:
        listener = Audience(connection, enough_bytes=most)
        job = tampered(make_job(user=role()), listener.statement)

        copy_databases([replace(job, bytes_per_s=SIZE_BYTES * 5)], listener)

    heard = [done for done, _ in listener.heard if done is not None]
    assert len(heard) == len(listener.heard)
    assert heard == sorted(heard)
    assert heard[0] < heard[-1] == most


def test_speed_of_a_copy_is_known_to_the_next(live_owned: str) -> None:
    """A take and a restore estimate by how long the newest copy took."""
    record = take("seeded", spare=False).members[0].record
    listener = Listener()

    restore("seeded", reporter=listener)

    assert record.bytes_per_s == record.size_bytes / record.seconds
    assert None not in {done for done, _ in listener.heard}
