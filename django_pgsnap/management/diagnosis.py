"""The doctor's findings: plain data for ``--json``, lines for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from .. import wording
from ..doctor.finding import Diagnosis, Finding

_INDENT: Final = "    "


def facts(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return all that the doctor found."""
    return {
        "healthy": not diagnosis.ailments,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "usage": [asdict(usage) for usage in diagnosis.usage],
    }


def show(diagnosis: Diagnosis, write: Callable[[str], object]) -> None:
    """Write a paragraph per finding, and what our databases occupy."""
    for finding in diagnosis.findings:
        write(_paragraph(finding))
    for usage in diagnosis.usage:
        if usage.databases:
            write(f"{usage.kind}: {usage.databases}, {wording.size(usage.size_bytes)}")
    if not diagnosis.findings:
        write("Nothing to report.")


def summary(diagnosis: Diagnosis) -> str:
    """Return the sentence that says what is left to do."""
    count = len(diagnosis.ailments)
    fixable = sum(finding.fixable for finding in diagnosis.ailments)
    left = f"{count} {'thing needs' if count == 1 else 'things need'} to be put right"
    return f"{left}, {fixable} of them by pgsnap doctor --fix." if fixable else f"{left}."


def _paragraph(finding: Finding) -> str:
    label = "fixed" if finding.fixed else finding.severity
    lines = [f"{label}: {wording.printable(finding.object)}"]
    lines += [_INDENT + wording.printable(line) for line in finding.cause.splitlines()]
    if not finding.fixed:
        lines += [_INDENT + wording.printable(line) for line in finding.remedy.splitlines()]
    return "\n".join(lines)
