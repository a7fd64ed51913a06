"""Templates: migrated test databases, kept shut between runs with a list of what made them.

A template is published by its comment, in the transaction that gives it its name, so that it is
complete when it is there. It is built once, under a lock, however many processes ask for it.

Its spare is a clone that stands ready, so that the next run only has to rename it. The server makes
it by itself when a run is over.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import django
import psycopg
from psycopg import sql

from ...clones.catalog import load_catalog
from ...clones.for_tests import is_fresh_template, prune_templates
from ...clones.names import new_identity, spare_name
from ...clones.records import TemplateRecord
from ...clones.spares import send_off, wants_spare
from ...clones.transitions import Clone, publish_copy, rewrite_comment
from ...conf import config
from ...errors import ConfigurationError, PgsnapError, ServerUnavailableError
from ...postgres.advisory_locks import lock_key, release_lock, try_acquire_lock, wait_for_lock
from ...postgres.inspection import measure_databases
from ...postgres.server import Server
from ...postgres.session import Session
from . import clones
from .facts import Facts, project_root
from .recording import find_change, seal, unseal

_SHARE: Final = sql.SQL("SELECT pg_catalog.pg_try_advisory_lock_shared(%s)")

# Who used a template so lately wants to know why it serves no longer.
_RECENT: Final = timedelta(hours=1)

_NOT_KEPT: Final = "The next run will migrate again, since this state could not be kept: {}"

# Texts for the user, each with the verbosity from which on it is shown.
Tell = Callable[[str, int], object]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    alias: str
    source: str  # name of the database that the alias leads to outside of tests
    name: str = "template"  # or that of the snapshot that is migrated
    snapshot: str = ""  # identity of that snapshot's copy
    facts: Facts


@contextmanager
def lock_building(session: Session, wanted: Wanted, tell: Tell) -> Iterator[None]:
    """Look for a template, build it or clone it, while nobody else in this project does."""
    key = f"building {wanted.name} of {wanted.source} for {wanted.alias} in {project_root()}"
    is_ours = try_acquire_lock(session, key)
    if not is_ours:
        tell("Waiting for another test run, which migrates or clones the same...", 1)
        # Without the lock, which a role of others may keep from us, two may build the same.
        is_ours = wait_for_lock(session, key)
    try:
        yield
    finally:
        if is_ours and not session.broken:
            release_lock(session, key)


def find_template(session: Session, wanted: Wanted, tell: Tell) -> TemplateRecord | None:
    """Return a template that equals what migrating would make, None if there is none.

    It is in use from then on until the session ends, which keeps it from being dropped.
    """
    found = [
        database.record
        for database in load_catalog(session).templates([wanted.source])
        if (database.record.alias, database.record.snapshot) == (wanted.alias, wanted.snapshot)
    ]
    found.sort(key=lambda record: record.used_at, reverse=True)
    why = "" if found else "there is no template yet"
    for record in found:
        reason = _find_reason_against(record, wanted.facts)
        if reason is None and _share(session, record):
            tell(f"Alias {wanted.alias!r}: used a template, since nothing changed.", 2)
            return record
        why = why or reason or "the template was dropped"
    is_news = found and found[0].used_at > (datetime.now(UTC) - _RECENT).isoformat()
    tell(f"Alias {wanted.alias!r}: made by migrating, because {why}.", 1 if is_news else 2)
    return None


def seal_or_tell(recorded: Callable[[], Facts], tell: Tell) -> str:
    """Return what was recorded, sealed, or say why it cannot be kept and return nothing."""
    try:
        return seal(recorded())
    except ConfigurationError as error:
        tell(_NOT_KEPT.format(error), 1)
        return ""


def publish_or_tell(
    session: Session, database: str, wanted: Wanted, recording: str, tell: Tell
) -> TemplateRecord | None:
    """Publish a template if that is wanted and something was recorded, or say why it cannot be."""
    if not recording or not config().test.keep:
        return None
    try:
        return publish_template(session, database, wanted, recording)
    except (PgsnapError, psycopg.Error) as error:
        if session.broken:
            raise
        tell(_NOT_KEPT.format(error), 1)
        return None


def publish_template(
    session: Session, database: str, wanted: Wanted, recording: str
) -> TemplateRecord:
    """Keep the state of a migrated test database, which nobody is connected to, as a template.

    1. The test database is cloned, shut. If it stops here, the next run drops the clone.
    2. One transaction gives the clone its name and comment.
    3. What is too old, or beyond the number to keep, is dropped, unless it is in use.
    """
    unfinished = clones.make_shut_clone(session, database)
    now = datetime.now(UTC)
    record = TemplateRecord(
        identity=new_identity(),
        set_id=new_identity(),
        members=1,
        name=wanted.name,
        snapshot=wanted.snapshot,
        alias=wanted.alias,
        source=wanted.source,
        taken_at=now,
        size_bytes=measure_databases(session, [unfinished]).get(unfinished, 0),
        django=django.get_version(),
        postgresql=session.server_release,
        used_at=now.isoformat(),
        used_by=_current_run(),
        recording=recording,
    )
    session.execute(publish_copy(unfinished, record))
    release_lock(session, unfinished)
    session.rows(_SHARE, [lock_key(record.database)])
    prune_templates(session, wanted.source)
    return record


def note_use(session: Session, record: TemplateRecord) -> None:
    """Note that a template was used, so that others are dropped before it."""
    now = datetime.now(UTC).isoformat()
    session.execute(rewrite_comment(replace(record, used_at=now, used_by=_current_run())))


def _find_reason_against(record: TemplateRecord, facts: Facts) -> str | None:
    if not is_fresh_template(record):
        return "the template is older than PGSNAP['TEST']['MAX_AGE_S']"
    recording = unseal(record.recording)
    if recording is None:
        return "the setting SECRET_KEY changed, or the version of django_pgsnap"
    # Another worker of this run has compared the files.
    is_compared = record.used_by == _current_run() != ""
    return find_change(recording, facts, with_files=not is_compared)


def _share(session: Session, record: TemplateRecord) -> bool:
    """Use a template, and tell whether it is there, and nobody about to drop it."""
    is_ours = bool(session.value(_SHARE, [lock_key(record.database)]))
    return is_ours and record.database in load_catalog(session).databases


def _current_run() -> str:
    """Return what all workers of this run have in common, empty where it has none."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID", "")


def obtain_template_spare(session: Session, template: TemplateRecord) -> str | None:
    """Return a template's spare as `make_shut_clone` returns clones, None if there is none.

    One that is being made is waited for, which is never slower than cloning afresh.
    """
    name = spare_name(template.identity)
    if not wait_for_lock(session, name):
        return None
    spare = load_catalog(session).spares.get(template.identity)
    if spare is not None and spare.trusted:
        clones.copy_properties(session, name, template.database)
        return name
    release_lock(session, name)
    return None


def order_template_spare(server: Server, template: str) -> None:
    """Have the server make the spare of a template by itself, unless it is there or on its way.

    Only the template that a run used last has a spare; those of others are dropped. Where the
    server takes no further session there is none, and the next run clones by itself.
    """
    with suppress(ServerUnavailableError), server.session("clearing up") as session:
        present = load_catalog(session)
        found = present.databases.get(template)
        record = found.record if found is not None and found.trusted else None
        if not isinstance(record, TemplateRecord) or not wants_spare(record):
            return
        work: list[Clone | str] = [
            spare_name(other.record.identity)
            for other in present.templates([record.source])
            if other.name != template and other.record.identity in present.spares
        ]
        if record.identity not in present.spares:
            work.append(clones.plan_clone(session, template, spare_name(record.identity)))
        send_off(server, work, [session])
