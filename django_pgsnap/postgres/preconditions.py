"""What a take or a restore needs: nothing attached, a collation that stands, and privileges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from ..errors import MissingRightError, ObstacleError
from ..messages import join_messages, message
from .session import Session

# A subscription's worker reconnects at once and keeps the database busy. A slot belongs to the
# database by oid: it would move to the undo, and vanish with it. A prepared transaction makes
# CREATE DATABASE … TEMPLATE fail. This is asked in each restore, and the functions take a new
# session half the time that the views of slots and prepared transactions take it.
_OBSTACLES: Final = sql.SQL(
    "SELECT kind, name, CASE kind WHEN 'subscription' THEN quote_ident(name)"
    " ELSE quote_literal(name) END, d.datname"
    " FROM (SELECT 'subscription', subname::text, subdbid FROM pg_subscription"
    " UNION ALL SELECT 'slot', slot_name::text, datoid FROM pg_get_replication_slots()"
    " UNION ALL SELECT 'prepared', gid, dbid FROM pg_prepared_xact()) o (kind, name, oid)"
    " JOIN pg_database d USING (oid) WHERE d.datname = ANY(%(names)s) ORDER BY kind, name"
)
_WORDS: Final = {
    "subscription": (
        message("the subscription {name!r} of {database!r}"),
        message("drop it (DROP SUBSCRIPTION {quoted}) in {database!r}"),
    ),
    "slot": (
        message("the logical replication slot {name!r} of {database!r}"),
        message("run SELECT pg_drop_replication_slot({quoted})"),
    ),
    "prepared": (
        message("the prepared transaction {name!r} of {database!r}"),
        message("run COMMIT PREPARED or ROLLBACK PREPARED {quoted} in {database!r}"),
    ),
}


def check_nothing_attached(session: Session, databases: Sequence[str]) -> None:
    """Refuse to go on where something is attached to one of these live databases.

    Raises:
        ObstacleError: Names each subscription, logical slot and prepared transaction.
    """
    found = session.rows(_OBSTACLES, {"names": list(databases)})
    if not found:
        return
    causes, remedies = [], []
    for kind, name, quoted, database in found:
        what, remedy = _WORDS[kind]
        causes.append(message(what, name=name, database=database))
        remedies.append(message(remedy, quoted=quoted, database=database))
    raise ObstacleError(
        "A copy or a restore would break {causes}.",
        hint="First, {remedies}.",
        causes=join_messages(", ", causes),
        remedies=join_messages("; ", remedies),
    )


_COLLATION: Final = sql.SQL(
    "SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database"
    " WHERE datname = %s AND datcollversion IS DISTINCT FROM"
    " pg_database_collation_actual_version(oid) AND datcollversion IS NOT NULL"
)


def check_collation(session: Session, database: str) -> None:
    """Refuse a source that the server would refuse, since its collation has changed.

    Raises:
        ObstacleError: The operating system's collation is newer than the database's indexes.
    """
    rows = session.rows(_COLLATION, [database])
    if rows:
        ((recorded, actual),) = rows
        quoted = sql.Identifier(database).as_string(None)
        raise ObstacleError(
            "The database {database!r} was built with collation version {recorded}, but the "
            "system now has {actual}; the server refuses to copy it.",
            hint="Rebuild its indexes where you can (REINDEX DATABASE), then run: ALTER "
            "DATABASE {quoted} REFRESH COLLATION VERSION;",
            database=database,
            recorded=recorded,
            actual=actual or message("none that can be told"),
            quoted=quoted,
        )


# CREATE DATABASE … TEMPLATE and RENAME want the owner's privileges (pg_has_role's USAGE), OWNER
# wants to be able to become the owner: SET since PostgreSQL 16, MEMBER before (manual, "Role
# Membership").
_RIGHTS: Final = sql.SQL(
    "SELECT d.datname, quote_ident(me.rolname), quote_ident(pg_get_userbyid(d.datdba)),"
    " me.rolsuper OR me.rolcreatedb, pg_has_role(d.datdba, 'USAGE'),"
    " pg_has_role(d.datdba, CASE WHEN %(has_set)s THEN 'SET' ELSE 'MEMBER' END)"
    " FROM pg_database d, pg_roles me"
    " WHERE d.datname = ANY(%(names)s) AND me.rolname = current_user"
)
_HAS_SET_SINCE: Final = 160000


def check_privileges(session: Session, databases: Sequence[str]) -> None:
    """Refuse early where the role lacks a right that a copy or a swap needs.

    Raises:
        MissingRightError: Names the right, and the statement that grants it.
    """
    has_set = session.server_version >= _HAS_SET_SINCE
    parameters = {"names": list(databases), "has_set": has_set}
    for database, me, owner, may_create, may_act, may_become in session.rows(_RIGHTS, parameters):
        if not may_create:
            raise MissingRightError(
                "The role {me} may not create databases, so it cannot copy {database!r}.",
                hint="Let a superuser run: ALTER ROLE {me} CREATEDB;",
                me=me,
                database=database,
            )
        if not (may_act and may_become):
            grant = f"GRANT {owner} TO {me}"
            more = " WITH INHERIT TRUE, SET TRUE;" if has_set else f"; ALTER ROLE {me} INHERIT;"
            raise MissingRightError(
                "The role {me} neither owns the database {database!r} nor has all rights of "
                "its owner {owner}.",
                hint="Let a superuser run: {grant}{more}",
                me=me,
                database=database,
                owner=owner,
                grant=grant,
                more=more,
            )
