"""Test databases and their templates: which there are, which are kept, and how the others go.

The comment on a test database says whose run it belongs to, and which state it is in. It is written
in the transaction that gives the database its name, so that a later run can tell what a killed one
left. A comment alone proves little: the database must be our own role's.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

import psycopg
from psycopg import sql

from ..conf import config
from ..postgres.advisory_locks import lock_if_free
from ..postgres.session import Query, Session
from .catalog import Catalog, load_catalog
from .names import to_drop_name
from .records import TemplateRecord
from .transitions import comment_on_database, drop_database, unpublish

_VERSION_KEY: Final = "pgsnap_test"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class TestDatabaseComment:
    database: str  # the database's name. A comment with another name came along with a rename.
    source: str  # name of the database that its alias leads to outside of tests
    complete: bool
    kept: bool
    # What it was made from, sealed; empty where it is not kept, or nothing was noted.
    recording: str = ""

    # pytest takes classes for tests by their names.
    __test__: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class FoundDatabase:
    """A database that is there under a test database's name."""

    comment: TestDatabaseComment | None
    broken: bool  # whether a DROP of it was interrupted, after which it can only be dropped


_DATABASES: Final = sql.SQL(
    # Others' comments would only take time and memory.
    "SELECT datname, CASE WHEN pg_get_userbyid(datdba) = current_user"
    " THEN shobj_description(oid, 'pg_database') END, datconnlimit = -2"
    " FROM pg_database WHERE datname = coalesce(%s, datname) ORDER BY oid"
)


def encode_comment(comment: TestDatabaseComment) -> str:
    return json.dumps({_VERSION_KEY: _VERSION, **asdict(comment)}, ensure_ascii=False)


def write_comment(comment: TestDatabaseComment) -> Query:
    return comment_on_database(comment.database, encode_comment(comment))


def find_database(session: Session, name: str) -> FoundDatabase | None:
    """Return the database of this name, None if there is none."""
    for _, text, broken in session.rows(_DATABASES, [name]):
        return FoundDatabase(comment=_decode(name, text), broken=broken)
    return None


def list_comments(session: Session) -> list[TestDatabaseComment]:
    """Return the comments on all test databases of our role."""
    rows = session.rows(_DATABASES, [None])
    return [found for name, text, _ in rows if (found := _decode(name, text)) is not None]


def run_lock_key(name: str) -> str:
    """Return what the lock of a test database is called; operations on it have its own name."""
    return f"test run on {name}"


def _decode(name: str, text: str | None) -> TestDatabaseComment | None:
    try:
        data = json.loads(text or "")
        if data.pop(_VERSION_KEY) != _VERSION:
            return None
        comment = TestDatabaseComment(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return comment if comment.database == name else None


def prune_templates(session: Session, source: str) -> list[str]:
    """Drop the templates of a live database that are too old, or more than shall be kept."""
    unwanted = find_superfluous_templates(load_catalog(session), source)
    return [record.database for record in unwanted if drop_template(session, record)]


def find_superfluous_templates(present: Catalog, source: str) -> list[TemplateRecord]:
    """Return the templates of a live database that are too old, or more than shall be kept."""
    found = [database.record for database in present.templates([source])]
    kept: Counter[str] = Counter()
    unwanted = []
    for record in sorted(found, key=lambda record: record.used_at, reverse=True):
        # Those made of a development snapshot have its name, and count by themselves.
        kept[record.name] += 1
        if kept[record.name] > config().test.keep or not is_fresh_template(record):
            unwanted.append(record)
    return unwanted


def drop_template(session: Session, record: TemplateRecord) -> bool:
    """Drop a template unless a run uses it, and tell whether it is gone."""
    with lock_if_free(session, record.database) as is_ours:
        if is_ours:
            # Another run may be quicker, or clone it at this moment.
            with suppress(psycopg.errors.InvalidCatalogName, psycopg.errors.ObjectInUse):
                session.execute(unpublish(record))
                session.execute(drop_database(to_drop_name(record.identity)))
                return True
    return False


def is_fresh_template(record: TemplateRecord) -> bool:
    """Tell whether a template is young enough to be used."""
    age = datetime.now(UTC) - record.taken_at
    return timedelta() <= age <= timedelta(seconds=config().test.max_age_s)
