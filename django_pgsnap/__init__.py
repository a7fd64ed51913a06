"""Snapshots of a Django project's PostgreSQL databases, taken and restored in milliseconds.

The same verbs as the management command ``pgsnap`` has::

    from django_pgsnap import checkpoint, restore, take

    take("seeded")
    restore("seeded")

    with checkpoint():
        erase_signer("ada@example.com")

Names are loaded when they are first used, since Django imports this package before there are
settings, and the system checks must be able to report that psycopg is missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison.diff import diff
    from .comparison.types import Diff, RowChange, SchemaChange, TableDiff
    from .doctor.diagnosis import diagnose
    from .doctor.findings import Diagnosis, Finding
    from .errors import PgsnapError
    from .snapshots.manage import annotate, delete, pin, prune, refill, rename
    from .snapshots.purge import purge
    from .snapshots.queries import Overview, get, list_snapshots, overview
    from .snapshots.restore import checkpoint, restore, undo
    from .snapshots.status import Status, read_status
    from .snapshots.take import take
    from .snapshots.types import Member, Snapshot, Undo

__all__ = [
    "Diagnosis",
    "Diff",
    "Finding",
    "Member",
    "Overview",
    "PgsnapError",
    "RowChange",
    "SchemaChange",
    "Snapshot",
    "Status",
    "TableDiff",
    "Undo",
    "annotate",
    "checkpoint",
    "delete",
    "diagnose",
    "diff",
    "get",
    "list_snapshots",
    "overview",
    "pin",
    "prune",
    "purge",
    "read_status",
    "refill",
    "rename",
    "restore",
    "take",
    "undo",
]

_MODULES = {
    "comparison.diff": ("diff",),
    "comparison.types": ("Diff", "RowChange", "SchemaChange", "TableDiff"),
    "doctor.diagnosis": ("diagnose",),
    "doctor.findings": ("Diagnosis", "Finding"),
    "errors": ("PgsnapError",),
    "snapshots.manage": ("annotate", "delete", "pin", "prune", "refill", "rename"),
    "snapshots.purge": ("purge",),
    "snapshots.queries": ("Overview", "get", "list_snapshots", "overview"),
    "snapshots.restore": ("checkpoint", "restore", "undo"),
    "snapshots.status": ("Status", "read_status"),
    "snapshots.take": ("take",),
    "snapshots.types": ("Member", "Snapshot", "Undo"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
