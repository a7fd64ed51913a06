"""Snapshots inside of a test: taken of the test databases, and gone when the test is over."""

from __future__ import annotations

from ..snapshots.manage import delete
from ..snapshots.restore import restore, undo
from ..snapshots.take import take
from ..snapshots.types import Snapshot


class TestSnapshots:
    """Takes and restores snapshots of this process' test databases."""

    # So that pytest does not take it for a class of tests.
    __test__ = False

    restore = staticmethod(restore)
    undo = staticmethod(undo)

    def __init__(self) -> None:
        self._taken: list[str] = []

    def take(self, name: str | None = None) -> Snapshot:
        """Take a snapshot; without a name it is ``snap1``, ``snap2``, …."""
        # No spare: a restore in the next moment would wait for it.
        snapshot = take(name, spare=False)
        self._taken.append(snapshot.name)
        return snapshot

    def end(self) -> None:
        if self._taken:
            delete(*self._taken)
            self._taken.clear()
