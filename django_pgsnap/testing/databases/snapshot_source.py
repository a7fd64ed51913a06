"""Development snapshots that tests start from: cloned, and migrated to the state of the code.

The development database is not touched, and neither is the snapshot. What comes out is kept like a
template, and found by the snapshot's identity and the fingerprint of all that migrations depend on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.db import connections

from ...clones.catalog import AnyDatabase, load_catalog
from ...clones.names import nearest_names
from ...clones.records import CopyRecord, Files
from ...conf import test_config
from ...errors import ConfigurationError, SnapshotNotFoundError
from ...postgres.session import Session
from ..reset.baseline import Baseline
from ..reset.resetter import DatabaseResetter
from . import file_reads, fingerprint, own_databases, templates
from .fingerprint import Fingerprint


def find_copy(session: Session, alias: str, snapshot: str) -> AnyDatabase | None:
    """Return the copy that a snapshot has of an alias' database, None if it has none."""
    own = own_databases.find_own_database(alias)
    copies = load_catalog(session).copies([own.source] if own else [])
    for copy in copies:
        if copy.record is not None and copy.record.name == snapshot:
            return copy
    return None


def describe_missing_snapshot(session: Session, alias: str, snapshot: str) -> SnapshotNotFoundError:
    """Return the error that says that there is no such snapshot."""
    own = own_databases.find_own_database(alias)
    copies = load_catalog(session).copies([own.source] if own else [])
    known = {copy.record.name for copy in copies if copy.record is not None}
    near = nearest_names(snapshot, known)
    instead = f" There is {', '.join(map(repr, near))}." if near else ""
    return SnapshotNotFoundError(
        f"There is no snapshot {snapshot!r} of the database {own.source if own else alias!r}."
        f"{instead}",
        hint=f"Take it: ./manage.py pgsnap take {snapshot}",
    )


def start_from_copy(
    resetter: DatabaseResetter, copy: AnyDatabase, migrate: Callable[[], object]
) -> None:
    """Have tests start from a snapshot's copy, migrated.

    Args:
        resetter: Resets the test database.
        copy: The copy.
        migrate: Migrates the test database, which is a clone of the copy by then.
    """
    record = copy.record
    if not isinstance(record, CopyRecord):
        return
    known = resetter.named_baselines.get(record.identity)
    if known is not None:
        resetter.start(known)
        return
    resetter.named_baselines[record.identity] = _prepare(resetter, copy.name, record, migrate)


def _prepare(
    resetter: DatabaseResetter, copy: str, record: CopyRecord, migrate: Callable[[], object]
) -> Baseline:
    session = resetter.session
    wanted = _fingerprint(resetter, record)
    with templates.lock_building(session, wanted, lambda _: None):
        found = templates.find_template(session, wanted)
        if found is not None:
            templates.note_use(session, found)
            return resetter.start_from(found.database)
        resetter.start_from(copy)
        with file_reads.noting():
            migrate()
        resetter.disconnect_all()
        files = _files()
        if not test_config().keep or files is None:
            return resetter.start_from(resetter.clone_state())
        made = templates.publish_template(
            session,
            resetter.name,
            wanted,
            alias=resetter.alias,
            source=record.source,
            ancestor=None,
            name=record.name,
            snapshot=record.identity,
            files=files,
        )
    return resetter.start_from(made.database)


def _files() -> Files | None:
    try:
        return file_reads.noted()
    except ConfigurationError:
        return None  # too many to be compared, so the state is of use in this run only


def _fingerprint(resetter: DatabaseResetter, record: CopyRecord) -> Fingerprint:
    today = fingerprint.take(connections[resetter.alias], resetter.session, record.source)
    return replace(today, ingredients={**today.ingredients, "snapshot": record.identity})
