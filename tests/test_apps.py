"""The app's entry: what starts with Django, and what does not."""

import sys
from collections.abc import Callable

import pytest
from django.apps import apps
from django.conf import settings

from django_pgsnap.conf import RUN_DATABASES, TEST_DATABASES
from django_pgsnap.connections import reconnect
from tests.project import Manage

Ready = Callable[[], bool]


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Ready:
    """Starts the app once more, and tells whether it began to watch for restores."""

    def start() -> bool:
        begun: list[bool] = []
        monkeypatch.setattr(reconnect, "watch_connections", lambda: begun.append(True))
        apps.get_app_config("django_pgsnap").ready()
        return begun == [True]

    return start


@pytest.mark.parametrize(
    ("given", "debug", "watches"),
    [
        ({"ENABLED": True}, False, True),
        ({}, True, True),
        ({}, False, False),
        ({"ENABLED": False}, True, False),
        ({"WAIT_S": "10"}, True, False),
        (None, True, False),
    ],
)
def test_ready(
    given: object, debug: bool, watches: bool, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process watches for restores where the app is on; bad settings are left to the checks."""
    monkeypatch.setattr(settings, "PGSNAP", given)
    monkeypatch.setattr(settings, "DEBUG", debug)

    assert ready() is watches


def test_ready_without_psycopg(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg Django starts all the same, so that the check can say what is missing."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    assert ready() is False


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("nonsense", "cannot be read."),
        ('{"default": 1}', "cannot be read."),
        (
            '{"nowhere": "pgsnap_run_0123456789abcdef"}',
            "names the alias 'nowhere', which",
        ),
    ],
)
def test_broken_clones(value: str, why: str, live: str, manage: Manage) -> None:
    """Where a command cannot be led to its clones it says so, and works on no live database."""
    look = ["shell", "-v", "0", "-c", "from django.db import connection as c; c.connect()"]

    stopped = manage("pgsnap", "list", env={RUN_DATABASES: value})
    unchecked = manage(*look, env={RUN_DATABASES: value})

    assert f"(pgsnap.E006) {RUN_DATABASES} in the environment {why}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert f'database "{RUN_DATABASES} cannot be read" does not exist' in unchecked.stderr


def test_broken_announcement(live: str, manage: Manage) -> None:
    """Where a command cannot be led to test databases, pgsnap refuses; others only warn."""
    refused = manage("pgsnap", "take", env={TEST_DATABASES: "nonsense"})
    other = manage("check", env={TEST_DATABASES: "nonsense"})

    assert f"{TEST_DATABASES} in the environment cannot be read." in refused.stderr
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert (other.returncode, "(pgsnap.W004)" in other.stderr) == (0, True)
