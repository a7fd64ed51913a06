"""What was written into the database that new ones are cloned from, told by counters."""

from collections.abc import Iterator

import pytest

from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases.facts import SourceCounters
from tests.conftest import RunSql
from tests.watching import until

PRESENT = "SELECT FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"


@pytest.fixture
def table(sql: RunSql) -> Iterator[None]:
    """A table in template1 of so many rows that autovacuum analyzes it, once it may."""
    sql("CREATE TABLE ground AS SELECT generate_series(1, 1000)", dbname="template1")
    wait_until_counted(sql)
    yield
    sql("DROP TABLE ground", dbname="template1")


@pytest.fixture
def eager_autovacuum(sql: RunSql) -> Iterator[None]:
    sql("ALTER SYSTEM SET autovacuum_naptime = 1")
    yield
    sql("ALTER SYSTEM RESET autovacuum_naptime")
    sql("SELECT pg_reload_conf()")


def wait_until_counted(sql: RunSql, dbname: str = "template1") -> None:
    """A session hands over its counts before its process is gone."""
    until(lambda: not sql(PRESENT, [dbname]))


def test_same_again(session: Session) -> None:
    """Where nobody comes, it is the same."""
    before = SourceCounters.read(session, None)

    assert SourceCounters.read(session, None).show_no_writer_since(before)
    assert SourceCounters.read(session, "").show_no_writer_since(before)


def test_a_client_that_writes(session: Session, sql: RunSql) -> None:
    """What a client has written is in every new database, and in no older template."""
    before = SourceCounters.read(session, None)

    sql("CREATE TABLE everywhere (); DROP TABLE everywhere", dbname="template1")
    wait_until_counted(sql)

    assert not SourceCounters.read(session, None).show_no_writer_since(before)


def test_a_client_that_reads(session: Session, sql: RunSql) -> None:
    """A monitor that looks into each database changes nothing."""
    before = SourceCounters.read(session, None)

    sql("SELECT FROM pg_class", dbname="template1")
    wait_until_counted(sql)

    after = SourceCounters.read(session, None)
    assert (after.sessions, after.written) == (before.sessions + 1, before.written)
    assert after.show_no_writer_since(before)


@pytest.mark.usefixtures("table", "eager_autovacuum")
def test_autovacuum(session: Session, sql: RunSql) -> None:
    """The server writes statistics by itself, without a client; they change no result."""
    before = SourceCounters.read(session, None)

    sql("SELECT pg_reload_conf()")

    until(lambda: SourceCounters.read(session, None).written != before.written)
    assert SourceCounters.read(session, None).show_no_writer_since(before)


def test_another_database(session: Session, sql: RunSql, live: str) -> None:
    """A project may have its databases cloned from one of its own."""
    before = SourceCounters.read(session, live)
    sql("CREATE TABLE more ()", dbname=live)
    wait_until_counted(sql, live)

    assert not SourceCounters.read(session, live).show_no_writer_since(before)


def test_a_missing_database(session: Session) -> None:
    """To say that it does not exist is left to who creates databases."""
    assert SourceCounters.read(session, "missing") == SourceCounters()
