"""Whether our role may copy and replace a database, and the statement that would let it."""

import pytest
from psycopg import sql as pg

from django_pgsnap.errors import MissingRightError
from django_pgsnap.postgres.preconditions import check_privileges
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs

COPY = pg.SQL("CREATE DATABASE copy TEMPLATE live OWNER {}")
NOT_OWNER = (
    "The role ordinary neither owns the database 'live' nor has all rights of its owner owner."
)


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


def refused(session: Session) -> tuple[str, str]:
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

    message, hint = refused(session)

    assert message == ('The role "Ann ""A""" may not create databases, so it cannot copy \'live\'.')
    assert hint == 'Let a superuser run: ALTER ROLE "Ann ""A""" CREATEDB;'
    run_the_hint(sql, hint)
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, 'Ann "A"')


def test_not_the_owner(ordinary: str, owner: str, session_as: SessionAs, sql: RunSql) -> None:
    """A role that is nothing to the owner is told how to become something, and it helps."""
    session = session_as(ordinary)

    message, hint = refused(session)

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

    assert refused(session) == (
        NOT_OWNER,
        "Let a superuser run: GRANT owner TO ordinary WITH INHERIT TRUE, SET TRUE;",
    )
    run_the_hint(sql, refused(session)[1])
    check_privileges(session, ["live"])
    assert can_copy_and_rename(session, owner)


@pytest.mark.pg("< 16")
def test_membership_of_a_role_that_does_not_inherit(
    ordinary: str, owner: str, session_as: SessionAs, sql: RunSql
) -> None:
    """Before 16 the role itself says whether it inherits; the exact statements mend it."""
    sql("ALTER ROLE ordinary NOINHERIT; GRANT owner TO ordinary")
    session = session_as(ordinary)

    assert refused(session) == (
        NOT_OWNER,
        "Let a superuser run: GRANT owner TO ordinary; ALTER ROLE ordinary INHERIT;",
    )
    run_the_hint(sql, refused(session)[1])
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
