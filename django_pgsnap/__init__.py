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
    from .doctor.diagnosis import diagnose
    from .doctor.finding import Diagnosis, Finding
    from .errors import PgsnapError
    from .snapshots.checkpoint import checkpoint
    from .snapshots.housekeeping import annotate, delete, pin, rename
    from .snapshots.listing import Overview, get, list_snapshots, overview
    from .snapshots.model import Member, Snapshot, Undo
    from .snapshots.refilling import refill
    from .snapshots.restore import restore
    from .snapshots.take import take
    from .snapshots.undo import undo

__all__ = [
    "Diagnosis",
    "Finding",
    "Member",
    "Overview",
    "PgsnapError",
    "Snapshot",
    "Undo",
    "annotate",
    "checkpoint",
    "delete",
    "diagnose",
    "get",
    "list_snapshots",
    "overview",
    "pin",
    "refill",
    "rename",
    "restore",
    "take",
    "undo",
]

_HOMES = {
    "Diagnosis": "doctor.finding",
    "Finding": "doctor.finding",
    "Member": "snapshots.model",
    "Overview": "snapshots.listing",
    "PgsnapError": "errors",
    "Snapshot": "snapshots.model",
    "Undo": "snapshots.model",
    "annotate": "snapshots.housekeeping",
    "checkpoint": "snapshots.checkpoint",
    "delete": "snapshots.housekeeping",
    "diagnose": "doctor.diagnosis",
    "get": "snapshots.listing",
    "overview": "snapshots.listing",
    "pin": "snapshots.housekeeping",
    "refill": "snapshots.refilling",
    "rename": "snapshots.housekeeping",
    "restore": "snapshots.restore",
    "list_snapshots": "snapshots.listing",
    "take": "snapshots.take",
    "undo": "snapshots.undo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
