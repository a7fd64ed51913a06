"""Checkpoint: a take on entry to a block of code, and its restore on exit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..clones.names import new_identity
from ..reporting import Reporter
from .replace_live import ReplaceRequest
from .restore import restore_as
from .take import take
from .types import Snapshot


@contextmanager
def checkpoint(*, databases: Sequence[str] | None = None) -> Iterator[Snapshot]:
    """Take a snapshot on entry, and restore it on exit, whatever happens in between.

    The copy itself is swapped in, so nothing is copied twice and no snapshot stays behind. What
    the block did can be had back by `undo`.

    Args:
        databases: Aliases; None for all that the settings name.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. If that is on exit, the snapshot
            stays, under the name that it has in the block.
    """
    snapshot = take(f"checkpoint-{new_identity()}", databases=databases, pin=True, spare=False)
    try:
        yield snapshot
    finally:
        request = ReplaceRequest.of(keep_undo=None, wait_s=None, force=False)
        restore_as(snapshot.name, snapshot.aliases, request, Reporter(), consume=True)
