"""Snapshots as plain data, for ``--json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..drift import Drift
from ..snapshots.model import Member, Snapshot, Undo


def of_snapshot(snapshot: Snapshot, drift: Drift | None = None) -> dict[str, Any]:
    """Return what is known of a snapshot; with its drift if that was worked out."""
    facts = {
        "name": snapshot.name,
        "taken_at": snapshot.taken_at.isoformat(),
        "size_bytes": snapshot.size_bytes,
        "seconds": snapshot.seconds,
        "note": snapshot.note,
        "pinned": snapshot.pinned,
        "spare": snapshot.spare,
        "complete": snapshot.is_complete,
        "git_branch": snapshot.git_branch,
        "git_commit": snapshot.git_commit,
        "git_dirty": snapshot.git_dirty,
        "members": _members(snapshot.members),
    }
    if drift is not None:
        facts["migrations"] = {
            "missing": [f"{app}.{name}" for app, name in drift.missing],
            "unknown": [f"{app}.{name}" for app, name in drift.unknown],
        }
    return facts


def of_undo(undo: Undo) -> dict[str, Any]:
    """Return what is known of an undo."""
    return {
        "replaced_by": undo.name,
        "replaced_at": undo.taken_at.isoformat(),
        "size_bytes": undo.size_bytes,
        "members": _members(undo.members),
    }


def _members(members: Iterable[Member]) -> list[dict[str, Any]]:
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
