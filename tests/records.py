"""Records for tests, of which only what matters has to be said, and their databases."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from django_pgsnap.clones.names import unfinished_name
from django_pgsnap.clones.records import (
    CopyRecord,
    Record,
    TemplateRecord,
    UndoRecord,
    encode_record,
)
from django_pgsnap.clones.transitions import Clone, publish_copy
from django_pgsnap.postgres.session import Session

IDENTITY = "0123456789abcdef"

KEYS = ["pgsnap", "kind", *(field.name for field in fields(CopyRecord))]
_numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**63, 1e308])
_values = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_DEFAULTS: dict[str, Any] = {
    "identity": IDENTITY,
    "set_id": "fedcba9876543210",
    "members": 1,
    "name": "seeded",
    "alias": "default",
    "source": "live",
    "taken_at": datetime(2024, 2, 29, 12, tzinfo=UTC),
    "size_bytes": 8 * 1024**2,
}

# What can be written over what is in a record.
CHANGES = st.dictionaries(st.sampled_from(KEYS), _values, max_size=4)


def copy_record(**values: Any) -> CopyRecord:
    """Return the record of a published copy of the live database ``live``."""
    return CopyRecord(**{**_DEFAULTS, **values})


def undo_record(**values: Any) -> UndoRecord:
    """Return the record of an undo of the live database ``live``."""
    return UndoRecord(**{**_DEFAULTS, **values})


def template_record(**values: Any) -> TemplateRecord:
    """Return the record of a template of test databases of the live database ``live``."""
    return TemplateRecord(**{**_DEFAULTS, **values})


def comment_with(**changes: object) -> str:
    """Return the comment of `copy_record`, with anything in it."""
    return json.dumps({**json.loads(encode_record(copy_record())), **changes})


def make_copy(session: Session, record: Record, *, owner: str = "postgres") -> None:
    """Make the database that the record describes, as a take does."""
    unfinished = unfinished_name(record.identity)
    clone = Clone(source=record.source, name=unfinished, owner=owner, strategy="file_copy")
    session.execute(clone.statement)
    session.execute(publish_copy(unfinished, record))
