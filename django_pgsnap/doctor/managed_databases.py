"""Databases of ours, or that look like ours, which are not as they should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from ..clones.catalog import AnyDatabase
from ..clones.names import spare_name, unfinished_name
from ..clones.records import TemplateRecord
from ..clones.test_databases import find_superfluous_templates
from ..snapshots.context import find_snapshots
from .findings import Finding, Scene

_BY_ITSELF = "Nothing: the next take or restore drops it, and doctor --fix does now."


def find_managed_problems(scene: Scene) -> Iterator[Finding]:
    """Say which databases are left over, superfluous, open, or not to be trusted."""
    for database in scene.leftovers():
        kind, cause = _leftover(database)
        yield scene.finding(kind, "warning", database.name, cause, _BY_ITSELF, fixable=True)
    yield from _templates(scene)
    yield from _abandoned(scene)
    yield from _open(scene)
    yield from _untrusted(scene)


def find_incomplete(scenes: Sequence[Scene]) -> Iterator[Finding]:
    """Say which snapshots have lost a part."""
    by_server = {scene.server: scene for scene in scenes}
    for snapshot in find_snapshots(scenes):
        if snapshot.completeness != "part lost":
            continue
        first = snapshot.members[0]
        yield by_server[first.server].finding(
            "incomplete",
            "warning",
            snapshot.name,
            f"Only {len(snapshot.members)} of its {first.record.members} parts are there: "
            f"{', '.join(snapshot.aliases)}.",
            "Restore what is there with --database, or delete the snapshot.",
        )


def _leftover(database: AnyDatabase) -> tuple[str, str]:
    if not database.is_valid:
        return "half-dropped", "A DROP DATABASE of it was interrupted."
    if database.name.startswith(spare_name("")):
        return "spare-without-copy", "It is the spare of a copy that is gone."
    if isinstance(database.record, TemplateRecord):
        return "template-without-snapshot", (
            f"It is a template for tests, made of the snapshot {database.record.name!r}, which is "
            "deleted. It holds that snapshot's data."
        )
    if database.name.startswith(unfinished_name("")):
        return "unfinished", "It is a clone that an interrupted command never published."
    return "not-dropped", "An operation no longer needs it, and was interrupted before the drop."


def _templates(scene: Scene) -> Iterator[Finding]:
    for source in scene.sources:
        for record in find_superfluous_templates(scene.catalog, source):
            yield scene.finding(
                "superfluous-template",
                "note",
                record.database,
                f"It is a template for tests on {source!r}, and too old or one too many.",
                "Nothing: the next test run that migrates drops it, and doctor --fix does now.",
                fixable=True,
            )


def _abandoned(scene: Scene) -> Iterator[Finding]:
    for database in scene.catalog.runs(scene.sources):
        if not database.record.kept and not scene.is_locked(database.name):
            yield scene.finding(
                "abandoned-clone",
                "warning",
                database.name,
                f"It is a clone of {database.record.name!r} for a pgsnap run that was killed.",
                "Nothing: the next pgsnap run drops it, and pgsnap purge does now.",
            )


def _open(scene: Scene) -> Iterator[Finding]:
    for database in [*scene.catalog.copies(scene.sources), *scene.catalog.undos(scene.sources)]:
        if not database.is_shut and not scene.is_locked(database.name):
            yield scene.finding(
                "open-copy",
                "warning",
                database.name,
                "It is open to clients, who can change what it holds.",
                f"ALTER DATABASE {sql.Identifier(database.name).as_string(None)} "
                "ALLOW_CONNECTIONS false CONNECTION LIMIT 0;",
            )


def _untrusted(scene: Scene) -> Iterator[Finding]:
    for database in scene.catalog.untrusted():
        quoted = sql.Identifier(database.name).as_string(None)
        yield scene.finding(
            "untrusted",
            "warning",
            database.name,
            f"It is called like one of ours, but belongs to the role {database.owner!r}, which is "
            "neither yours nor the live database's owner. It is ignored.",
            "Ask that role what it is. If you know it to be what it says, give it to the live "
            f"database's owner: ALTER DATABASE {quoted} OWNER TO …;",
        )
