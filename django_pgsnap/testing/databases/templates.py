"""Templates: migrated test databases, kept shut between runs and found by their fingerprint.

A template is published by its comment, in the transaction that gives it its name, so that it is
complete when it is there. It is built once, under a lock, however many processes ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import django
from psycopg import sql

from ...clones.catalog import load_catalog
from ...clones.names import new_identity, template_name, to_drop_name
from ...clones.records import Files, TemplateRecord
from ...clones.strategy import drop_database
from ...clones.templates import is_fresh_template, list_templates, prune_templates
from ...clones.transitions import (
    comment_on_database,
    join_statements,
    publish_copy,
    rewrite_comment,
)
from ...postgres.advisory_locks import lock_key, release_lock, try_acquire_lock, wait_for_lock
from ...postgres.session import Query, Session
from . import file_reads
from .clones import make_shut_clone
from .fingerprint import Fingerprint, SourceCounters
from .migration_history import digest_of, todays_plan

_SHARE: Final = sql.SQL("SELECT pg_advisory_lock_shared(%s)")
_UNSHARE: Final = sql.SQL("SELECT pg_advisory_unlock_shared(%s)")
_SIZE: Final = sql.SQL("SELECT pg_database_size(%s)")


def database_name(fingerprint: Fingerprint) -> str:
    """Return the name of the template with this fingerprint."""
    return template_name(fingerprint.identity)


@contextmanager
def lock_building(
    session: Session, fingerprint: Fingerprint, tell: Callable[[str], object]
) -> Iterator[None]:
    """Look for a template, build it or clone it, while nobody else does."""
    key = f"building {database_name(fingerprint)}"
    if not try_acquire_lock(session, key):
        tell("Waiting for another test run, which migrates or clones the same...")
        wait_for_lock(session, key)
    try:
        yield
    finally:
        if not session.broken:
            release_lock(session, key)


def find_template(session: Session, fingerprint: Fingerprint) -> TemplateRecord | None:
    """Return the template with this fingerprint, None if there is none or it is stale.

    It is in use from then on until the session ends, which keeps it from being dropped.
    """
    name = database_name(fingerprint)
    session.rows(_SHARE, [lock_key(name)])
    for database in load_catalog(session).templates():
        record = database.record
        if database.name == name and record is not None and _is_usable(record, fingerprint):
            return record
    session.rows(_UNSHARE, [lock_key(name)])
    return None


def nearest(session: Session, fingerprint: Fingerprint, source: str) -> TemplateRecord | None:
    """Return the template that lacks the fewest of today's migrations, and nothing else."""
    plan = todays_plan()
    candidates = [
        record
        for record in list_templates(load_catalog(session), source)
        if record.environment == fingerprint.environment
        and 0 < record.history_length <= len(plan)
        and record.history == digest_of(plan[: record.history_length])
        and _is_usable(record, fingerprint)
    ]
    record = max(candidates, key=lambda record: record.history_length, default=None)
    if record is None:
        return None
    session.rows(_SHARE, [lock_key(record.database)])
    # Until we had our share, another run may have dropped it.
    return record if record.database in load_catalog(session) else None


def publish_template(
    session: Session,
    database: str,
    fingerprint: Fingerprint,
    *,
    alias: str,
    source: str,
    ancestor: TemplateRecord | None,
    name: str = "template",
    snapshot: str = "",
    files: Files = (),
) -> TemplateRecord:
    """Keep the state of a migrated test database as a template.

    1. The test database is cloned, shut. If it stops here, the next run drops the clone.
    2. One transaction gives the clone its name and comment, and takes them from the template that
       was stale, if there is one.
    3. What is too old, or beyond the number to keep, is dropped, unless it is in use.
    """
    plan = todays_plan()
    unfinished = make_shut_clone(session, database)
    # What its oldest migrations read from the calendar is as old as the first of its ancestors.
    born = ancestor.taken_at if ancestor else datetime.now(UTC)
    ground = SourceCounters.of_template(ancestor) if ancestor else fingerprint.ground
    record = TemplateRecord(
        identity=fingerprint.identity,
        set_id=new_identity(),
        members=1,
        name=name,
        snapshot=snapshot,
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
    statements: list[Query] = [publish_copy(unfinished, record)]
    doomed = []
    present = load_catalog(session).get(record.database)
    if present is not None and present.trusted and isinstance(present.record, TemplateRecord):
        # Under a name of its own: that of this identity may be taken by an earlier one.
        doomed.append(replace(present.record, identity=new_identity()))
        statements.insert(0, _retire(present.name, doomed[0]))
    session.execute(join_statements(statements))
    release_lock(session, unfinished)
    for each in doomed:
        session.execute(drop_database(to_drop_name(each.identity)))
    session.rows(_SHARE, [lock_key(record.database)])
    prune_templates(session, source)
    return record


def note_use(session: Session, record: TemplateRecord) -> None:
    """Note that a template was used, so that others are dropped before it."""
    session.execute(rewrite_comment(replace(record, used_at=datetime.now(UTC).isoformat())))


def _is_usable(record: TemplateRecord, fingerprint: Fingerprint) -> bool:
    return (
        is_fresh_template(record)
        and fingerprint.ground.is_still_that_of(record)
        and file_reads.unchanged(record.files)
    )


def _retire(name: str, doomed: TemplateRecord) -> Query:
    into = to_drop_name(doomed.identity)
    return sql.SQL("ALTER DATABASE {} RENAME TO {}; {}").format(
        sql.Identifier(name), sql.Identifier(into), comment_on_database(into, None)
    )
