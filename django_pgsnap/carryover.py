"""Carrying over: what one database is set up with is put on another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from .properties import Privilege, Properties, Setting, read
from .session import Query, Session


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A property that could not be put on: the statement that would, and why it failed."""

    statement: str
    cause: str

    def __str__(self) -> str:
        return (
            f"Not carried over: {self.statement} ({self.cause}). A superuser can run it afterwards."
        )


def put(
    session: Session, wanted: Properties, present: Properties, database: str
) -> list[Shortfall]:
    """Make owner, privileges, settings and labels of a closed database those that are wanted.

    Connection limit, template flag and comment are left alone: they say what stage a copy is at,
    and change in the transaction that opens it.

    Args:
        session: A maintenance session.
        wanted: What the database shall be set up with.
        present: What it is set up with now.
        database: Its name.

    Returns:
        What our role may not set, with the statement that a superuser can run.
    """
    shortfalls: list[Shortfall] = []
    if present.owner != wanted.owner:
        shortfalls += _run(session, [_owner(wanted.owner, database)])
        # A new owner takes the old one's place in the privileges.
        (present,) = read(session, database)
    return shortfalls + _run(session, _changes(present, wanted, database))


def _run(session: Session, statements: Iterable[Query]) -> list[Shortfall]:
    shortfalls = []
    for statement in statements:
        try:
            session.execute(statement)
        except psycopg.Error as error:
            if session.broken:
                raise
            cause = error.diag.message_primary or str(error)
            shortfalls.append(Shortfall(statement=statement.as_string(None), cause=cause))
    return shortfalls


def _changes(present: Properties, wanted: Properties, database: str) -> Iterator[Query]:
    for privilege in sorted(present.privileges - wanted.privileges, key=_owner_last(present)):
        yield _as_grantor(privilege, present, _revoke(privilege, database))
    for privilege in sorted(wanted.privileges - present.privileges, key=_owner_first(wanted)):
        yield _as_grantor(privilege, wanted, _grant(privilege, database))
    for setting in sorted(present.settings.keys() - wanted.settings.keys(), key=str):
        yield _reset(setting, database)
    for setting, value in wanted.settings.items():
        if present.settings.get(setting) != value:
            yield _set(setting, value, database)
    for provider in present.labels.keys() - wanted.labels.keys():
        yield _label(provider, None, database)
    for provider, label in wanted.labels.items():
        if present.labels.get(provider) != label:
            yield _label(provider, label, database)


def _owner(owner: str, database: str) -> Query:
    return sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
        sql.Identifier(database), sql.Identifier(owner)
    )


def _grant(privilege: Privilege, database: str) -> Query:
    option = " WITH GRANT OPTION" if privilege.grantable else ""
    return sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
        sql.SQL(_PRIVILEGE_NAMES[privilege.privilege]),
        sql.Identifier(database),
        _grantee(privilege),
        sql.SQL(option),
    )


def _revoke(privilege: Privilege, database: str) -> Query:
    return sql.SQL("REVOKE {} ON DATABASE {} FROM {} CASCADE").format(
        sql.SQL(_PRIVILEGE_NAMES[privilege.privilege]),
        sql.Identifier(database),
        _grantee(privilege),
    )


def _grantee(privilege: Privilege) -> sql.Composable:
    return sql.SQL("PUBLIC") if privilege.grantee is None else sql.Identifier(privilege.grantee)


def _as_grantor(privilege: Privilege, properties: Properties, statement: Query) -> Query:
    """Have the statement run as its grantor, if that is not the owner.

    GRANTED BY takes nobody but the current role (manual, GRANT). SET LOCAL ends with the
    transaction, which is the message.
    """
    if privilege.grantor == properties.owner:
        return statement
    return sql.SQL("SET LOCAL ROLE {}; {}").format(sql.Identifier(privilege.grantor), statement)


def _owner_first(properties: Properties) -> Callable[[Privilege], tuple[bool, str]]:
    """Order so that a grant option is there before its holder's own grants are made."""
    return lambda privilege: (privilege.grantor != properties.owner, str(privilege))


def _owner_last(properties: Properties) -> Callable[[Privilege], tuple[bool, str]]:
    return lambda privilege: (privilege.grantor == properties.owner, str(privilege))


def _set(setting: Setting, value: str, database: str) -> Query:
    role, name = setting
    return sql.SQL("{} SET {} TO {}").format(
        _settable(role, database), sql.Identifier(name), _setting_value(name, value)
    )


def _reset(setting: Setting, database: str) -> Query:
    role, name = setting
    return sql.SQL("{} RESET {}").format(_settable(role, database), sql.Identifier(name))


def _settable(role: str | None, database: str) -> Query:
    if role is None:
        return sql.SQL("ALTER DATABASE {}").format(sql.Identifier(database))
    return sql.SQL("ALTER ROLE {} IN DATABASE {}").format(
        sql.Identifier(role), sql.Identifier(database)
    )


def _setting_value(name: str, value: str) -> sql.Composable:
    if name not in _QUOTED_LISTS:
        return sql.Literal(value)
    items = _QUOTED_ITEM.findall(value)
    return sql.SQL(", ").join(
        sql.Literal(quoted.replace('""', '"') if quoted else plain)
        for quoted, plain in items or [("", "")]
    )


def _label(provider: str, label: str | None, database: str) -> Query:
    return sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}").format(
        sql.Identifier(provider), sql.Identifier(database), sql.Literal(label)
    )


# Settings whose elements the server stores quoted as identifiers. They must be given back one by
# one: a whole list as one literal would become a single element (pg_dump has the same table, in
# variable_is_guc_list_quote).
_QUOTED_LISTS: Final = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)
_QUOTED_ITEM: Final = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')

# Nothing from the server becomes part of a statement unless it is in here.
_PRIVILEGE_NAMES: Final = {"CREATE": "CREATE", "CONNECT": "CONNECT", "TEMPORARY": "TEMPORARY"}
