"""Other processes carry on after a restore: real web servers, with each kind of connection."""

from pathlib import Path
from typing import Any

import pytest

from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.project import point
from tests.serving import serving
from tests.staleness import change, is_fresh

NEITHER: dict[str, Any] = {"CONN_MAX_AGE": 0}
PERSISTENT: dict[str, Any] = {"CONN_MAX_AGE": 600}
POOL: dict[str, Any] = {"OPTIONS": {"pool": True}}


@pytest.mark.parametrize(
    ("connections", "kinds"),
    [
        pytest.param(NEITHER, ("runserver that reloads", "workers"), id="neither"),
        pytest.param(PERSISTENT, ("runserver", "workers", "threads"), id="persistent"),
        pytest.param(POOL, ("runserver", "preloaded workers", "threads"), id="pool"),
    ],
)
def test_next_request(
    connections: dict[str, Any], kinds: tuple[str, ...], live: str, tmp_path: Path
) -> None:
    """After a restore and after an undo, all that is answered is true, and each is told once."""
    take("seeded")
    change()
    point("default", CONN_HEALTH_CHECKS=False, **connections)

    with serving(kinds, tmp_path) as servers:
        before = [server.get_from_all("/state/") for server in servers]
        restore("seeded")
        after = [server.get_from_all("/state/") for server in servers]
        undo()
        undone = [server.get_from_all("/state/") for server in servers]
        told = [server.get_from_all("/state/") for server in servers]

    assert wrong(before, authors=1) == []
    assert wrong(after, authors=0) == []
    assert wrong(undone, authors=1) == []
    assert {tuple(answer["told"]) for answers in told for answer in answers} == {
        ("default", "default")
    }


def wrong(answers: list[list[Any]], *, authors: int) -> list[Any]:
    return [one for each in answers for one in each if not is_fresh(one, authors=authors)]
