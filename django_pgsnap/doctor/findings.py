"""What the doctor looks at on one server, what it finds, and what our databases occupy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..clones.names import spare_name
from ..postgres.inspection import measure_databases
from ..snapshots.context import ServerContext, list_test_databases

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        kind: A word that stays the same between releases.
        severity: ``error`` where snapshots do not work, ``warning`` where something should be
            put right, ``note`` for what is good to know.
        server: Empty where it is not known.
        object: A database, a role, a setting or a directory.
        remedy: Empty where nothing has to be done.
        fixable: Whether ``doctor --fix`` mends it.
        fixed: Whether it was mended just now.
    """

    kind: str
    severity: Severity
    server: str
    object: str
    cause: str
    remedy: str
    fixable: bool = False
    fixed: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What databases of one kind occupy, as far as the file system does not share blocks.

    Attributes:
        kind: ``live``, ``copies``, ``spares``, ``undos``, ``templates``, ``runs`` (clones of
            ``pgsnap run``), ``tests`` (test databases) or ``leftovers``.
        size_bytes: Without those whose size our role may not see.
    """

    kind: str
    databases: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that the doctor has to say.

    Attributes:
        findings: Errors first, then warnings, then notes.
        usage: Disk use of the project's databases by kind, on all its servers together.
    """

    findings: tuple[Finding, ...]
    usage: tuple[Usage, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings that are left."""
        return tuple(
            finding for finding in self.findings if finding.severity != "note" and not finding.fixed
        )


class Scene(ServerContext):
    """One server as the doctor sees it."""

    def finding(
        self,
        kind: str,
        severity: Severity,
        object_: str,
        cause: str,
        remedy: str = "",
        *,
        fixable: bool = False,
    ) -> Finding:
        """Return a finding on this server."""
        return Finding(
            kind=kind,
            severity=severity,
            server=str(self.server),
            object=object_,
            cause=cause,
            remedy=remedy,
            fixable=fixable,
        )


def measure_usage(scenes: Iterable[Scene]) -> tuple[Usage, ...]:
    """Return what there is of each kind, and what it occupies."""
    totals: dict[str, Usage] = {}
    for scene in scenes:
        for kind, databases in _by_kind(scene).items():
            before = totals.get(kind, Usage(kind=kind, databases=0, size_bytes=0))
            totals[kind] = Usage(
                kind=kind,
                databases=before.databases + len(databases),
                size_bytes=before.size_bytes
                + sum(measure_databases(scene.watcher, databases).values()),
            )
    return tuple(totals.values())


def _by_kind(scene: Scene) -> dict[str, list[str]]:
    copies = scene.copies()
    return {
        "live": scene.present,
        "copies": [member.database.name for member in copies],
        "spares": [
            spare_name(member.record.identity) for member in copies if member.spare == "ready"
        ],
        "undos": [member.database.name for member in scene.undos()],
        "templates": [database.name for database in scene.catalog.templates(scene.sources)],
        "runs": [database.name for database in scene.catalog.runs(scene.sources)],
        "tests": list(list_test_databases(scene, everyone=False)),
        "leftovers": [database.name for database in scene.leftovers()],
    }
