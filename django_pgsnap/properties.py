"""What a database is set up with, beside its data.

``CREATE DATABASE … TEMPLATE`` copies none of it: owner, privileges, settings, connection limit,
comment and security labels (manual, CREATE DATABASE, notes). They are the environment of the data
rather than data, so a restored database gets those that the live one has at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import sql

from .session import Query, Session

# A setting of one database: for one role, or for all of them (None).
Setting = tuple[str | None, str]


@dataclass(frozen=True, kw_only=True)
class Privilege:
    """One entry of a database's access control list; ``grantee`` is None for PUBLIC."""

    grantor: str
    grantee: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True, kw_only=True)
class Properties:
    """What a database is set up with.

    Attributes:
        owner: Name of the owning role.
        privileges: The access control list, defaults included.
        settings: Values by role and name, as ``ALTER DATABASE`` and ``ALTER ROLE … IN DATABASE``
            set them.
        connection_limit: How many sessions it takes, -1 for any number.
        is_template: Whether any role with CREATEDB may clone it.
        comment: Its comment, None without one.
        labels: Security labels by provider.
        digest: Another number once the server has anything else of all this; None if not known.
    """

    owner: str
    privileges: frozenset[Privilege]
    settings: Mapping[Setting, str]
    connection_limit: int
    is_template: bool
    comment: str | None
    labels: Mapping[str, str]
    digest: int | None = field(default=None, compare=False)

    def is_still_that_of(self, database: str) -> Query:
        """Return the condition that a database has, and will have, the properties that were read.

        It is for a transaction that has locked the database's entry in the catalog.
        """
        return sql.SQL(
            "EXISTS (SELECT FROM pg_database d WHERE datname = {} AND {} = {}) AND {}"
        ).format(sql.Literal(database), _DIGEST, sql.Literal(self.digest), _NOBODY_IS_SETTING)


def read(session: Session, *databases: str) -> list[Properties]:
    """Return what databases are set up with, in their order; each must exist."""
    # With the digest first, no change can escape it.
    found, *lists = session.rows_of([_DATABASE, _PRIVILEGES, _SETTINGS, _LABELS], [list(databases)])
    basics = {row[0]: row[1:] for row in found}
    privileges, settings, labels = map(_by_database, lists)
    return [
        Properties(
            owner=basics[name][0],
            connection_limit=basics[name][1],
            is_template=basics[name][2],
            comment=basics[name][3],
            privileges=frozenset(
                Privilege(
                    grantor=grantor, grantee=grantee, privilege=privilege, grantable=grantable
                )
                for grantor, grantee, privilege, grantable in privileges.get(name, ())
            ),
            settings={(role, key): value for role, key, value in settings.get(name, ())},
            labels=dict(labels.get(name, ())),
            digest=basics[name][4],
        )
        for name in databases
    ]


def are_settled(session: Session) -> bool:
    """Tell whether nobody has settings of a database in a transaction that is still open."""
    return bool(session.value(sql.SQL("SELECT {}").format(_NOBODY_IS_SETTING)))


def _by_database(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for name, *rest in rows:
        groups.setdefault(name, []).append(tuple(rest))
    return groups


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
_DATABASE: Final = sql.SQL(
    "SELECT datname, pg_get_userbyid(datdba), datconnlimit, datistemplate,"
    " shobj_description(oid, 'pg_database'), {} FROM pg_database d WHERE datname = ANY(%s)"
).format(_DIGEST)
_PRIVILEGES: Final = sql.SQL(
    "SELECT d.datname, pg_get_userbyid(a.grantor),"
    " CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,"
    " a.privilege_type, a.is_grantable"
    " FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a"
    " WHERE d.datname = ANY(%s)"
)
_SETTINGS: Final = sql.SQL(
    "SELECT d.datname, CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END,"
    " split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)"
    " FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c"
    " WHERE d.datname = ANY(%s)"
)
_LABELS: Final = sql.SQL(
    "SELECT d.datname, l.provider, l.label FROM pg_shseclabel l"
    " JOIN pg_database d ON d.oid = l.objoid"
    " WHERE l.classoid = 'pg_database'::regclass AND d.datname = ANY(%s)"
)
