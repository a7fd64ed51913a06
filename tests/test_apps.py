"""The app's entry: what starts with Django, and what does not."""

import sys
from collections.abc import Callable

import pytest
from django.apps import apps
from django.conf import settings

from django_pgsnap.connections import restore_detection

Ready = Callable[[], bool]


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Ready:
    """Starts the app once more, and tells whether it began to watch for restores."""

    def start() -> bool:
        begun: list[bool] = []
        monkeypatch.setattr(restore_detection, "watch_connections", lambda: begun.append(True))
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
