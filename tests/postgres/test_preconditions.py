"""What a take or a restore needs: nothing attached, a collation that stands, privileges."""

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.errors import MissingRightError, ObstacleError
from django_pgsnap.postgres.inspection import (
    check_collation,
    check_nothing_attached,
    check_privileges,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs

PREPARE = "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION {}"
SUBSCRIBE = """
    CREATE SUBSCRIPTION {} CONNECTION 'host=nowhere' PUBLICATION p
    WITH (connect = false, enabled = false, slot_name = NONE)
"""
SLOT = "SELECT FROM pg_create_logical_replication_slot({}, 'pgoutput')"
COPY = pg.SQL("CREATE DATABASE copy TEMPLATE live OWNER {}")
NOT_OWNER = (
    "The role ordinary neither owns the database 'live' nor has all rights of its owner owner."
)
# A slot can only be made while no transaction is open.
ALL = [(SLOT, "b"), (SUBSCRIBE, "c"), (PREPARE, "a")]


@pytest.fixture
def _attachable(make_database: MakeDatabase) -> None:
    make_database("live")
    make_database("other")


def attach(sql: RunSql, statement: str, name: str, database: str = "live") -> None:
    what = pg.Identifier(name) if statement == SUBSCRIBE else pg.Literal(name)
    sql(pg.SQL(statement).format(what), dbname=database)


def refused_attached(session: Session, *databases: str) -> tuple[str, str]:
    with pytest.raises(ObstacleError) as caught:
        check_nothing_attached(session, databases)
    return caught.value.message, caught.value.hint


@pytest.mark.usefixtures("_attachable")
def test_nothing_in_the_way(session: Session) -> None:
    """A database with nothing attached passes, and so does one that is not there."""
    check_nothing_attached(session, ["live", "nowhere"])


@pytest.mark.usefixtures("_attachable")
def test_prepared_transaction(session: Session, sql: RunSql) -> None:
    """A prepared transaction is named, with how to end it."""
    attach(sql, PREPARE, "order's end")

    assert refused_attached(session, "live") == (
        "A copy or a restore would break the prepared transaction \"order's end\" of 'live'.",
        "First, run COMMIT PREPARED or ROLLBACK PREPARED 'order''s end' in 'live'.",
    )


@pytest.mark.usefixtures("_attachable")
def test_logical_slot(session: Session, sql: RunSql) -> None:
    """A logical replication slot is named, with how to drop it."""
    attach(sql, SLOT, "cdc")

    assert refused_attached(session, "live") == (
        "A copy or a restore would break the logical replication slot 'cdc' of 'live'.",
        "First, run SELECT pg_drop_replication_slot('cdc').",
    )


@pytest.mark.usefixtures("_attachable")
def test_subscription(session: Session, sql: RunSql) -> None:
    """A subscription is named, with how to drop it, even a disabled one."""
    attach(sql, SUBSCRIBE, 'my "sub"')

    assert refused_attached(session, "live") == (
        "A copy or a restore would break the subscription 'my \"sub\"' of 'live'.",
        'First, drop it (DROP SUBSCRIPTION "my ""sub""") in \'live\'.',
    )


@pytest.mark.usefixtures("_attachable")
def test_all_are_named(session: Session, sql: RunSql) -> None:
    """Everything in the way of any of the databases is named at once."""
    attach(sql, SLOT, "b", "other")
    attach(sql, PREPARE, "a")

    message, hint = refused_attached(session, "live", "other")

    assert message == (
        "A copy or a restore would break the prepared transaction 'a' of 'live', "
        "the logical replication slot 'b' of 'other'."
    )
    assert hint == (
        "First, run COMMIT PREPARED or ROLLBACK PREPARED 'a' in 'live'; "
        "run SELECT pg_drop_replication_slot('b')."
    )


@pytest.mark.usefixtures("_attachable")
def test_other_databases_do_not_count(session: Session, sql: RunSql) -> None:
    """What is attached to another database is in nobody's way."""
    for statement, name in ALL:
        attach(sql, statement, name, "other")

    check_nothing_attached(session, ["live"])


@pytest.mark.usefixtures("_attachable")
def test_ordinary_role_sees_them(role: MakeRole, session_as: SessionAs, sql: RunSql) -> None:
    """Nobody needs rights to learn what is in the way."""
    for statement, name in ALL:
        attach(sql, statement, name)

    message, _ = refused_attached(session_as(role()), "live")

    assert message.count(" of 'live'") == 3


@pytest.mark.usefixtures("_attachable")
def test_collation_as_it_was(session: Session) -> None:
    """A database whose collation has not changed passes, and so does one that is not there."""
    check_collation(session, ["live", "nowhere"])


@pytest.mark.usefixtures("_attachable")
def test_collation_that_changed(session: Session, make_database: MakeDatabase) -> None:
    """A database that the server would refuse to copy is named, with what mends it."""
    name = make_database('we"ird')
    changed = pg.SQL("UPDATE pg_database SET datcollversion = '0.9' WHERE datname = {}")
    session.execute(changed.format(pg.Literal(name)))

    with pytest.raises(ObstacleError) as caught:
        check_collation(session, [name])

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


@pytest.fixture
def ordinary(role: MakeRole) -> str:
    return role()


@pytest.fixture
def owner(role: MakeRole, make_database: MakeDatabase) -> str:
    """The role that owns the live database, of which ours is no member yet."""
    return make_live_of(role("owner", options=""), make_database)


def make_live_of(owner: str, make_database: MakeDatabase) -> str:
    make_database("live", owner=owner)
    return owner


def refused_privileges(session: Session) -> tuple[str, str]:
    with pytest.raises(MissingRightError) as caught:
        check_privileges(session, ["live"])
    return caught.value.message, caught.value.hint


def run_the_hint(sql: RunSql, hint: str) -> None:
    lead, statements = hint.split(": ", 1)
    assert lead == "Let a superuser run"
    sql(pg.SQL(statements))


def can_copy_and_rename(session: Session, owner: str) -> bool:
    session.execute(COPY.format(pg.Identifier(owner)))
    session.execute(pg.SQL("ALTER DATABASE copy RENAME TO copy2"))
    session.execute(pg.SQL("ALTER DATABASE live RENAME TO live2"))
    return True


def test_superuser(owner: str, session: Session) -> None:
    """A superuser may."""
    check_privileges(session, ["live"])


def test_owner_with_createdb(
    ordinary: str, make_database: MakeDatabase, session_as: SessionAs
) -> None:
    """A role that owns the database and may make some may."""
    make_live_of(ordinary, make_database)

    check_privileges(session_as(ordinary), ["live", "not there"])


def test_may_not_create(
    role: MakeRole, make_database: MakeDatabase, session_as: SessionAs, sql: RunSql
) -> None:
    """Without CREATEDB the statement that gives it is told, and it helps."""
    make_live_of(role('Ann "A"', options=""), make_database)
    session = session_as('Ann "A"')

    message, hint = refused_privileges(session)

    assert message == ('The role "Ann ""A""" may not create databases, so it cannot copy \'live\'.')
    assert hint == 'Let a superuser run: ALTER ROLE "Ann ""A""" CREATEDB;'
    run_the_hint(sql, hint)
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, 'Ann "A"')


def test_not_the_owner(ordinary: str, owner: str, session_as: SessionAs, sql: RunSql) -> None:
    """A role that is nothing to the owner is told how to become something, and it helps."""
    session = session_as(ordinary)

    message, hint = refused_privileges(session)

    assert message == NOT_OWNER
    assert hint.startswith("Let a superuser run: GRANT owner TO ordinary")
    run_the_hint(sql, hint)
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, owner)


@pytest.mark.pg(">= 16")
@pytest.mark.parametrize("options", ["INHERIT FALSE", "SET FALSE", "INHERIT FALSE, SET FALSE"])
def test_membership_without_its_rights(
    options: str, ordinary: str, owner: str, session_as: SessionAs, sql: RunSql
) -> None:
    """A membership that lacks INHERIT or SET is not enough; the exact GRANT mends it."""
    sql(pg.SQL("GRANT owner TO ordinary WITH {}").format(pg.SQL(options)))
    session = session_as(ordinary)

    assert refused_privileges(session) == (
        NOT_OWNER,
        "Let a superuser run: GRANT owner TO ordinary WITH INHERIT TRUE, SET TRUE;",
    )
    run_the_hint(sql, refused_privileges(session)[1])
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, owner)


@pytest.mark.pg("< 16")
def test_membership_of_a_role_that_does_not_inherit(
    ordinary: str, owner: str, session_as: SessionAs, sql: RunSql
) -> None:
    """Before 16 the role itself says whether it inherits; the exact statements mend it."""
    sql("ALTER ROLE ordinary NOINHERIT; GRANT owner TO ordinary")
    session = session_as(ordinary)

    assert refused_privileges(session) == (
        NOT_OWNER,
        "Let a superuser run: GRANT owner TO ordinary; ALTER ROLE ordinary INHERIT;",
    )
    run_the_hint(sql, refused_privileges(session)[1])
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, owner)


def test_membership(ordinary: str, owner: str, session_as: SessionAs, sql: RunSql) -> None:
    """A member of the owner may, through another role, too."""
    sql("CREATE ROLE team; GRANT owner TO team; GRANT team TO ordinary")
    session = session_as(ordinary)

    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, owner)


def test_assumed_role(
    ordinary: str, role: MakeRole, make_database: MakeDatabase, session_as: SessionAs, sql: RunSql
) -> None:
    """The role that Django assumes is the one that counts."""
    role("app")
    make_live_of("app", make_database)
    sql("GRANT app TO ordinary")

    session = session_as(ordinary, role="app")

    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, "app")


def test_every_database_is_looked_at(
    ordinary: str, owner: str, make_database: MakeDatabase, session_as: SessionAs
) -> None:
    """One database that is not ours is enough to refuse."""
    make_database("mine", owner=ordinary)

    with pytest.raises(MissingRightError, match="'live'"):
        check_privileges(session_as(ordinary), ["mine", "live"])
