"""The pytest plugin: what the runner does, for suites that pytest-django runs.

pytest loads this before there are settings, and where there will never be any. So it imports
nothing of Django at first, and does nothing where ``django_pgsnap`` is not among the installed
apps.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .snapshots import TestSnapshots


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, object, object]:
    """Have test databases cloned from templates, whoever's fixture it is that sets them up."""
    if fixturedef.argname == "django_db_setup" and _is_on():
        from . import creation

        creation.install()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    """Leave test databases to Django again, once all fixtures are torn down."""
    result = yield
    if _is_on():
        from . import creation

        # With --reuse-db, pytest-django does not tear them down.
        creation.keep_what_is_left()
        creation.uninstall()
    return result


@pytest.fixture
def pgsnap(transactional_db: None) -> Iterator[TestSnapshots]:  # noqa: ARG001  # for its effect
    """Take snapshots of the test databases and restore them; they are gone after the test."""
    if not _is_on():
        pytest.fail("The fixture pgsnap needs django_pgsnap in INSTALLED_APPS.", pytrace=False)
    from .snapshots import TestSnapshots

    snapshots = TestSnapshots()
    yield snapshots
    snapshots.end()


def _is_on() -> bool:
    """Tell whether this is a Django project that has the app."""
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return False
    from django.apps import apps

    return apps.ready and apps.is_installed("django_pgsnap")
