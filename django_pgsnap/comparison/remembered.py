"""Sums of copies, kept in files of the user: nobody writes to a copy, so they stay true.

They count only as long as nobody can have written. Opening and shutting a database writes its row
in ``pg_database`` anew, which the row's ``xmin`` tells; and while we had it open, the server
counted no session but ours.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from ..postgres.inspection import DatabaseCounters, read_counters
from ..postgres.session import Session

_KEPT_S: Final = 30 * 24 * 60 * 60.0
_ROW: Final = sql.SQL("SELECT oid::bigint, xmin::text FROM pg_database WHERE datname = %s")
_FLUSH: Final = sql.SQL("SELECT pg_stat_force_next_flush()")


@dataclass
class Remembered:
    """What is known of a copy.

    Attributes:
        key: What hashes of row versions begin with.
        sums: Sums of the ranges of tables, by whatever tells table and ranges.
    """

    path: Path | None = None
    state: object = None
    key: int = field(default_factory=lambda: secrets.randbits(62))
    sums: dict[str, list[int]] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file, and remove those that were not written for long."""
        if self.path is None or not self.sums:
            return
        facts = {"state": self.state, "key": self.key, "sums": self.sums}
        # Without a place for files all is read again next time.
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self.path.with_suffix(f".{os.getpid()}")
            new.touch(mode=0o600)
            new.write_text(json.dumps(facts))
            new.replace(self.path)
            for each in self.path.parent.glob("sums-*"):
                if each.stat().st_mtime < time.time() - _KEPT_S:
                    each.unlink()


@dataclass(frozen=True, kw_only=True)
class CopyState:
    """A shut copy, as it is before we open it."""

    name: str
    row: tuple[Any, ...]
    counters: DatabaseCounters | None

    @classmethod
    def read(cls, maintenance: Session, name: str) -> CopyState:
        """Read which database it is, and how many sessions were ever on it."""
        rows = maintenance.rows(_ROW, [name])
        return cls(
            name=name,
            row=tuple(rows[0]) if rows else (),
            counters=read_counters(maintenance, [name]).get(name),
        )

    def recall(self, maintenance: Session, ours: Session, row: tuple[Any, ...]) -> Remembered:
        """Return what is known of the copy, now that our session is on it and it is shut again.

        Its row is as `read_row` gave it in the transaction that shut the copy.
        """
        ours.rows(_FLUSH)
        now = read_counters(maintenance, [self.name]).get(self.name)
        before = self.counters
        if (
            now is None
            or before is None
            or (now.epoch, now.sessions) != (before.epoch, before.sessions + 1)
        ):
            return Remembered()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "django-pgsnap"
        path = cache / f"sums-{ours.identity.system}-{row[0]}"
        known = _load(path)
        state = [*row, now.epoch]
        if known.get("state") != [*self.row, now.epoch]:
            return Remembered(path=path, state=state)
        return Remembered(path=path, state=state, key=known["key"], sums=known["sums"])


def read_row(maintenance: Session, name: str) -> tuple[Any, ...]:
    """Return what tells this state of a database's settings from all others."""
    return tuple(maintenance.rows(_ROW, [name])[0])


def _load(path: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}
