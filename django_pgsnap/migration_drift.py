"""How far a snapshot's migrations are from those of the code at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.migrations.loader import MigrationLoader

# App and name of a migration.
Migrations = tuple[tuple[str, str], ...]
MigrationKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The difference between a snapshot's migrations and the code's.

    Attributes:
        missing: In the code, not in the snapshot; ``restore --migrate`` applies them.
        unknown: In the snapshot, not in the code: another branch's, usually.
        is_known: Whether it is known which migrations the snapshot has.
    """

    missing: Migrations = ()
    unknown: Migrations = ()
    is_known: bool = True

    def __str__(self) -> str:
        parts = [] if self.is_known else ["not known"]
        if self.missing:
            parts.append(f"{len(self.missing)} not run")
        if self.unknown:
            parts.append(f"{len(self.unknown)} not in this code")
        return ", ".join(parts)


def describe_drift(drift: Drift) -> Iterator[str]:
    """Yield what to do about the difference, a sentence for each side of it."""
    if count := len(drift.missing):
        yield f"{_count(count)} not run: run migrate, or restore with --migrate."
    if count := len(drift.unknown):
        yield f"{_count(count)} that this code does not have: those of another branch, usually."


def _count(count: int) -> str:
    return f"{count} migration{'' if count == 1 else 's'}"


class KnownMigrations:
    """The migrations of the code at hand; loading them takes a moment, so do it once."""

    def __init__(self) -> None:
        """Read the migrations of all installed apps."""
        loader = MigrationLoader(None, load=False)
        loader.load_disk()
        # Ours only says which permissions there are; no data hangs on it.
        self._on_disk = {key for key in loader.disk_migrations if key[0] != "django_pgsnap"}
        self._replaced = {
            key: set(migration.replaces)
            for key, migration in loader.disk_migrations.items()
            if migration.replaces
        }

    def drift(self, applied: Migrations | None) -> Drift:
        """Return how far a snapshot with these migrations is from the code; None for unknown."""
        if applied is None:
            return Drift(is_known=False)
        present = self._with_squashed(set(applied))
        absent = self._on_disk - present
        missing = set(absent)
        for squashed in absent & self._replaced.keys():
            replaced = self._replaced[squashed]
            # Django goes on with the old ones where some are applied, else takes the squashed one.
            missing -= {squashed} if replaced & present else replaced
        known = self._on_disk.union(*self._replaced.values())
        return Drift(
            missing=tuple(sorted(missing)),
            unknown=tuple(sorted(key for key in set(applied) - known if key[0] != "django_pgsnap")),
        )

    def _with_squashed(self, present: set[MigrationKey]) -> set[MigrationKey]:
        """Return these with the squashed migrations that stand for them, or they for it.

        A squashed migration counts as applied once all that it replaces are, and the other way
        round. It may itself have been squashed.
        """
        while True:
            before = set(present)
            for squashed, replaced in self._replaced.items():
                if replaced <= present:
                    present.add(squashed)
                elif squashed in present:
                    present |= replaced
            if present == before:
                return present
