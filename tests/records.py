"""Records for tests, of which only what matters has to be said, and their databases."""

from datetime import UTC, datetime
from typing import Any

from django_pgsnap import names, stages
from django_pgsnap.cloning import Clone
from django_pgsnap.metadata import Record
from django_pgsnap.session import Session

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


def make_copy(session: Session, record: Record, *, owner: str = "postgres") -> None:
    """Make the database that the record describes, as a take does."""
    unfinished = names.unfinished_name(record.identity)
    clone = Clone(source=record.source, name=unfinished, owner=owner, strategy="file_copy")
    session.execute(clone.statement)
    session.execute(stages.publish(unfinished, record))
