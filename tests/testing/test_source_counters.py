"""What was written into the database that new ones are cloned from, told by counters."""

from collections.abc import Iterator
from unittest import mock

import pytest
from django.db import connections

from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases.facts import Facts, read_facts
from django_pgsnap.testing.databases.recording import find_change
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


def count(session: Session, template: str | None = None) -> tuple[int, int]:
    """Return what was counted in the database that a test database is cloned from."""
    connection = connections["default"]
    with mock.patch.dict(connection.settings_dict["TEST"], TEMPLATE=template):
        return read_facts(connection, session, "live").counters


def is_written_since(before: tuple[int, int], now: tuple[int, int]) -> bool:
    """Tell whether a template that was made then is used no longer."""
    change = find_change(Facts(digests={}, counters=before), Facts(digests={}, counters=now))
    assert change in {None, "somebody wrote into the database that new ones are cloned from"}
    return change is not None


def test_same_again(session: Session) -> None:
    """Where nobody comes, it is the same."""
    before = count(session)

    assert not is_written_since(before, count(session))
    assert not is_written_since(before, count(session, ""))


def test_a_client_that_writes(session: Session, sql: RunSql) -> None:
    """What a client has written is in every new database, and in no older template."""
    before = count(session)

    sql("CREATE TABLE everywhere (); DROP TABLE everywhere", dbname="template1")
    wait_until_counted(sql)

    assert is_written_since(before, count(session))


def test_a_client_that_reads(session: Session, sql: RunSql) -> None:
    """A monitor that looks into each database changes nothing."""
    before = count(session)

    sql("SELECT FROM pg_class", dbname="template1")
    wait_until_counted(sql)

    after = count(session)
    assert after == (before[0] + 1, before[1])
    assert not is_written_since(before, after)


@pytest.mark.usefixtures("table", "eager_autovacuum")
def test_autovacuum(session: Session, sql: RunSql) -> None:
    """The server writes statistics by itself, without a client; they change no result."""
    before = count(session)

    sql("SELECT pg_reload_conf()")

    until(lambda: count(session)[1] != before[1])
    assert not is_written_since(before, count(session))


def test_another_database(session: Session, sql: RunSql, live: str) -> None:
    """A project may have its databases cloned from one of its own."""
    before = count(session, live)
    sql("CREATE TABLE more ()", dbname=live)
    wait_until_counted(sql, live)

    assert is_written_since(before, count(session, live))


def test_a_missing_database(session: Session) -> None:
    """To say that it does not exist is left to who creates databases."""
    assert count(session, "missing") == (-1, -1)
