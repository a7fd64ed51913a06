"""Templates: migrated test databases, kept shut between runs and found by their fingerprint.

A template is published by its comment, in the transaction that gives it its name, so that it is
complete when it is there. It is built once, under a lock, however many processes ask for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import django
import psycopg
from psycopg import sql

from .. import catalog, cloning, locks, names, stages
from ..catalog import Catalog
from ..conf import test_config
from ..metadata import Files, Record
from ..session import Query, Session
from . import clones, opened
from .fingerprint import Fingerprint
from .ground import Ground
from .history import digest_of, todays_plan

_SHARE: Final = sql.SQL("SELECT pg_advisory_lock_shared(%s)")
_UNSHARE: Final = sql.SQL("SELECT pg_advisory_unlock_shared(%s)")
_SIZE: Final = sql.SQL("SELECT pg_database_size(%s)")


def database_name(fingerprint: Fingerprint) -> str:
    """Return the name of the template with this fingerprint."""
    return names.template_name(fingerprint.identity)


@contextmanager
def lock(
    session: Session, fingerprint: Fingerprint, tell: Callable[[str], object]
) -> Iterator[None]:
    """Look for a template, build it or clone it, while nobody else does."""
    key = f"building {database_name(fingerprint)}"
    if not locks.try_acquire(session, key):
        tell("Waiting for another test run, which migrates or clones the same...")
        locks.wait_for(session, key)
    try:
        yield
    finally:
        if not session.broken:
            locks.release(session, key)


def find(session: Session, fingerprint: Fingerprint) -> Record | None:
    """Return the template with this fingerprint, None if there is none or it is stale.

    It is in use from then on until the session ends, which keeps it from being dropped.
    """
    name = database_name(fingerprint)
    session.rows(_SHARE, [names.lock_key(name)])
    for database in catalog.load(session).templates():
        record = database.record
        if database.name == name and record is not None and _is_usable(record, fingerprint):
            return record
    session.rows(_UNSHARE, [names.lock_key(name)])
    return None


def nearest(session: Session, fingerprint: Fingerprint, source: str) -> Record | None:
    """Return the template that lacks the fewest of today's migrations, and nothing else."""
    plan = todays_plan()
    candidates = [
        record
        for record in _records(catalog.load(session), source)
        if record.environment == fingerprint.environment
        and 0 < record.history_length <= len(plan)
        and record.history == digest_of(plan[: record.history_length])
        and _is_usable(record, fingerprint)
    ]
    record = max(candidates, key=lambda record: record.history_length, default=None)
    if record is None:
        return None
    session.rows(_SHARE, [names.lock_key(record.database)])
    # Until we had our share, another run may have dropped it.
    return record if record.database in catalog.load(session) else None


def publish(
    session: Session,
    database: str,
    fingerprint: Fingerprint,
    *,
    alias: str,
    source: str,
    ancestor: Record | None,
    name: str = "template",
    files: Files = (),
) -> Record:
    """Keep the state of a migrated test database as a template.

    1. The test database is cloned, shut. If it stops here, the next run drops the clone.
    2. One transaction gives the clone its name and comment, and takes them from the template that
       was stale, if there is one.
    3. What is too old, or beyond the number to keep, is dropped, unless it is in use.
    """
    plan = todays_plan()
    unfinished = clones.shut_clone(session, database)
    # What its oldest migrations read from the calendar is as old as the first of its ancestors.
    born = ancestor.taken_at if ancestor else datetime.now(UTC)
    ground = Ground.of_template(ancestor) if ancestor else fingerprint.ground
    record = Record(
        kind="template",
        identity=fingerprint.identity,
        set_id=names.new_identity(),
        members=1,
        name=name,
        alias=alias,
        source=source,
        taken_at=born,
        size_bytes=int(session.value(_SIZE, [unfinished])),
        django=django.get_version(),
        postgresql=session.server_name,
        migrations=tuple(sorted((step.app, step.name) for step in plan)),
        environment=fingerprint.environment,
        history=digest_of(plan),
        history_length=len(plan),
        used_at=datetime.now(UTC).isoformat(),
        ground_sessions=ground.sessions,
        ground_written=ground.written,
        files=tuple(sorted({**dict(ancestor.files if ancestor else ()), **dict(files)}.items())),
    )
    statements: list[Query] = [stages.publish(unfinished, record)]
    doomed = []
    present = catalog.load(session).get(record.database)
    if present is not None and present.record is not None:
        # Under a name of its own: that of this identity may be taken by an earlier one.
        doomed.append(replace(present.record, identity=names.new_identity()))
        statements.insert(0, _retire(present.name, doomed[0]))
    session.execute(stages.together(statements))
    locks.release(session, unfinished)
    for each in doomed:
        session.execute(cloning.drop(names.doomed_name(each.identity)))
    session.rows(_SHARE, [names.lock_key(record.database)])
    prune(session, source)
    return record


def touch(session: Session, record: Record) -> None:
    """Note that a template was used, so that others are dropped before it."""
    session.execute(stages.recomment(replace(record, used_at=datetime.now(UTC).isoformat())))


def prune(session: Session, source: str) -> list[str]:
    """Drop the templates of a live database that are too old, or more than shall be kept."""
    unwanted = superfluous(catalog.load(session), source)
    return [record.database for record in unwanted if drop(session, record)]


def superfluous(present: Catalog, source: str) -> list[Record]:
    """Return the templates of a live database that are too old, or more than shall be kept."""
    found = sorted(_records(present, source), key=lambda record: record.used_at, reverse=True)
    kept: Counter[str] = Counter()
    unwanted = []
    for record in found:
        # Those made of a development snapshot have its name, and count by themselves.
        kept[record.name] += 1
        if kept[record.name] > test_config().keep or not _is_fresh(record):
            unwanted.append(record)
    return unwanted


def drop(session: Session, record: Record) -> bool:
    """Drop a template unless a run uses it, and tell whether it is gone."""
    name = record.database
    if not locks.try_acquire(session, name):
        return False
    try:
        session.execute(stages.retire(record))
        session.execute(cloning.drop(names.doomed_name(record.identity)))
    except (psycopg.errors.InvalidCatalogName, psycopg.errors.ObjectInUse):
        return False  # another run was quicker, or clones it at this moment
    finally:
        locks.release(session, name)
    return True


def _records(present: Catalog, source: str) -> list[Record]:
    found = present.templates([source])
    return [database.record for database in found if database.record is not None]


def _is_usable(record: Record, fingerprint: Fingerprint) -> bool:
    return (
        _is_fresh(record)
        and fingerprint.ground.is_still_that_of(record)
        and opened.unchanged(record.files)
    )


def _is_fresh(record: Record) -> bool:
    age = datetime.now(UTC) - record.taken_at
    return timedelta() <= age <= timedelta(seconds=test_config().max_age_s)


def _retire(name: str, doomed: Record) -> Query:
    into = names.doomed_name(doomed.identity)
    return sql.SQL("ALTER DATABASE {} RENAME TO {}; {}").format(
        sql.Identifier(name), sql.Identifier(into), stages.comment(into, None)
    )
