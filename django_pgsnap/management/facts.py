"""What ``--json`` prints: snapshots, undos, findings and differences as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from ..comparison.types import Diff, RowChange
from ..doctor.findings import Diagnosis
from ..snapshots.queries import Overview
from ..snapshots.status import Status
from ..snapshots.types import AnyMember, Drift, KnownMigrations, Snapshot, Undo

# What fields of a diff are called, and which have objects of their own.
_CALLED: Final = {"alias": "database", "method": "compared_by"}
_APART: Final = {"schema", "tables", "rows"}
_SNAPSHOT: Final = (
    *("name", "note", "size_bytes", "seconds", "pinned", "spare"),
    *("git_branch", "git_commit", "git_dirty"),
)


def snapshot_facts(snapshot: Snapshot, drift: Drift | None = None) -> dict[str, Any]:
    """Return what is known of a snapshot; with its drift if that was worked out."""
    facts = {
        "taken_at": snapshot.taken_at,
        "complete": snapshot.is_complete,
        "completeness": snapshot.completeness,
        "outside": [str(part) for part in snapshot.elsewhere],
        "members": _members(snapshot.members),
        **{name: getattr(snapshot, name) for name in _SNAPSHOT},
    }
    if drift is not None:
        facts["migrations"] = {
            "missing": list(map(".".join, drift.missing)),
            "unknown": list(map(".".join, drift.unknown)),
        }
    return facts


def undo_facts(undo: Undo) -> dict[str, Any]:
    return {
        "replaced_by": undo.name,
        "replaced_at": undo.taken_at,
        "by_undo": undo.by_undo,
        "based_on": undo.based_on or None,
        "unwritten": undo.is_unwritten,
        "size_bytes": undo.size_bytes,
        "members": _members(undo.members),
    }


def overview_facts(overview: Overview) -> dict[str, Any]:
    code = KnownMigrations()
    return {
        "snapshots": [
            snapshot_facts(each, code.drift(each.migrations)) for each in overview.snapshots
        ],
        "undos": [undo_facts(each) for each in overview.undos],
        "beside": [asdict(each) for each in overview.beside],
        "occupied_bytes": overview.occupied_bytes,
    }


def status_facts(status: Status) -> dict[str, Any]:
    return {
        "live": [asdict(each) for each in status.live],
        "underway": [asdict(each) for each in status.overview.underway],
        **overview_facts(status.overview),
    }


def diagnosis_facts(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "healthy": not diagnosis.problems,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "usage": [asdict(usage) for usage in diagnosis.usage],
    }


def diff_facts(found: Diff) -> Iterator[dict[str, object]]:
    """Yield what changed, one object for each thing; rows come apart."""
    yield _fields("diff", found, different=not found.is_empty)
    for change in found.schema:
        yield _fields("schema", change)
    for table in found.tables:
        yield _fields("table", table, model=table.model or None)


def row_facts(row: RowChange) -> dict[str, object]:
    return _fields("row", row, model=row.model or None)


def _fields(kind: str, of: object, **more: object) -> dict[str, object]:
    fields = {_CALLED.get(name, name): value for name, value in vars(of).items()}
    return {"type": kind, **{n: v for n, v in fields.items() if n not in _APART}, **more}


def _members(members: Iterable[AnyMember]) -> list[dict[str, Any]]:
    return [
        {
            "alias": member.alias,
            "source": member.record.source,
            "database": member.database.name,
            "size_bytes": member.record.size_bytes,
            "strategy": member.record.strategy,
            "spare": member.spare,
        }
        for member in members
    ]
