"""What the doctor looks at on one server, what it finds, and what our databases occupy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..postgres.inspection import measure_databases
from ..snapshots.context import Kind, ServerContext, describe_managed

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


_USAGE: Final[dict[Kind, str]] = {
    "copy": "copies",
    "spare": "spares",
    "undo": "undos",
    "template": "templates",
    "run": "runs",
    "test": "tests",
    "leftover": "leftovers",
}


def measure_usage(scenes: Sequence[Scene]) -> tuple[Usage, ...]:
    """Return what there is of each kind, and what it occupies."""
    if not scenes:
        return ()
    sizes: dict[str, list[int]] = {"live": [], **{name: [] for name in _USAGE.values()}}
    for scene in scenes:
        live = measure_databases(scene.watcher, scene.present)
        sizes["live"] += [live.get(name, 0) for name in scene.present]
        for each in describe_managed(scene):
            sizes[_USAGE[each.kind]].append(each.size_bytes)
    return tuple(
        Usage(kind=kind, databases=len(found), size_bytes=sum(found))
        for kind, found in sizes.items()
    )
