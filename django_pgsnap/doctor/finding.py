"""What the doctor returns: findings, and what our databases occupy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        kind: What sort of thing, as a word that stays the same between releases.
        severity: ``error`` where snapshots do not work, ``warning`` where something should be
            put right, ``note`` for what is good to know.
        server: The server it was found on, empty where that is not known.
        object: What it is about: a database, a role, a setting, a directory.
        cause: What is the matter with it, a sentence.
        remedy: What to do about it; empty where nothing has to be done.
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
        kind: ``live``, ``copies``, ``spares``, ``undos`` or ``leftovers``.
        databases: How many there are.
        size_bytes: What they occupy together, without those whose size our role may not see.
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
    def ailments(self) -> tuple[Finding, ...]:
        """The errors and warnings that are left: what still has to be done."""
        return tuple(
            finding for finding in self.findings if finding.severity != "note" and not finding.fixed
        )
