"""Pruning: which snapshots go, and which stay."""

from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from django_pgsnap.errors import ConfigurationError
from django_pgsnap.postgres.advisory_locks import try_acquire_lock
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.manage import prune
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.take import take

NAMES = ["first", "second", "third", "fourth"]


@pytest.fixture
def size_bytes(live: str) -> int:
    """Four snapshots of the same size, which this is; the second is pinned."""
    taken = [take(name, pin=name == "second", spare=False) for name in NAMES]
    return taken[0].size_bytes


def left() -> list[str]:
    return [snapshot.name for snapshot in reversed(list_snapshots())]


def test_keeps_the_newest(size_bytes: int) -> None:
    """With a number alone all but the newest go; pinned ones stay and are not counted."""
    gone = prune(keep=1)

    assert [snapshot.name for snapshot in gone] == ["third", "first"]
    assert left() == ["second", "fourth"]


def test_deletes_old_ones_but_keeps_the_newest(size_bytes: int) -> None:
    """What is older than the limit goes, but for the newest that are protected."""
    assert prune(older_than=timedelta(days=1)) == []

    prune(older_than=timedelta(0), keep=1)

    assert left() == ["second", "fourth"]


def test_age_is_by_the_servers_clock(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are dated by the server, and so is their age, whatever our own clock says."""

    class TurnedOn(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=365)

    monkeypatch.setattr("django_pgsnap.snapshots.manage.datetime", TurnedOn)
    take("seeded", spare=False)

    assert prune(older_than=timedelta(days=1)) == []


def test_deletes_the_oldest_until_the_rest_fits(size_bytes: int) -> None:
    """No more goes than has to, the oldest first."""
    assert prune(max_bytes=4 * size_bytes) == []

    prune(max_bytes=4 * size_bytes - 1)

    assert left() == ["second", "third", "fourth"]


def test_pinned_ones_stay_whatever_they_occupy(size_bytes: int) -> None:
    """A limit that the pinned ones alone exceed takes all the others."""
    prune(max_bytes=0)

    assert left() == ["second"]


def test_dry_run_only_tells(size_bytes: int, live: str, session: Session) -> None:
    """What would go is returned, and nothing goes, whatever else is at work meanwhile."""
    assert try_acquire_lock(session, live)

    would = prune(keep=0, dry_run=True)

    assert [snapshot.name for snapshot in would] == ["fourth", "third", "first"]
    assert left() == NAMES


def test_needs_a_limit(live: str) -> None:
    """Without any limit nothing is pruned, and it is an error."""
    with pytest.raises(ConfigurationError, match="Pruning needs a limit"):
        prune()


@pytest.mark.parametrize(
    "limits", [{"keep": -1}, {"max_bytes": -1}, {"older_than": timedelta(seconds=-1)}]
)
def test_limits_below_zero(live: str, limits: dict[str, Any]) -> None:
    """A limit that means nothing is refused, and nothing is deleted."""
    take("seeded", spare=False)

    with pytest.raises(ConfigurationError, match=f"cannot go by {next(iter(limits))} = -1"):
        prune(**limits)

    assert len(list_snapshots()) == 1
