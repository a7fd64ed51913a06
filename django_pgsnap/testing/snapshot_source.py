"""Development snapshots that tests start from: cloned, and migrated to the state of the code.

The development database is not touched, and neither is the snapshot. What comes out is kept like a
template, as long as the snapshot is the same and nothing changes that migrating it used.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import connections

from ...clones.catalog import AnyDatabase, load_catalog
from ...clones.names import nearest_names
from ...clones.records import CopyRecord
from ...errors import SnapshotNotFoundError
from ...postgres.session import Session
from ..reset.baseline import Baseline
from ..reset.resetter import DatabaseResetter
from . import own_databases, recording, templates
from .facts import read_facts
from .templates import Wanted


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
    connection = connections[resetter.alias]
    facts = read_facts(connection, session, record.source)
    wanted = Wanted(
        alias=resetter.alias,
        source=record.source,
        name=record.name,
        snapshot=record.identity,
        facts=facts,
    )
    with templates.lock_building(session, wanted, _tell_nobody):
        found = templates.find_template(session, wanted, _tell_nobody)
        if found is not None:
            templates.note_use(session, found)
            return resetter.start_from(found.database)
        resetter.start_from(copy)
        with recording.record(facts) as recorded:
            migrate()
        resetter.disconnect_all()
        sealed = templates.seal_or_tell(recorded, _tell_nobody)
        made = templates.publish_or_tell(session, resetter.name, wanted, sealed, _tell_nobody)
        return resetter.start_from(made.database if made else resetter.clone_state())


def _tell_nobody(_text: str, _verbosity: int) -> None:
    """Leave unsaid what a test would have to be told in the middle of a run."""
