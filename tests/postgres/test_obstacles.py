"""What stands in the way of a take or a restore."""

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.errors import ObstacleError
from django_pgsnap.postgres.preconditions import check_collation, check_nothing_attached
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs

PREPARE = "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION {}"
SUBSCRIBE = """
    CREATE SUBSCRIPTION {} CONNECTION 'host=nowhere' PUBLICATION p
    WITH (connect = false, enabled = false, slot_name = NONE)
"""
SLOT = "SELECT FROM pg_create_logical_replication_slot({}, 'pgoutput')"
# A slot can only be made while no transaction is open.
ALL = [(SLOT, "b"), (SUBSCRIBE, "c"), (PREPARE, "a")]


@pytest.fixture(autouse=True)
def _live(make_database: MakeDatabase) -> None:
    make_database("live")
    make_database("other")


def attach(sql: RunSql, statement: str, name: str, database: str = "live") -> None:
    what = pg.Identifier(name) if statement == SUBSCRIBE else pg.Literal(name)
    sql(pg.SQL(statement).format(what), dbname=database)


def refused(session: Session, *databases: str) -> tuple[str, str]:
    with pytest.raises(ObstacleError) as caught:
        check_nothing_attached(session, databases)
    return caught.value.message, caught.value.hint


def test_nothing_in_the_way(session: Session) -> None:
    """A database with nothing attached passes, and so does one that is not there."""
    check_nothing_attached(session, ["live", "nowhere"])


def test_prepared_transaction(session: Session, sql: RunSql) -> None:
    """A prepared transaction is named, with how to end it."""
    attach(sql, PREPARE, "order's end")

    assert refused(session, "live") == (
        "A copy or a swap would break the prepared transaction \"order's end\" of 'live'.",
        "First, run COMMIT PREPARED or ROLLBACK PREPARED 'order''s end' in 'live'.",
    )


def test_logical_slot(session: Session, sql: RunSql) -> None:
    """A logical replication slot is named, with how to drop it."""
    attach(sql, SLOT, "cdc")

    assert refused(session, "live") == (
        "A copy or a swap would break the logical replication slot 'cdc' of 'live'.",
        "First, run SELECT pg_drop_replication_slot('cdc').",
    )


def test_subscription(session: Session, sql: RunSql) -> None:
    """A subscription is named, with how to drop it, even a disabled one."""
    attach(sql, SUBSCRIBE, 'my "sub"')

    assert refused(session, "live") == (
        "A copy or a swap would break the subscription 'my \"sub\"' of 'live'.",
        'First, drop it (DROP SUBSCRIPTION "my ""sub""") in \'live\'.',
    )


def test_all_are_named(session: Session, sql: RunSql) -> None:
    """Everything in the way of any of the databases is named at once."""
    attach(sql, SLOT, "b", "other")
    attach(sql, PREPARE, "a")

    message, hint = refused(session, "live", "other")

    assert message == (
        "A copy or a swap would break the prepared transaction 'a' of 'live', "
        "the logical replication slot 'b' of 'other'."
    )
    assert hint == (
        "First, run COMMIT PREPARED or ROLLBACK PREPARED 'a' in 'live'; "
        "run SELECT pg_drop_replication_slot('b')."
    )


def test_other_databases_do_not_count(session: Session, sql: RunSql) -> None:
    """What is attached to another database is in nobody's way."""
    for statement, name in ALL:
        attach(sql, statement, name, "other")

    check_nothing_attached(session, ["live"])


def test_ordinary_role_sees_them(role: MakeRole, session_as: SessionAs, sql: RunSql) -> None:
    """Nobody needs rights to learn what is in the way."""
    for statement, name in ALL:
        attach(sql, statement, name)

    message, _ = refused(session_as(role()), "live")

    assert message.count(" of 'live'") == 3


def test_collation_as_it_was(session: Session) -> None:
    """A database whose collation has not changed passes, and so does one that is not there."""
    check_collation(session, "live")
    check_collation(session, "nowhere")


def test_collation_that_changed(session: Session, make_database: MakeDatabase) -> None:
    """A database that the server would refuse to copy is named, with what mends it."""
    name = make_database('we"ird')
    changed = pg.SQL("UPDATE pg_database SET datcollversion = '0.9' WHERE datname = {}")
    session.execute(changed.format(pg.Literal(name)))

    with pytest.raises(ObstacleError) as caught:
        check_collation(session, name)

    assert caught.value.message.startswith(
        "The database 'we\"ird' was built with collation version 0.9, but the system now has "
    )
    assert caught.value.message.endswith("; the server refuses to copy it.")
    assert caught.value.hint == (
        "Rebuild its indexes where you can (REINDEX DATABASE), then run: "
        'ALTER DATABASE "we""ird" REFRESH COLLATION VERSION;'
    )
    with pytest.raises(psycopg.errors.InternalError_, match="collation"):
        session.execute(pg.SQL("CREATE DATABASE copy TEMPLATE {}").format(pg.Identifier(name)))
