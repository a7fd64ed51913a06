"""Test cases that start from development snapshots."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import SkipTest
from unittest.util import strclass

from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase

from ..conf import test_config
from ..errors import ConfigurationError
from ..testbed import keepers, seeds
from .kept import kept_of


class SnapshotTestCase(TransactionTestCase):
    """Tests that start from a development snapshot, migrated to the state of the code.

    Attributes:
        snapshot: The snapshot's name. Aliases that it has no copy of are as in other cases.
    """

    snapshot: str

    @classmethod
    def setUpClass(cls) -> None:
        """Put the snapshot into the test databases.

        Raises:
            SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
            SnapshotNotFoundError: There is none, and it is on.
            ConfigurationError: The tests do not run on our test databases.
        """
        start_from_snapshot(cls, cls.snapshot)
        super().setUpClass()


def start_from_snapshot(cls: Any, snapshot: str) -> None:
    """Have the tests of a class start from a development snapshot.

    Raises:
        SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
        SnapshotNotFoundError: There is none, and it is on.
        ConfigurationError: The tests do not run on our test databases.
    """
    kept = dict(kept_of(cls))
    if not kept:
        raise ConfigurationError(
            f"{strclass(cls)} cannot start from the snapshot {snapshot!r}, since its databases "
            "were not made by django_pgsnap.",
            hint="Set TEST_RUNNER = 'django_pgsnap.testing.SnapshotRunner'.",
        )
    found = {alias: seeds.find(keeper.session, alias, snapshot) for alias, keeper in kept.items()}
    if not any(found.values()):
        alias, keeper = next(iter(kept.items()))
        error = seeds.missing(keeper.session, alias, snapshot)
        raise error if test_config().require_snapshots else SkipTest(str(error))
    for alias, copy in found.items():
        if copy is not None:
            cls.addClassCleanup(kept[alias].leave_class)
            with keepers.on_behalf_of(strclass(cls), alias):
                seeds.start(kept[alias], copy, partial(_migrate, alias, snapshot))


def _migrate(alias: str, snapshot: str) -> None:
    if not connections.settings[alias]["TEST"]["MIGRATE"]:
        return
    try:
        call_command("migrate", database=alias, verbosity=0, interactive=False, run_syncdb=True)
    except Exception as error:
        error.add_note(
            f"So the snapshot {snapshot!r} cannot be brought to the state of the code, in alias "
            f"{alias!r}.\nTake it again: manage.py pgsnap take {snapshot} --replace"
        )
        raise
