"""What the doctor finds, and what databases of ours occupy."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found."""

    kind: str  # a word that stays the same between releases
    # ``error`` where snapshots do not work, ``warning`` where something should be put right,
    # ``note`` for what is good to know.
    severity: Severity
    object: str  # a database, a role, a setting or a directory
    cause: str
    remedy: str = ""  # empty where nothing has to be done
    _: KW_ONLY
    server: str = ""  # empty where it is not known
    fixable: bool = False  # whether ``doctor --fix`` mends it
    fixed: bool = False  # whether it was mended just now


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What databases of one kind occupy, as far as the file system does not share blocks."""

    kind: str  # ``live``, or as in `ManagedDatabase`
    databases: int
    size_bytes: int  # without those whose size our role may not see


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that the doctor has to say."""

    findings: tuple[Finding, ...]  # errors first, then warnings, then notes
    usage: tuple[Usage, ...]  # of the project's databases by kind, on all its servers together

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings that are left."""
        return tuple(each for each in self.findings if each.severity != "note" and not each.fixed)
