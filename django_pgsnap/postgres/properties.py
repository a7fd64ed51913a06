"""Properties of databases: owner, privileges, settings, connection limit, comment and labels.

``CREATE DATABASE … TEMPLATE`` copies none of them (manual, CREATE DATABASE, notes). They are the
environment of the data rather than data, so a restored database gets those that the live one has at
that moment.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from ..messages import Message, message
from .session import Query, Session


class Privilege(NamedTuple):
    """One entry of a database's access control list."""

    grantor: str
    grantee: str | None  # None for PUBLIC
    privilege: str
    grantable: bool


@dataclass(frozen=True, kw_only=True)
class Properties:
    """What a database is set up with."""

    owner: str
    privileges: frozenset[Privilege]  # the access control list, defaults included
    # Values by role and name, as ``ALTER DATABASE`` (without a role) and ``ALTER ROLE … IN
    # DATABASE`` set them.
    settings: Mapping[tuple[str | None, str], str]
    connection_limit: int  # how many sessions it takes, -1 for any number
    is_template: bool
    comment: str | None
    labels: Mapping[str, str]  # security labels by provider
    # Changes whenever any of these changes on the server; None if not known.
    digest: int | None = field(default=None, compare=False)

    def is_still_that_of(self, database: str) -> Query:
        """Return the condition that a database still has, and will have, these properties.

        The transaction that uses it must have locked the database's catalog entry.
        """
        condition = sql.SQL(
            "EXISTS (SELECT FROM pg_database d WHERE datname = {} AND {} = {}) AND {}"
        )
        return condition.format(database, _DIGEST, self.digest, _NOBODY_IS_SETTING)


def read_properties(session: Session, *databases: str) -> list[Properties]:
    """Return what databases are set up with, in their order; each must exist."""
    found = {
        name: Properties(
            privileges=frozenset(
                Privilege(grantor, grantee, kind, option == "true")
                for grantor, grantee, kind, option in privileges
            ),
            # Here, since the server takes no text apart that is in another encoding than its own.
            settings={
                (role, key): value
                for role, setting in settings
                for key, _, value in [setting.partition("=")]
            },
            labels=dict(labels),
            **dict(zip(_PLAIN, plain, strict=True)),
        )
        for name, privileges, settings, labels, *plain in session.rows(
            _PROPERTIES, [list(databases)]
        )
    }
    return [found[name] for name in databases]


def are_settings_committed(session: Session) -> bool:
    """Tell whether no open transaction of another session has changed settings of a database."""
    return bool(session.value(sql.SQL("SELECT {}").format(_NOBODY_IS_SETTING)))


_DIGEST: Final = sql.SQL(
    "hashtextextended(ROW(d.datdba, d.datacl, d.datconnlimit, d.datistemplate,"
    " shobj_description(d.oid, 'pg_database'),"
    " ARRAY(SELECT ROW(setrole, setconfig)::text FROM pg_db_role_setting"
    " WHERE setdatabase = d.oid ORDER BY setrole),"
    " ARRAY(SELECT ROW(provider, label)::text FROM pg_shseclabel"
    " WHERE objoid = d.oid AND classoid = 'pg_database'::regclass ORDER BY provider))::text, 0)"
)
# ALTER DATABASE … SET keeps this lock until its transaction ends, and none on the database.
_NOBODY_IS_SETTING: Final = sql.SQL(
    "NOT EXISTS (SELECT FROM pg_lock_status() WHERE locktype = 'relation' AND granted"
    " AND relation = 'pg_db_role_setting'::regclass AND mode = 'RowExclusiveLock'"
    " AND pid <> pg_backend_pid())"
)
# The last columns of the query are these fields as they are.
_PLAIN: Final = ("owner", "connection_limit", "is_template", "comment", "digest")
_PROPERTIES: Final = sql.SQL(
    "SELECT d.datname, ARRAY(SELECT ARRAY[pg_get_userbyid(a.grantor)::text,"
    "   CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,"
    "   a.privilege_type, a.is_grantable::text]"
    "  FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a),"
    " ARRAY(SELECT ARRAY[CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole)::text END, c]"
    "  FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setdatabase = d.oid),"
    " ARRAY(SELECT ARRAY[l.provider, l.label] FROM pg_shseclabel l"
    "  WHERE l.objoid = d.oid AND l.classoid = 'pg_database'::regclass),"
    " pg_get_userbyid(d.datdba), d.datconnlimit, d.datistemplate,"
    " shobj_description(d.oid, 'pg_database'), {} FROM pg_database d WHERE d.datname = ANY(%s)"
).format(_DIGEST)


def apply_properties(
    session: Session,
    wanted: Properties,
    present: Properties,
    database: str,
    *,
    final_name: str | None = None,
) -> list[Message]:
    """Make owner, privileges, settings and labels of a closed database those that are wanted.

    Connection limit, template flag and comment are left alone: they say what stage a copy is at,
    and change in the transaction that opens it. Returned is what our role may not set, for a
    superuser who comes to read of it when the database has its final name.
    """
    unapplied: list[Message] = []
    final_name = final_name or database
    if present.owner != wanted.owner:
        change, owner = sql.SQL("ALTER DATABASE {} OWNER TO {}"), sql.Identifier(wanted.owner)
        changes = [[change.format(sql.Identifier(name), owner)] for name in (database, final_name)]
        unapplied += _run_each(session, *changes)
        # A new owner takes the old one's place in the privileges.
        (present,) = read_properties(session, database)
    return unapplied + _run_each(
        session,
        _property_changes(present, wanted, database),
        _property_changes(present, wanted, final_name),
    )


def mask_setting(name: str, value: str) -> str:
    """Return a setting's value, unless it is a custom one: projects keep secrets in those."""
    return "…" if "." in name else value


def _run_each(
    session: Session, statements: Iterable[Query], told: Iterable[Query]
) -> list[Message]:
    unapplied = []
    for statement, in_words in zip(statements, told, strict=True):
        try:
            session.execute(statement)
        except psycopg.Error as error:
            if session.broken:
                raise
            cause = error.diag.message_primary or str(error)
            shown = _CUSTOM_SETTING.sub(r"\1'…'", in_words.as_string(None))
            unapplied.append(
                message(
                    "Not carried over: {statement} ({cause}). A superuser can run it afterwards.",
                    statement=shown,
                    cause=cause,
                )
            )
    return unapplied


def _property_changes(present: Properties, wanted: Properties, database: str) -> Iterator[Query]:
    # A grant option is there before its holder's own grants are made, and until they are revoked.
    revoked = sorted(present.privileges - wanted.privileges, key=_owner_first(present))
    for privilege in reversed(revoked):
        revoke = "REVOKE {} ON DATABASE {} FROM {} CASCADE"
        yield _change_privilege(revoke, privilege, present.owner, database)
    for privilege in sorted(wanted.privileges - present.privileges, key=_owner_first(wanted)):
        grant = "GRANT {} ON DATABASE {} TO {}" + " WITH GRANT OPTION" * privilege.grantable
        yield _change_privilege(grant, privilege, wanted.owner, database)
    for role, name in sorted(present.settings.keys() - wanted.settings.keys(), key=str):
        yield sql.SQL("{} RESET {}").format(_settable(role, database), sql.Identifier(name))
    for (role, name), value in wanted.settings.items():
        if present.settings.get((role, name)) != value:
            yield sql.SQL("{} SET {} TO {}").format(
                _settable(role, database), sql.Identifier(name), _setting_value(name, value)
            )
    label = sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}")
    for provider in sorted(present.labels.keys() | wanted.labels.keys()):
        if present.labels.get(provider) != (now := wanted.labels.get(provider)):
            yield label.format(sql.Identifier(provider), sql.Identifier(database), now)


def _change_privilege(
    template: LiteralString, privilege: Privilege, owner: str, database: str
) -> Query:
    """Return the statement, run as its grantor if that is not the owner.

    GRANTED BY takes nobody but the current role (manual, GRANT). SET LOCAL ends with the
    transaction, which is the message.
    """
    grantor, grantee, kind, _ = privilege
    change = sql.SQL(template).format(
        sql.SQL(_PRIVILEGE_NAMES[kind]),
        sql.Identifier(database),
        sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
    )
    if grantor == owner:
        return change
    return sql.SQL("SET LOCAL ROLE {}; {}").format(sql.Identifier(grantor), change)


def _owner_first(properties: Properties) -> Callable[[Privilege], tuple[bool, str]]:
    return lambda privilege: (privilege.grantor != properties.owner, str(privilege))


def _settable(role: str | None, database: str) -> Query:
    if role is None:
        return sql.SQL("ALTER DATABASE {}").format(sql.Identifier(database))
    alter = sql.SQL("ALTER ROLE {} IN DATABASE {}")
    return alter.format(sql.Identifier(role), sql.Identifier(database))


def _setting_value(name: str, value: str) -> sql.Composable:
    if name not in _QUOTED_LISTS:
        return sql.Literal(value)
    items = _QUOTED_ITEM.findall(value)
    return sql.SQL(", ").join(
        sql.Literal(quoted.replace('""', '"') if quoted else plain)
        for quoted, plain in items or [("", "")]
    )


# Settings whose elements the server stores quoted as identifiers. They must be given back one by
# one: a whole list as one literal would become a single element (pg_dump has the same table, in
# variable_is_guc_list_quote).
_QUOTED_LISTS: Final = {
    *("local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"),
    *("search_path", "temp_tablespaces", "unix_socket_directories"),
}
_CUSTOM_SETTING: Final = re.compile(r'( SET "[^"]*\.[^"]*" TO ).*', re.DOTALL)
_QUOTED_ITEM: Final = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')

# Nothing from the server becomes part of a statement unless it is in here.
_PRIVILEGE_NAMES: Final = {"CREATE": "CREATE", "CONNECT": "CONNECT", "TEMPORARY": "TEMPORARY"}
