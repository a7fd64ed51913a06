"""What a database is set up with, beside its data, and putting that on another database."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql as pg

from django_pgsnap.messages import Message
from django_pgsnap.postgres.properties import (
    Privilege,
    Properties,
    apply_properties,
    read_properties,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs
from tests.servers import SUPERUSER

ODD = 'Ödd "role" 100%'
# Roles that all examples of the property test share; the second is as odd as can be.
ROLES = ["plain", ODD]


@pytest.fixture(autouse=True)
def _databases(make_database: MakeDatabase) -> None:
    make_database("live")
    make_database("copy")


@pytest.fixture
def roles(role: MakeRole) -> list[str]:
    return [role(name) for name in ROLES]


def carry(session: Session, source: str = "live", target: str = "copy") -> list[Message]:
    wanted, present = read_properties(session, source, target)
    return apply_properties(session, wanted, present, target)


def alike(session: Session, source: str = "live", target: str = "copy") -> bool:
    """Tell whether all is equal that `put` is about."""
    first, second = (
        replace(each, connection_limit=-1, is_template=False, comment=None)
        for each in read_properties(session, source, target)
    )
    return first == second


def test_fresh_database(session: Session) -> None:
    """A database with which nobody did anything has its owner's and everybody's defaults."""
    (found,) = read_properties(session, "live")

    assert found == Properties(
        owner=SUPERUSER,
        privileges=frozenset(
            {
                *(
                    Privilege(grantor=SUPERUSER, grantee=SUPERUSER, privilege=each, grantable=False)
                    for each in ("CREATE", "CONNECT", "TEMPORARY")
                ),
                *(
                    Privilege(grantor=SUPERUSER, grantee=None, privilege=each, grantable=False)
                    for each in ("CONNECT", "TEMPORARY")
                ),
            }
        ),
        settings={},
        connection_limit=-1,
        is_template=False,
        comment=None,
        labels={},
    )


def test_reads_several_in_order(session: Session, sql: RunSql) -> None:
    """What is read comes in the order in which it was asked for."""
    sql("COMMENT ON DATABASE live IS 'mine'; ALTER DATABASE live CONNECTION LIMIT 7")
    sql("ALTER DATABASE copy IS_TEMPLATE true")

    copy, live = read_properties(session, "copy", "live")

    assert (copy.comment, copy.connection_limit, copy.is_template) == (None, -1, True)
    assert (live.comment, live.connection_limit, live.is_template) == ("mine", 7, False)


def test_stage_is_left_alone(session: Session, sql: RunSql) -> None:
    """Comment, limit and template flag say what stage a copy is at, and are not carried."""
    sql("COMMENT ON DATABASE live IS 'mine'; ALTER DATABASE live CONNECTION LIMIT 7")
    sql("ALTER DATABASE live IS_TEMPLATE true")
    (before,) = read_properties(session, "copy")

    assert carry(session) == []
    assert read_properties(session, "copy") == [before]


CASES = {
    "owner": ["ALTER DATABASE live OWNER TO plain"],
    "odd owner": [f'ALTER DATABASE live OWNER TO "{ODD.replace(chr(34), chr(34) * 2)}"'],
    "grant": ["GRANT CREATE ON DATABASE live TO plain"],
    "grant option": ["GRANT CREATE, TEMPORARY ON DATABASE live TO plain WITH GRANT OPTION"],
    "foreign grantor": [
        "GRANT CREATE ON DATABASE live TO plain WITH GRANT OPTION",
        "SET ROLE plain; GRANT CREATE ON DATABASE live TO PUBLIC",
    ],
    "revoke": ["REVOKE CONNECT, TEMPORARY ON DATABASE live FROM PUBLIC"],
    "revoke from the owner": [
        "ALTER DATABASE live OWNER TO plain",
        "REVOKE ALL ON DATABASE live FROM plain",
    ],
    "setting": ["ALTER DATABASE live SET work_mem = '7MB'"],
    "own setting": ["ALTER DATABASE live SET my.setting = 'it''s \\ 100% \"odd\"'"],
    "setting of a role": ["ALTER ROLE plain IN DATABASE live SET statement_timeout = '7s'"],
    "search path": ['ALTER DATABASE live SET search_path = "$user", "a, b", "q""uo te", Public'],
    "empty search path": ["ALTER DATABASE live SET search_path = ''"],
    "empty setting": ["ALTER DATABASE live SET my.setting = ''"],
    "plain list": ["ALTER DATABASE live SET DateStyle = 'German, DMY'"],
}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("statements", CASES.values(), ids=CASES.keys())
def test_carried(statements: list[str], session: Session, sql: RunSql) -> None:
    """What the live database was given, the copy gets, exactly; and it goes when it is gone."""
    (fresh,) = read_properties(session, "copy")
    for statement in statements:
        sql(pg.SQL(statement))
    assert not alike(session)

    assert carry(session) == []
    assert alike(session)

    (given_,) = read_properties(session, "copy")
    assert apply_properties(session, fresh, given_, "copy") == []
    assert read_properties(session, "copy") == [fresh]


@pytest.mark.usefixtures("roles")
def test_nothing_to_do(session: Session, sql: RunSql) -> None:
    """What is equal already is not touched: nothing is written to the catalog."""
    for name in ("foreign grantor", "search path", "setting of a role"):
        for statement in CASES[name]:
            sql(pg.SQL(statement))
    carry(session)
    query = pg.SQL("SELECT xmin::text FROM pg_database WHERE datname = 'copy'")
    before = session.value(query)

    assert carry(session) == []
    assert session.value(query) == before


def test_dependent_grants_go_with_theirs(session: Session, roles: list[str], sql: RunSql) -> None:
    """A grant option that is taken away takes those with it that were made by it."""
    sql("GRANT CREATE ON DATABASE copy TO plain WITH GRANT OPTION")
    sql("SET ROLE plain; GRANT CREATE ON DATABASE copy TO PUBLIC")

    assert carry(session) == []
    assert alike(session)


def test_grant_option_alone_is_taken_away(session: Session, roles: list[str], sql: RunSql) -> None:
    """A privilege that may no longer be passed on stays as a privilege."""
    sql("GRANT CREATE ON DATABASE live TO plain")
    sql("GRANT CREATE ON DATABASE copy TO plain WITH GRANT OPTION")

    assert carry(session) == []
    assert alike(session)


def test_grants_follow_a_new_owner(session: Session, roles: list[str], sql: RunSql) -> None:
    """What the old owner granted is the new owner's to have granted."""
    sql("REVOKE CONNECT ON DATABASE live FROM PUBLIC")
    sql("ALTER DATABASE live OWNER TO plain")
    sql("GRANT TEMPORARY ON DATABASE copy TO plain")

    assert carry(session) == []
    assert alike(session)


def test_role_of_a_setting_is_odd(session: Session, roles: list[str]) -> None:
    """Roles, databases and settings with odd names are carried over."""
    setting = pg.SQL("ALTER ROLE {} IN DATABASE live SET search_path TO {}, {}").format(
        pg.Identifier(ODD), pg.Literal("a'b"), pg.Literal('c\\"d')
    )
    session.execute(setting)
    session.execute(pg.SQL("GRANT CREATE ON DATABASE live TO {}").format(pg.Identifier(ODD)))

    assert carry(session) == []
    assert alike(session)
    assert read_properties(session, "copy")[0].settings == {
        (ODD, "search_path"): '''"a'b", "c\\""d"'''
    }


privileges = st.sampled_from(["CREATE", "CONNECT", "TEMPORARY"])
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
names = texts.filter(bool).map(lambda text: text.encode()[:63].decode(errors="ignore"))
changes = st.one_of(
    st.tuples(st.just("own"), st.sampled_from([*ROLES, SUPERUSER])),
    st.tuples(st.just("grant"), privileges, st.sampled_from([*ROLES, None]), st.booleans()),
    st.tuples(st.just("regrant"), privileges, st.sampled_from(ROLES)),
    st.tuples(st.just("revoke"), privileges, st.sampled_from([*ROLES, None])),
    st.tuples(st.just("set"), st.sampled_from([*ROLES, None]), st.just("my.setting"), texts),
    st.tuples(
        st.just("path"),
        st.sampled_from([*ROLES, None]),
        st.lists(names.filter(bool), min_size=1, max_size=3),
    ),
    st.tuples(st.just("reset"), st.sampled_from([*ROLES, None])),
)


def change(session: Session, database: str, what: tuple[Any, ...]) -> None:
    """Change one thing about a database, unless the server refuses, which it may."""
    try:
        session.execute(statement_of(database, what))
    except (
        psycopg.errors.InvalidGrantOperation,
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.DependentObjectsStillExist,
    ):
        session.execute(pg.SQL("RESET ROLE"))


def statement_of(database: str, what: tuple[Any, ...]) -> pg.Composed:
    kind, *details = what
    return STATEMENTS[kind](pg.Identifier(database), *details)


def own(name: pg.Identifier, role: str) -> pg.Composed:
    return pg.SQL("ALTER DATABASE {} OWNER TO {}").format(name, pg.Identifier(role))


def grant(name: pg.Identifier, privilege: str, grantee: str | None, option: bool) -> pg.Composed:
    return pg.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
        pg.SQL(privilege),
        name,
        to(grantee),
        pg.SQL(" WITH GRANT OPTION" * (option and bool(grantee))),
    )


def regrant(name: pg.Identifier, privilege: str, grantor: str) -> pg.Composed:
    return pg.SQL("SET LOCAL ROLE {}; GRANT {} ON DATABASE {} TO PUBLIC").format(
        pg.Identifier(grantor), pg.SQL(privilege), name
    )


def revoke(name: pg.Identifier, privilege: str, grantee: str | None) -> pg.Composed:
    return pg.SQL("REVOKE {} ON DATABASE {} FROM {} CASCADE").format(
        pg.SQL(privilege), name, to(grantee)
    )


def set_own(name: pg.Identifier, role: str | None, key: str, value: str) -> pg.Composed:
    return pg.SQL("{} SET {} TO {}").format(
        scope(name, role), pg.Identifier(key), pg.Literal(value)
    )


def set_path(name: pg.Identifier, role: str | None, schemas: list[str]) -> pg.Composed:
    return pg.SQL("{} SET search_path TO {}").format(
        scope(name, role), pg.SQL(", ").join(map(pg.Literal, schemas))
    )


def reset(name: pg.Identifier, role: str | None) -> pg.Composed:
    return pg.SQL("{} RESET ALL").format(scope(name, role))


STATEMENTS: dict[str, Callable[..., pg.Composed]] = {
    "own": own,
    "grant": grant,
    "regrant": regrant,
    "revoke": revoke,
    "set": set_own,
    "path": set_path,
    "reset": reset,
}


def to(grantee: str | None) -> pg.Composable:
    return pg.SQL("PUBLIC") if grantee is None else pg.Identifier(grantee)


def scope(name: pg.Identifier, role: str | None) -> pg.Composed:
    if role is None:
        return pg.SQL("ALTER DATABASE {}").format(name)
    return pg.SQL("ALTER ROLE {} IN DATABASE {}").format(pg.Identifier(role), name)


@settings(max_examples=25)
@given(
    live=st.lists(changes, max_size=6),
    copy=st.lists(changes, max_size=6),
)
@example(live=[("path", None, ["", '"', "a,b", "\\"])], copy=[("path", ODD, [" "])])
@example(
    live=[("own", "plain"), ("grant", "CREATE", ODD, True), ("regrant", "CREATE", ODD)],
    copy=[("own", ODD), ("grant", "CREATE", "plain", True), ("regrant", "CREATE", "plain")],
)
def test_anything_is_carried(
    live: list[tuple[Any, ...]],
    copy: list[tuple[Any, ...]],
    session: Session,
    role: MakeRole,
    sql: RunSql,
) -> None:
    """Whatever was done to either database, afterwards they are equal; once more does nothing."""
    if not sql("SELECT 1 FROM pg_roles WHERE rolname = 'plain'"):
        for name in ROLES:
            role(name)
    for database, steps in (("live", live), ("copy", copy)):
        for step in steps:
            change(session, database, step)

    assert carry(session) == []
    assert alike(session)
    assert carry(session) == []


def test_ordinary_owner(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """What the owner of both databases may set, it sets, without being a superuser."""
    role()
    role("plain")
    for database in ("live", "copy"):
        sql(pg.SQL("ALTER DATABASE {} OWNER TO ordinary").format(pg.Identifier(database)))
    for name in ("grant", "revoke", "setting", "search path"):
        for statement in CASES[name]:
            sql(pg.SQL(statement))

    assert carry(session_as("ordinary")) == []
    assert alike(session)


def test_foreign_grant_of_an_ordinary_role(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """A grant that another role made is reported with its statement, which a superuser can run."""
    role()
    role("plain")
    for database in ("live", "copy"):
        sql(pg.SQL("ALTER DATABASE {} OWNER TO ordinary").format(pg.Identifier(database)))
    for statement in CASES["foreign grantor"]:
        sql(pg.SQL(statement))

    (shortfall,) = carry(session_as("ordinary"))

    assert shortfall.values == {
        "statement": 'SET LOCAL ROLE "plain"; GRANT CREATE ON DATABASE "copy" TO PUBLIC',
        "cause": 'permission denied to set role "plain"',
    }
    assert not alike(session)
    session.execute(pg.SQL(str(shortfall.values["statement"])))
    assert alike(session)


@pytest.mark.parametrize(
    "options",
    ["CREATEDB", pytest.param("CREATEDB CREATEROLE", marks=pytest.mark.pg(">= 16"))],
)
def test_setting_of_another_role(
    options: str, role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """The settings of another role are reported, with the statement that sets them."""
    give_a_role_its_setting(role, sql, options)

    (shortfall,) = carry(session_as("ordinary"))

    assert shortfall.values["statement"] == (
        """ALTER ROLE "plain" IN DATABASE "copy" SET "work_mem" TO '7MB'"""
    )
    assert shortfall == (
        f"Not carried over: {shortfall.values['statement']} ({shortfall.values['cause']}). "
        "A superuser can run it afterwards."
    )
    assert shortfall.values["cause"] in {"permission denied", "permission denied to alter role"}
    session.execute(pg.SQL(str(shortfall.values["statement"])))
    assert alike(session)


@pytest.mark.pg("< 16")
def test_setting_of_another_role_before_16(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """Before 16 a role with CREATEROLE may set another's."""
    give_a_role_its_setting(role, sql, "CREATEDB CREATEROLE")

    assert carry(session_as("ordinary")) == []
    assert alike(session)


def give_a_role_its_setting(role: MakeRole, sql: RunSql, options: str) -> None:
    role(options=options)
    role("plain")
    for database in ("live", "copy"):
        sql(pg.SQL("ALTER DATABASE {} OWNER TO ordinary").format(pg.Identifier(database)))
    sql("ALTER ROLE plain IN DATABASE live SET work_mem = '7MB'")


def test_superusers_setting(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """A setting that only a superuser may make is reported, and the others are made."""
    role()
    for database in ("live", "copy"):
        sql(pg.SQL("ALTER DATABASE {} OWNER TO ordinary").format(pg.Identifier(database)))
    sql("ALTER DATABASE live SET log_statement = 'none'")
    sql("ALTER DATABASE live SET work_mem = '7MB'")

    (shortfall,) = carry(session_as("ordinary"))

    assert (
        shortfall.values["statement"] == """ALTER DATABASE "copy" SET "log_statement" TO 'none'"""
    )
    assert shortfall.values["cause"] == 'permission denied to set parameter "log_statement"'
    assert read_properties(session, "copy")[0].settings == {(None, "work_mem"): "7MB"}


def test_values_of_custom_settings_are_not_told(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """Projects keep secrets in settings of their own, so warnings and logs leave the value out."""
    give_a_role_its_setting(role, sql, "CREATEDB")
    sql("ALTER ROLE plain IN DATABASE live RESET work_mem")
    sql("ALTER ROLE plain IN DATABASE live SET app.jwt_secret = 'hunter2\n'' TO \"x.y\" TO z'")

    (shortfall,) = carry(session_as("ordinary"))

    assert shortfall.values["statement"] == (
        """ALTER ROLE "plain" IN DATABASE "copy" SET "app.jwt_secret" TO '…'"""
    )
    assert "hunter2" not in shortfall


def test_owner_that_may_not_be_given(
    role: MakeRole, session: Session, session_as: SessionAs, sql: RunSql
) -> None:
    """An owner that our role may not give is reported."""
    role()
    sql("ALTER DATABASE copy OWNER TO ordinary")

    shortfalls = carry(session_as("ordinary"))

    assert shortfalls[0].values["statement"] == 'ALTER DATABASE "copy" OWNER TO "postgres"'
    assert "postgres" in str(shortfalls[0].values["cause"])


def test_lost_connection(session: Session, session_as: SessionAs, sql: RunSql) -> None:
    """A connection that is lost meanwhile is no shortfall."""
    sql("ALTER DATABASE live SET work_mem = '7MB'")
    wanted, present = read_properties(session, "live", "copy")
    other = session_as()
    sql("SELECT pg_terminate_backend(%s, 5000)", [other.pid])

    with pytest.raises(psycopg.OperationalError):
        apply_properties(other, wanted, present, "copy")


def test_security_labels(session: Session) -> None:
    """Labels are put on by provider; one that the server does not know is reported."""
    (present,) = read_properties(session, "copy")
    labelled = replace(present, labels={"selinux": "it's secret"})

    put_on = apply_properties(session, labelled, present, "copy")
    taken_off = apply_properties(session, present, labelled, "copy")
    unchanged = apply_properties(session, labelled, labelled, "copy")

    assert [each.values["statement"] for each in put_on] == [
        """SECURITY LABEL FOR "selinux" ON DATABASE "copy" IS 'it''s secret'"""
    ]
    assert [each.values["statement"] for each in taken_off] == [
        """SECURITY LABEL FOR "selinux" ON DATABASE "copy" IS NULL"""
    ]
    assert unchanged == []
    assert put_on[0].values["cause"] == 'security label provider "selinux" is not loaded'
