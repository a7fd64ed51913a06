"""Whether our role may copy and replace a live database, and which statement would let it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from .errors import MissingRightError
from .session import Session

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


def check(session: Session, databases: Sequence[str]) -> None:
    """Refuse early where the role lacks a right that a copy or a swap needs.

    Raises:
        MissingRightError: Names the right, and the statement that grants it.
    """
    has_set = session.server_version >= _HAS_SET_SINCE
    parameters = {"names": list(databases), "has_set": has_set}
    for database, me, owner, may_create, may_act, may_become in session.rows(_RIGHTS, parameters):
        if not may_create:
            raise _may_not_create(me, database)
        if not (may_act and may_become):
            raise _may_not_act(me, owner, database, has_set=has_set)


def _may_not_create(me: str, database: str) -> MissingRightError:
    return MissingRightError(
        f"The role {me} may not create databases, so it cannot copy {database!r}.",
        hint=f"Let a superuser run: ALTER ROLE {me} CREATEDB;",
    )


def _may_not_act(me: str, owner: str, database: str, *, has_set: bool) -> MissingRightError:
    grant = (
        f"GRANT {owner} TO {me} WITH INHERIT TRUE, SET TRUE;"
        if has_set
        else f"GRANT {owner} TO {me}; ALTER ROLE {me} INHERIT;"
    )
    return MissingRightError(
        f"The role {me} neither owns the database {database!r} nor has all rights of its "
        f"owner {owner}.",
        hint=f"Let a superuser run: {grant}",
    )
