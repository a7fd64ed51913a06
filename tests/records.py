"""Records for tests, of which only what matters has to be said."""

from datetime import UTC, datetime
from typing import Any

from django_pgsnap.metadata import Record

IDENTITY = "0123456789abcdef"


def copy_record(**values: Any) -> Record:
    """Return the record of a published copy of the live database ``live``."""
    defaults: dict[str, Any] = {
        "kind": "copy",
        "identity": IDENTITY,
        "set_id": "fedcba9876543210",
        "members": 1,
        "name": "seeded",
        "alias": "default",
        "source": "live",
        "taken_at": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "size_bytes": 8 * 1024**2,
    }
    return Record(**{**defaults, **values})


def undo_record(**values: Any) -> Record:
    """Return the record of an undo of the live database ``live``."""
    return copy_record(**{"kind": "undo", **values})
