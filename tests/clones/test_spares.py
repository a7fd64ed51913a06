"""Spares: clones of a copy that stand ready, made by statements that nobody waits for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from psycopg import sql as pg

from django_pgsnap.clones.catalog import Database, load_catalog
from django_pgsnap.clones.names import copy_name, spare_name
from django_pgsnap.clones.records import CopyRecord
from django_pgsnap.clones.spares import (
    cancel_spare,
    lock_spare,
    plan_spare,
    send_off,
    wait_for_spare,
    wants_spare,
)
from django_pgsnap.clones.transitions import Clone
from django_pgsnap.postgres.advisory_locks import (
    acquire_lock,
    read_lock_holder,
    read_lock_holders,
    release_lock,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql, ServerAs, SessionAs
from tests.records import IDENTITY, copy_record, make_copy
from tests.servers import Server
from tests.watching import Background, Recorder, settle, until

GIB = 1024**3
SPARE = spare_name(IDENTITY)


@pytest.fixture
def copy(make_database: MakeDatabase, session: Session) -> CopyRecord:
    """The record of a published copy."""
    make_database("live")
    record = copy_record(strategy="file_copy")
    make_copy(session, record)
    return record


def database_of(session: Session, record: CopyRecord) -> Database[CopyRecord]:
    (found,) = load_catalog(session).copies()
    return replace(found, record=record)


@pytest.mark.parametrize("strategy", ["wal_log", "file_copy", "clone", "", "teleport"])
def test_spare_of(strategy: str, session: Session, copy: CopyRecord) -> None:
    """A spare is made from the copy, for its owner, the way the copy was made."""
    record = copy_record(strategy=strategy)

    spare = plan_spare(database_of(session, record))

    assert spare == Clone(
        source=copy_name(IDENTITY),
        name=SPARE,
        owner="postgres",
        strategy=strategy if strategy in {"wal_log", "clone"} else "file_copy",  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("given", "values", "wanted"),
    [
        ({}, {"size_bytes": 10 * GIB}, True),
        ({}, {"size_bytes": 10 * GIB + 1}, False),
        ({"SPARE_MAX_BYTES": 0}, {"size_bytes": 1}, False),
        ({}, {"size_bytes": 100 * GIB, "strategy": "clone", "seconds": 1.0}, True),
        ({}, {"size_bytes": 100 * GIB, "strategy": "clone", "seconds": 80.0}, False),
        ({"SPARES": False}, {"size_bytes": 1}, False),
    ],
)
def test_is_wanted(
    given: dict[str, Any], values: dict[str, Any], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spare is made of what is not too large, or costs no room, unless the settings say no."""
    monkeypatch.setattr(settings, "PGSNAP", given)

    assert wants_spare(copy_record(**values)) is wanted


def test_statements(
    server: Server,
    copy: CopyRecord,
    session: Session,
    make_database: MakeDatabase,
    server_as: ServerAs,
) -> None:
    """Making and dropping go on when the sessions are given up; more are opened if need be."""
    make_database("old")
    make_database("older")

    work: list[Clone | str] = [plan_spare(database_of(session, copy)), "old", "older"]
    send_off(server_as(), work, [server_as().session("idle")])
    session.close()

    assert [each.name for each in settle(server)] == ["live", copy.database, SPARE]


def test_finished_spare_can_be_used(
    copy: CopyRecord, session: Session, server_as: ServerAs
) -> None:
    """What was made without us is a spare."""
    send_off(server_as(), [plan_spare(database_of(session, copy))])

    until(lambda: load_catalog(session).spares.get(IDENTITY) is not None)


def test_locks_are_kept_until_the_statements_have_theirs(
    copy: CopyRecord, session: Session, session_as: SessionAs, server_as: ServerAs
) -> None:
    """The operation's lock is given back only after those of the background were taken."""
    worker = session_as()
    acquire_lock(worker, "live", 0)

    def work() -> Iterator[Clone]:
        yield plan_spare(database_of(session, copy))
        held.extend(read_lock_holder(session, name) for name in ("live", SPARE))

    held: list[object] = []
    send_off(server_as(), work(), [worker])

    assert len(held) == 2
    assert None not in held
    assert read_lock_holder(session, "live") is None
    until(lambda: load_catalog(session).spares.get(IDENTITY) is not None)


def test_idle_sessions_are_closed(session_as: SessionAs, server_as: ServerAs, sql: RunSql) -> None:
    """Sessions that no statement needs end, with their locks."""
    idle = session_as()
    pid = idle.pid

    send_off(server_as(), [], [idle])

    until(lambda: not sql("SELECT pid FROM pg_stat_activity WHERE pid = %s", [pid]))


@pytest.mark.parametrize("each", ["make_spare", "drop"])
def test_what_somebody_else_is_at(
    each: str,
    copy: CopyRecord,
    session: Session,
    server_as: ServerAs,
    databases: ListDatabases,
) -> None:
    """What another session holds the lock of is left to it."""
    name = SPARE if each == "make_spare" else "live"
    acquire_lock(session, name, 0)

    spare = plan_spare(database_of(session, copy))
    send_off(server_as(), [spare if each == "make_spare" else "live"])

    assert [database.name for database in databases()] == ["live", copy.database]


def test_lock(copy: CopyRecord, session: Session, session_as: SessionAs) -> None:
    """A spare that nobody makes is held by its lock, whether it is there or not."""
    worker, recorder = session_as(), Recorder()

    assert lock_spare(worker, copy, recorder)

    assert recorder.steps == []
    holder = read_lock_holder(session, SPARE)
    assert holder is not None
    assert holder.pid == worker.pid


def test_lock_waits(copy: CopyRecord, session: Session, session_as: SessionAs) -> None:
    """A spare that is being made is waited for, and then there."""
    maker, worker, recorder = session_as(), session_as(), Recorder()
    acquire_lock(maker, SPARE, 0)
    waiting = Background(lambda: lock_spare(worker, copy, recorder))
    until(lambda: bool(recorder.steps))

    maker.execute(plan_spare(database_of(session, copy)).statement)
    maker.close()

    assert waiting.result()
    assert load_catalog(session).spares[IDENTITY].name == SPARE
    assert recorder.steps == ["Waiting for the spare of 'seeded', which is being made"]


def test_wait_for(copy: CopyRecord, session: Session, session_as: SessionAs) -> None:
    """Waiting for the end of the making leaves the lock free."""
    recorder = Recorder()

    wait_for_spare(session_as(), copy, recorder)

    assert read_lock_holder(session, SPARE) is None
    assert recorder.steps == []


def test_abandon(copy: CopyRecord, session: Session, session_as: SessionAs, sql: RunSql) -> None:
    """The making of a spare is stopped, so that its copy can be renamed."""
    maker = session_as()
    acquire_lock(maker, SPARE, 0)
    query = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    pid = maker.pid
    maker.fire(pg.SQL("SELECT pg_sleep(60)"))
    until(lambda: bool(sql(query, [pid])))

    cancel_spare(session, copy)

    assert read_lock_holder(session, SPARE) is None
    session.execute(
        pg.SQL("ALTER DATABASE {} RENAME TO renamed").format(pg.Identifier(copy.database))
    )


def test_abandon_what_nobody_makes(copy: CopyRecord, session: Session) -> None:
    """Where nobody makes a spare there is nothing to stop."""
    cancel_spare(session, copy)

    assert read_lock_holders(session) == {}


def test_abandon_of_another_role(
    copy: CopyRecord, role: MakeRole, session: Session, session_as: SessionAs
) -> None:
    """A maker that our role may not stop is waited for."""
    maker, ordinary = session_as(), session_as(role())
    acquire_lock(maker, SPARE, 0)
    waiting = Background(lambda: cancel_spare(ordinary, copy))
    until(
        lambda: bool(
            session.rows(
                pg.SQL(
                    "SELECT pid FROM pg_stat_activity WHERE pid = %s"
                    " AND query LIKE '%%pg_try_advisory_lock%%'"
                ),
                [ordinary.pid],
            )
        )
    )

    release_lock(maker, SPARE)

    waiting.result()
    assert maker.value(pg.SQL("SELECT 1")) == 1
