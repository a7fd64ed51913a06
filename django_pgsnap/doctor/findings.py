"""What the doctor finds, and what databases of ours occupy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    server: str = ""
    object: str
    cause: str
    remedy: str = ""
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
