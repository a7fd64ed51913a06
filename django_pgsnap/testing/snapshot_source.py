"""Development snapshots that tests start from: cloned, and migrated to the state of the code.

The development database is not touched, and neither is the snapshot. What comes out is kept like a
template, as long as the snapshot is the same and nothing changes that migrating it used.
"""

from __future__ import annotations

from functools import partial
from unittest import SkipTest

from django.core.management import call_command
from django.db import connections

from ..clones.catalog import Database, load_catalog
from ..clones.names import nearest_names
from ..clones.records import CopyRecord
from ..conf import config
from ..errors import ConfigurationError, SnapshotNotFoundError
from .databases import recording, templates
from .databases.facts import read_facts
from .reset.baseline import Baseline
from .reset.resetter import DatabaseResetter, explain_errors


def start_from_snapshot(
    who: str, resetters: list[tuple[str, DatabaseResetter]], snapshot: str
) -> None:
    """Have a class or test start from a development snapshot.

    Raises:
        SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
        SnapshotNotFoundError: There is none, and it is on.
        ConfigurationError: The tests do not run on our test databases.
    """
    if not resetters:
        raise ConfigurationError(
            f"{who} cannot start from the snapshot {snapshot!r}, since its databases "
            "were not made by django_pgsnap.",
            hint="Set TEST_RUNNER = 'django_pgsnap.testing.SnapshotRunner'.",
        )
    copies = {alias: _list_copies(resetter) for alias, resetter in resetters}
    if not any(snapshot in each for each in copies.values()):
        alias, resetter = resetters[0]
        error = _describe_missing(snapshot, resetter.source, copies[alias])
        raise error if config().test.require_snapshots else SkipTest(str(error))
    for alias, resetter in resetters:
        if (copy := copies[alias].get(snapshot)) is not None:
            with explain_errors(who, alias):
                prepare = partial(_prepare, alias, resetter, copy)
                resetter.start(resetter.get_named_baseline(copy.record.identity, prepare))


def _list_copies(resetter: DatabaseResetter) -> dict[str, Database[CopyRecord]]:
    copies = load_catalog(resetter.session).copies([resetter.source])
    return {copy.record.name: copy for copy in reversed(copies)}


def _describe_missing(
    snapshot: str, source: str, copies: dict[str, Database[CopyRecord]]
) -> SnapshotNotFoundError:
    near = nearest_names(snapshot, copies)
    instead = f" There is {', '.join(map(repr, near))}." if near else ""
    return SnapshotNotFoundError(
        f"There is no snapshot {snapshot!r} of the database {source!r}.{instead}",
        hint=f"Take it: ./manage.py pgsnap take {snapshot}",
    )


def _prepare(alias: str, resetter: DatabaseResetter, copy: Database[CopyRecord]) -> Baseline:
    """Have tests start from a snapshot's copy, migrated."""
    session = resetter.session
    facts = read_facts(connections[resetter.alias], session, copy.record.source)
    wanted = templates.Wanted(
        alias=resetter.alias,
        source=copy.record.source,
        name=copy.record.name,
        snapshot=copy.record.identity,
        facts=facts,
    )
    with templates.lock_building(session, wanted, _tell_nobody):
        found = templates.find_template(session, wanted, _tell_nobody)
        if found is not None:
            templates.note_use(session, found)
            return resetter.start_from(found.database)
        resetter.start_from(copy.name)
        with recording.record(facts) as recorded:
            _migrate(alias, copy.record.name)
        resetter.disconnect_all()
        sealed = templates.seal_or_tell(recorded, _tell_nobody)
        made = templates.publish_or_tell(session, resetter.name, wanted, sealed, _tell_nobody)
        return resetter.start_from(made.database if made else resetter.clone_state())


def _tell_nobody(_text: str, _verbosity: int) -> None:
    """Leave unsaid what a test would have to be told in the middle of a run."""


def _migrate(alias: str, snapshot: str) -> None:
    if not connections.settings[alias]["TEST"]["MIGRATE"]:
        return
    try:
        call_command("migrate", database=alias, verbosity=0, interactive=False, run_syncdb=True)
    except Exception as error:
        error.add_note(
            f"So the snapshot {snapshot!r} cannot be brought to the state of the code, in alias "
            f"{alias!r}.\nTake it again: ./manage.py pgsnap take {snapshot} --replace"
        )
        raise
