"""Whether a live database was written since a restore put it there."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.records import UndoRecord
from django_pgsnap.postgres.contents import digest_sequences
from django_pgsnap.postgres.counters import read_statistics_epoch
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots import replace_live
from tests.conftest import MakeDatabase, ServerAs, SessionAs
from tests.records import undo_record
from tests.servers import Server
from tests.watching import until

FILL = (
    "CREATE TABLE t (n serial); INSERT INTO t SELECT FROM generate_series(1, 9);"
    " CREATE SEQUENCE odd; SELECT setval('odd', 7)"
)


@pytest.fixture
def undo(
    make_database: MakeDatabase, clean_server: Server, session: Session, session_as: SessionAs
) -> UndoRecord:
    """The undo that a restore has left which put a fresh, unwritten database in place."""
    make_database("filled")
    with session_as(database="filled") as inside:
        inside.execute(pg.SQL("SET search_path = public; " + FILL))
        digest = digest_sequences(inside)
    session.execute(pg.SQL("CREATE DATABASE live TEMPLATE filled STRATEGY FILE_COPY"))
    return undo_record(
        successor_oid=load_catalog(session)["live"].oid,
        successor_sequences=digest,
        statistics_epoch=read_statistics_epoch(session),
    )


@pytest.fixture
def run(clean_server: Server) -> Callable[[str], None]:
    """Runs a statement on the live database, and waits until its backend is gone."""

    def run(statement: str) -> None:
        with clean_server.connect("live") as connection:
            pid = connection.info.backend_pid
            connection.execute(statement)
        with clean_server.connect() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
            until(lambda: not connection.execute(query, [pid]).fetchall())

    return run


@pytest.fixture
def is_unwritten(
    undo: UndoRecord, server_as: ServerAs, session: Session
) -> Callable[[UndoRecord], bool]:
    def ask(record: UndoRecord) -> bool:
        live = load_catalog(session)["live"]
        return replace_live.is_unwritten(session, server_as(), live, record, wait_s=1)

    return ask


Ask = Callable[[UndoRecord], bool]
Run = Callable[[str], None]


@pytest.mark.parametrize("statement", ["SELECT * FROM t", "BEGIN; SELECT 1; COMMIT", ""])
def test_unwritten(statement: str, undo: UndoRecord, run: Run, is_unwritten: Ask) -> None:
    """What was only read is what the restore made it."""
    run(statement)

    assert is_unwritten(undo)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t DEFAULT VALUES",
        "UPDATE t SET n = n",
        "DELETE FROM t WHERE n = 1",
        "TRUNCATE t",
        "CREATE TABLE other ()",
        "DROP TABLE t",
        "ALTER TABLE t ADD x int",
        "COMMENT ON TABLE t IS 'new'",
        "BEGIN; INSERT INTO t DEFAULT VALUES; ROLLBACK",
        "SELECT nextval('odd')",
        "SELECT setval('odd', 7, false)",
        "SELECT setval('odd', 6)",
        "ALTER SEQUENCE odd RESTART",
        "SELECT lo_from_bytea(0, 'x')",
        "ANALYZE t",
    ],
)
def test_written(statement: str, undo: UndoRecord, run: Run, is_unwritten: Ask) -> None:
    """Whatever changes anything is noticed; what was taken back again may be, too."""
    run(statement)

    assert not is_unwritten(undo)


@pytest.mark.parametrize(
    "setting",
    ["ALTER DATABASE {} SET track_counts = off", "ALTER ROLE ALL SET track_counts = off"],
)
def test_counting_that_somebody_may_switch_off(
    setting: str, undo: UndoRecord, session: Session, is_unwritten: Ask
) -> None:
    """Where rows may have been written without being counted, nothing is for sure."""
    session.execute(pg.SQL(setting).format(pg.Identifier("live")))
    try:
        assert not is_unwritten(undo)
    finally:
        session.execute(pg.SQL("ALTER ROLE ALL RESET track_counts"))


def test_counting_is_switched_off(undo: UndoRecord, session: Session, is_unwritten: Ask) -> None:
    """Where nothing is counted nothing is for sure."""
    session.configure({"track_counts": "off"})

    assert not is_unwritten(undo)


def test_counters_that_were_reset(undo: UndoRecord, run: Run, is_unwritten: Ask) -> None:
    """Counters that somebody set back to zero prove nothing."""
    run("UPDATE t SET n = n")
    run("SELECT pg_stat_reset()")

    assert not is_unwritten(undo)


def test_another_database(undo: UndoRecord, is_unwritten: Ask) -> None:
    """The undo says which database it was that took its place; another one may be anything."""
    assert not is_unwritten(replace(undo, successor_oid=1))


def test_sequences_unknown(undo: UndoRecord, is_unwritten: Ask) -> None:
    """Without the positions that the sequences had, nothing is for sure."""
    assert not is_unwritten(replace(undo, successor_sequences=""))


def test_leaves_no_session_behind(undo: UndoRecord, session: Session, is_unwritten: Ask) -> None:
    """To look is not to be in the way."""
    is_unwritten(undo)

    query = pg.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = 'live'")
    assert session.value(query) == 0


def test_crash(undo: UndoRecord, run: Run, server_as: ServerAs, clean_server: Server) -> None:
    """A crash throws the counters away, which is noticed, whatever was written before it."""
    run("UPDATE t SET n = n; CHECKPOINT")

    clean_server.crash()
    clean_server.start()

    with server_as().session("test") as session:
        live = load_catalog(session)["live"]
        assert not replace_live.is_unwritten(session, server_as(), live, undo, wait_s=1)
        assert read_statistics_epoch(session) != undo.statistics_epoch
