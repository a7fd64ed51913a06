"""Receivers of pre_migrate and post_migrate, where a template makes migrating needless."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate
from django.test.utils import CaptureQueriesContext

from django_pgsnap.testing.databases import setup

heard: list[tuple[str, str, str]] = []


def hear(signal: Any, sender: Any, using: str, plan: list[Any], **_: Any) -> None:
    assert plan == []
    heard.append(("before" if signal is pre_migrate else "after", sender.label, using))


@pytest.fixture
def _listening() -> Iterator[None]:
    heard.clear()
    for signal in (pre_migrate, post_migrate):
        signal.connect(hear, sender=apps.get_app_config("testapp"))
    yield
    for signal in (pre_migrate, post_migrate):
        signal.disconnect(hear, sender=apps.get_app_config("testapp"))


@pytest.mark.usefixtures("_listening")
def test_told(live: str) -> None:
    """A project's receivers hear of a migration with nothing to do; Django's own are spared."""
    before = list(post_migrate.receivers or ())

    with CaptureQueriesContext(connections["default"]) as queries:
        setup.tell_receivers("default", 0)

    assert heard == [("before", "testapp", "default"), ("after", "testapp", "default")]
    assert len(queries) == 0
    assert post_migrate.receivers == before


def test_receivers_that_change(live: str) -> None:
    """A receiver that disconnects itself stays away, and one that it connects stays, in order."""
    before = list(post_migrate.receivers or ())

    def first(**_: Any) -> None:
        post_migrate.disconnect(first)
        post_migrate.connect(second)

    def second(**_: Any) -> None:
        """Hear of what comes next."""

    post_migrate.connect(first)
    try:
        setup.tell_receivers("default", 0)

        now = list(post_migrate.receivers or ())
        assert now[:-1] == before
        assert now[-1][1]() is second
    finally:
        post_migrate.disconnect(first)
        post_migrate.disconnect(second)


def test_nobody_to_tell(set_alias: Any) -> None:
    """Where only Django listens, no connection is opened."""
    setup.tell_receivers("default", 0)

    assert connections["default"].connection is None
