"""What ``--json`` prints: snapshots, undos, findings and differences as plain data."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from ..comparison.types import Diff, RowChange
from ..doctor.findings import Diagnosis
from ..snapshots.queries import Overview
from ..snapshots.status import Status
from ..snapshots.types import Drift, KnownMigrations, Member, Snapshot, Undo

# What fields of a diff are called, and which have objects of their own.
_CALLED: Final = {"alias": "database", "method": "compared_by"}
_APART: Final = {"schema", "tables", "rows"}
_SNAPSHOT: Final = (
    *("name", "note", "taken_at", "seconds", "size_bytes", "pinned", "spare", "completeness"),
    *("git_branch", "git_commit", "git_dirty", "members"),
)


def to_plain(of: Any) -> Any:
    """Return what the json module cannot write by itself as something that it can."""
    plain: Any
    match of:
        case datetime():
            plain = of.isoformat()
        case Snapshot():
            facts = {name: getattr(of, name) for name in _SNAPSHOT}
            plain = {**facts, "complete": of.is_complete, "outside": list(map(str, of.elsewhere))}
        case Undo():
            plain = {
                "replaced_by": of.name,
                "replaced_at": of.taken_at,
                "by_undo": of.by_undo,
                "based_on": of.based_on or None,
                "unwritten": of.is_unwritten,
                "size_bytes": of.size_bytes,
                "members": of.members,
            }
        case Member():
            plain = {
                "alias": of.alias,
                "source": of.record.source,
                "database": of.database.name,
                "size_bytes": of.record.size_bytes,
                "strategy": of.record.strategy,
                "spare": of.spare,
            }
        case Drift():
            missing, unknown = (list(map(".".join, each)) for each in (of.missing, of.unknown))
            plain = {"missing": missing, "unknown": unknown}
        case Overview():
            code = KnownMigrations()
            snapshots = [
                {**to_plain(each), "migrations": code.drift(each.migrations)}
                for each in of.snapshots
            ]
            facts = {name: getattr(of, name) for name in ("undos", "beside", "occupied_bytes")}
            plain = {"snapshots": snapshots, **facts}
        case Status():
            plain = {"live": of.live, "underway": of.overview.underway, **to_plain(of.overview)}
        case Diagnosis():
            plain = {"healthy": not of.problems, **vars(of)}
        case _:
            plain = asdict(of)
    return plain


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
