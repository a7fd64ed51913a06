"""What the server counts of a database that tells whether somebody has used or written it."""

from collections.abc import Callable

import pytest
from psycopg import sql as pg

from django_pgsnap.postgres.inspection import DatabaseCounters, read_counters
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, RunSql, ServerAs
from tests.servers import Server
from tests.watching import until

FILL = (
    "CREATE TABLE t (n serial); INSERT INTO t SELECT FROM generate_series(1, 9);"
    " CREATE SEQUENCE odd; SELECT setval('odd', 7)"
)

Run = Callable[..., None]
Read = Callable[[], DatabaseCounters]


@pytest.fixture
def fresh(make_database: MakeDatabase, session: Session, sql: RunSql) -> str:
    """A clone that nobody was ever on."""
    sql(FILL, dbname=make_database("filled"))
    until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE datname = 'filled'"))
    session.execute(pg.SQL("CREATE DATABASE live TEMPLATE filled STRATEGY FILE_COPY"))
    return "live"


@pytest.fixture
def run(fresh: str, clean_server: Server) -> Run:
    """Runs a statement on the database, and waits until its backend is gone."""

    def run(statement: str, options: str = "") -> None:
        with clean_server.connect(fresh, options=options) as connection:
            pid = connection.info.backend_pid
            connection.execute(statement)
        with clean_server.connect() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
            until(lambda: not connection.execute(query, [pid]).fetchall())

    return run


@pytest.fixture
def read(fresh: str, session: Session) -> Read:
    return lambda: read_counters(session, [fresh])[fresh]


def test_fresh_clone(read: Read) -> None:
    """A clone begins at zero, whatever was counted of its source."""
    counters = read()

    assert (counters.sessions, counters.transactions, counters.rows) == (0, 0, 0)
    assert read() == counters


def test_databases_that_are_not_there(session: Session, fresh: str) -> None:
    """Of a database that is gone nothing is told."""
    assert read_counters(session, [fresh, "gone"]).keys() == {fresh}


@pytest.mark.parametrize("options", ["", "-c track_counts=off", "-c track_activities=off"])
@pytest.mark.parametrize("statement", ["", "SELECT 1", "UPDATE t SET n = n"])
def test_no_setting_hides_a_session(statement: str, options: str, run: Run, read: Read) -> None:
    """Every session is counted, though it does nothing, and whatever it switches off."""
    before = read()

    run(statement, options)

    now = read()
    assert now.sessions == before.sessions + 1
    assert now.transactions > before.transactions
    assert now.epoch == before.epoch


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
        "ALTER SEQUENCE odd RESTART",
        "SELECT lo_from_bytea(0, 'x')",
        "ANALYZE t",
    ],
)
def test_rows(statement: str, run: Run, read: Read) -> None:
    """Whatever writes a row is counted, in catalogs too; what was taken back as well."""
    before = read()

    run(statement)

    assert read().rows > before.rows


@pytest.mark.parametrize("statement", ["SELECT * FROM t", "SELECT nextval('odd')"])
def test_no_rows(statement: str, run: Run, read: Read) -> None:
    """Who reads, or calls a sequence, writes no row."""
    before = read()

    run(statement)

    assert read().rows == before.rows


@pytest.mark.parametrize(
    "setting",
    [
        "ALTER DATABASE {} SET track_counts = off",
        "ALTER ROLE ALL SET track_counts = off",
        "GRANT SET ON PARAMETER track_counts TO PUBLIC",
    ],
)
def test_counting_that_somebody_may_switch_off(
    setting: str, fresh: str, session: Session, read: Read
) -> None:
    """Where rows may have been written without being counted, nothing is for sure."""
    session.execute(pg.SQL(setting).format(pg.Identifier(fresh)))
    try:
        assert read().epoch != read().epoch
    finally:
        session.execute(pg.SQL("ALTER ROLE ALL RESET track_counts"))
        session.execute(pg.SQL("REVOKE SET ON PARAMETER track_counts FROM PUBLIC"))


def test_counting_that_somebody_has_switched_on(fresh: str, session: Session, read: Read) -> None:
    """A setting that changes nothing takes nothing away."""
    session.execute(pg.SQL("ALTER DATABASE {} SET track_counts = on").format(pg.Identifier(fresh)))

    assert read().epoch == read().epoch


def test_counting_is_switched_off(session: Session, read: Read) -> None:
    """Where nothing is counted nothing is for sure."""
    session.configure({"track_counts": "off"})

    assert read().epoch != read().epoch


def test_counters_that_were_reset(run: Run, read: Read) -> None:
    """Counters that somebody set back to zero are another count."""
    before = read()

    run("SELECT pg_stat_reset()")

    assert read().epoch != before.epoch


def test_crash(run: Run, read: Read, server_as: ServerAs, clean_server: Server) -> None:
    """A crash throws the counters away, which is noticed, whatever was written before it."""
    run("UPDATE t SET n = n; CHECKPOINT")
    before = read()

    clean_server.crash()
    clean_server.start()

    with server_as().session("test") as session:
        assert read_counters(session, ["live"])["live"].epoch != before.epoch
