"""Rows: what the pages show of one snapshot, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .. import wording as plain
from ..drift import Code, Drift
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot
from . import wording

_SHORT_COMMIT: Final = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """One snapshot, as the pages show it.

    Attributes:
        snapshot: The snapshot.
        drift: How far its migrations are from this checkout's.
        percent: Its size in per cent of the largest one's.
    """

    snapshot: Snapshot
    drift: Drift
    percent: int = 100

    @property
    def age(self) -> str:
        """How long ago it was taken."""
        return wording.ago(self.snapshot.taken_at)

    @property
    def size(self) -> str:
        """What it occupies."""
        return plain.size(self.snapshot.size_bytes)

    @property
    def databases(self) -> str:
        """Its databases, by alias."""
        return ", ".join(map(plain.printable, self.snapshot.aliases))

    @property
    def note(self) -> str:
        """Its note, on one line."""
        return plain.printable(self.snapshot.note)

    @property
    def branch(self) -> str:
        """The branch of the code that it was taken with."""
        return plain.printable(self.snapshot.git_branch)

    @property
    def commit(self) -> str:
        """The commit of that code, as git abbreviates it."""
        return plain.printable(self.snapshot.git_commit[:_SHORT_COMMIT])

    @property
    def drift_badges(self) -> list[tuple[str, str]]:
        """The drift in kinds (``current``, ``behind``, ``unknown``), each in words."""
        return wording.drift(self.drift)

    @property
    def spare(self) -> str:
        """The state of its spare, in words."""
        return wording.spare(self.snapshot)


def rows(overview: Overview) -> Iterator[Row]:
    """Return all snapshots as rows, each compared with the others and with this checkout."""
    code = Code()
    largest = max((each.size_bytes for each in overview.snapshots), default=0)
    for each in overview.snapshots:
        percent = round(100 * each.size_bytes / largest) if largest else 0
        yield Row(snapshot=each, drift=code.drift(each.migrations), percent=percent)
