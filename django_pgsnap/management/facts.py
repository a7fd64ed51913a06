"""What ``--json`` prints: snapshots, undos, findings and differences as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from ..comparison.types import Diff, RowChange, SchemaChange, TableDiff
from ..doctor.findings import Diagnosis
from ..snapshots.queries import Overview
from ..snapshots.status import Status
from ..snapshots.types import AnyMember, Drift, KnownMigrations, Snapshot, Undo

_SNAPSHOT: Final = (
    *("name", "note", "size_bytes", "seconds", "pinned", "spare"),
    *("git_branch", "git_commit", "git_dirty"),
)


def snapshot_facts(snapshot: Snapshot, drift: Drift | None = None) -> dict[str, Any]:
    """Return what is known of a snapshot; with its drift if that was worked out."""
    facts = {
        "taken_at": snapshot.taken_at.isoformat(),
        "complete": snapshot.is_complete,
        "completeness": snapshot.completeness,
        "outside": [str(part) for part in snapshot.elsewhere],
        "members": _members(snapshot.members),
        **{name: getattr(snapshot, name) for name in _SNAPSHOT},
    }
    if drift is not None:
        facts["migrations"] = {
            "missing": [f"{app}.{name}" for app, name in drift.missing],
            "unknown": [f"{app}.{name}" for app, name in drift.unknown],
        }
    return facts


def undo_facts(undo: Undo) -> dict[str, Any]:
    return {
        "replaced_by": undo.name,
        "replaced_at": undo.taken_at.isoformat(),
        "by_undo": undo.by_undo,
        "based_on": undo.based_on or None,
        "unwritten": undo.is_unwritten,
        "size_bytes": undo.size_bytes,
        "members": _members(undo.members),
    }


def overview_facts(overview: Overview, code: KnownMigrations | None = None) -> dict[str, Any]:
    """Return what there is; with how migrations compare with this code's, if that is given."""
    return {
        "snapshots": [
            snapshot_facts(each, code.drift(each.migrations) if code else None)
            for each in overview.snapshots
        ],
        "undos": [undo_facts(each) for each in overview.undos],
        "beside": [asdict(each) for each in overview.beside],
        "occupied_bytes": overview.occupied_bytes,
    }


def status_facts(status: Status) -> dict[str, Any]:
    return {
        "live": [
            {**asdict(each), "since": each.since and each.since.isoformat()} for each in status.live
        ],
        "underway": [asdict(each) for each in status.overview.underway],
        **overview_facts(status.overview),
    }


def error_facts(kind: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "hint": hint}}


def diagnosis_facts(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "healthy": not diagnosis.problems,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "usage": [asdict(usage) for usage in diagnosis.usage],
    }


def diff_facts(found: Diff) -> Iterator[dict[str, object]]:
    """Yield what changed as plain values for JSON, one object for each thing; rows come apart."""
    yield {
        "type": "diff",
        "before": found.before,
        "after": found.after,
        "different": not found.is_empty,
        "migrations_applied": [list(key) for key in found.migrations_applied],
        "migrations_missing": [list(key) for key in found.migrations_missing],
        "notes": list(found.notes),
    }
    for change in found.schema:
        yield _pick("schema", change, "kind", "name", "before", "after")
    for table in found.tables:
        yield {
            **_pick("table", table, "table", "added", "removed", "changed"),
            "model": table.model or None,
            "changed_columns": dict(table.changed_columns),
            "compared_by": table.method,
        }


def row_facts(row: RowChange) -> dict[str, object]:
    """Return one row change as plain values for JSON."""
    return {
        **_pick("row", row, "table", "kind"),
        "model": row.model or None,
        "key": dict(row.key),
        "columns": {name: list(values) for name, values in row.columns.items()},
    }


def _pick(kind: str, of: SchemaChange | TableDiff | RowChange, *names: str) -> dict[str, object]:
    return {"type": kind, "database": of.alias, **{name: getattr(of, name) for name in names}}


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
