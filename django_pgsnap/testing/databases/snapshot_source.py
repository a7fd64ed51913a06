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
from ..reset.resetter import Keeper
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
        hint=f"Take it: manage.py pgsnap take {snapshot}",
    )


def start_from_copy(keeper: Keeper, copy: AnyDatabase, migrate: Callable[[], object]) -> None:
    """Have tests start from a snapshot's copy, migrated.

    Args:
        keeper: Keeps the test database.
        copy: The copy.
        migrate: Migrates the test database, which is a clone of the copy by then.
    """
    record = copy.record
    if not isinstance(record, CopyRecord):
        return
    known = keeper.layers.get(record.identity)
    if known is not None:
        keeper.start(known)
        return
    keeper.layers[record.identity] = _prepare(keeper, copy.name, record, migrate)


def _prepare(
    keeper: Keeper, copy: str, record: CopyRecord, migrate: Callable[[], object]
) -> Baseline:
    session = keeper.session
    wanted = _fingerprint(keeper, record)
    with templates.lock_building(session, wanted, lambda _: None):
        found = templates.find_template(session, wanted)
        if found is not None:
            templates.note_use(session, found)
            return keeper.start_from(found.database)
        keeper.start_from(copy)
        with file_reads.noting():
            migrate()
        keeper.leave()
        files = _files()
        if not test_config().keep or files is None:
            return keeper.start_from(keeper.keep())
        made = templates.publish_template(
            session,
            keeper.name,
            wanted,
            alias=keeper.alias,
            source=record.source,
            ancestor=None,
            name=record.name,
            files=files,
        )
    return keeper.start_from(made.database)


def _files() -> Files | None:
    try:
        return file_reads.noted()
    except ConfigurationError:
        return None  # too many to be compared, so the state is of use in this run only


def _fingerprint(keeper: Keeper, record: CopyRecord) -> Fingerprint:
    today = fingerprint.take(connections[keeper.alias], keeper.session, record.source)
    return replace(today, ingredients={**today.ingredients, "snapshot": record.identity})
