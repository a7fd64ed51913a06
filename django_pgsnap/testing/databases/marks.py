"""The mark on a test database: a comment that says which run's it is, and of what state.

It is written in the transaction that gives the database its name, so a killed run leaves nothing
behind that would not be known. As with copies, a comment alone proves little: the database must
also be our own role's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from psycopg import sql

from ...clones.transitions import comment_on_database
from ...postgres.session import Query, Session

_VERSION_KEY: Final = "pgsnap_test"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a test database knows of itself.

    Attributes:
        database: Its name; another one means that the comment was carried over.
        source: Name of the database that its alias leads to outside of tests.
        fingerprint: What it was migrated from; empty as long as it is not complete.
        kept: Whether its run was told to keep it.
    """

    database: str
    source: str
    fingerprint: str
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """A database that is there under a test database's name.

    Attributes:
        name: Its name.
        mark: Its mark; None means that it is not ours.
        broken: Whether a DROP of it was interrupted, after which it can only be dropped.
    """

    name: str
    mark: Mark | None
    broken: bool


_DATABASES: Final = sql.SQL(
    "SELECT datname, shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba) = current_user,"
    " datconnlimit = -2"
    " FROM pg_database WHERE datname = coalesce(%s, datname) ORDER BY oid"
)


def encode(mark: Mark) -> str:
    """Return the comment that says what the mark says."""
    return json.dumps({_VERSION_KEY: _VERSION, **asdict(mark)}, ensure_ascii=False)


def write(mark: Mark) -> Query:
    """Return the statement that marks a database."""
    return comment_on_database(mark.database, encode(mark))


def find(session: Session, name: str) -> Found | None:
    """Return the database of this name, None if there is none."""
    for database, comment, is_ours, broken in session.rows(_DATABASES, [name]):
        mark = _decode(database, comment) if is_ours else None
        return Found(name=database, mark=mark, broken=broken)
    return None


def every(session: Session) -> list[Mark]:
    """Return the marks of all test databases of our role."""
    rows = session.rows(_DATABASES, [None])
    found = [_decode(name, comment) for name, comment, is_ours, _ in rows if is_ours]
    return [mark for mark in found if mark is not None]


def _decode(name: str, comment: str | None) -> Mark | None:
    try:
        data = json.loads(comment or "")
        if data.pop(_VERSION_KEY) != _VERSION:
            return None
        mark = Mark(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return mark if mark.database == name else None
