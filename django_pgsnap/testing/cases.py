"""Test cases that start from development snapshots.

Django's test cases over baselines: every class starts from one, and so does every test.

This stands in for what ``TransactionTestCase`` does between tests. Classes of ``TestCase`` keep
their transactions.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import SkipTest
from unittest.util import strclass
from weakref import WeakSet

from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connections
from django.test import TestCase, TransactionTestCase
from django.test.testcases import TestData  # type: ignore[attr-defined]

from ..conf import test_config
from ..errors import ConfigurationError
from .databases import snapshot_source
from .managed import keeper_of, kept_of, only_others
from .replacing import stock
from .reset.baseline import Baseline
from .reset.resetter import Keeper, forget_cached, leave_floors, on_behalf_of


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
    found = {
        alias: snapshot_source.find_copy(keeper.session, alias, snapshot)
        for alias, keeper in kept.items()
    }
    if not any(found.values()):
        alias, keeper = next(iter(kept.items()))
        error = snapshot_source.describe_missing_snapshot(keeper.session, alias, snapshot)
        raise error if test_config().require_snapshots else SkipTest(str(error))
    for alias, copy in found.items():
        if copy is not None:
            cls.addClassCleanup(kept[alias].leave_class)
            with on_behalf_of(strclass(cls), alias):
                snapshot_source.start_from_copy(
                    kept[alias], copy, partial(_migrate, alias, snapshot)
                )


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


# Classes whose own data is in their baseline.
_with_data: WeakSet[type] = WeakSet()


def start(cls: type) -> None:
    """Put the databases that a test class may use to what it starts from.

    Raises:
        PgsnapError: That was not possible.
    """
    _with_data.discard(cls)
    for alias, keeper in kept_of(cls):
        with on_behalf_of(strclass(cls), alias):
            keeper.start(_start_of(cls, alias, keeper))


def start_module() -> None:
    """Put all databases to the baseline of the whole run, for a module to set them up.

    Raises:
        PgsnapError: That was not possible.
    """
    for alias in connections:
        if (keeper := keeper_of(alias)) is not None:
            with on_behalf_of("the module", alias):
                keeper.start()


def adopt_module() -> None:
    """Have the classes of a module start from what it has just set up.

    Raises:
        PgsnapError: That was not possible.
    """
    for alias in connections:
        if (keeper := keeper_of(alias)) is not None:
            with on_behalf_of("the module", alias):
                keeper.floor = keeper.adopt()


def leave_module() -> None:
    """Have the next module's classes start from the baseline of the whole run again."""
    leave_floors()


def fixture_setup(cls: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_setup``: what there is already is not made.

    Data of migrations is there, so nothing is deserialized. Fixtures are loaded before each test;
    but where the class makes data, once, so that they belong to its baseline.
    """
    make_up(cls)
    if cls in _with_data:
        return
    kept = dict(kept_of(cls))
    if is_flushed(cls):
        stock(TransactionTestCase, "_fixture_setup").__func__(cls)
    else:
        with only_others(cls):
            stock(TransactionTestCase, "_fixture_setup").__func__(cls)
        for alias in kept:
            if cls.reset_sequences:
                _restart_sequences(alias)
            if cls.fixtures:
                call_command("loaddata", *cls.fixtures, verbosity=0, database=alias)
    if kept and hasattr(cls, "setUpTestData"):
        _set_up_test_data(cls, kept)


def fixture_teardown(self: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_teardown``: a reset instead of a flush."""
    kept = dict(kept_of(type(self)))
    with only_others(type(self)):
        stock(TransactionTestCase, "_fixture_teardown")(self)
    with ExitStack() as all_of_them:
        for alias, keeper in kept.items():
            # Called in any case; what one of them raises does not keep the others from it.
            all_of_them.callback(_reset, keeper, alias, f"what comes after {self.id()}")


def make_up(cls: Any) -> None:
    """Put back what could not be put back after the last test of a class.

    Raises:
        PgsnapError: It still cannot.
    """
    for alias, keeper in kept_of(cls):
        if keeper.overdue:
            _reset(keeper, alias, strclass(cls))


def _reset(keeper: Keeper, alias: str, who: str) -> None:
    with on_behalf_of(who, alias):
        keeper.reset()
    # A flush does so, too, by way of post_migrate.
    forget_cached(alias)


def _set_up_test_data(cls: Any, kept: dict[str, Keeper]) -> None:
    """Have a class make its data once, and its tests start from them."""
    before = dict(vars(cls))
    cls.setUpTestData()
    for name, value in dict(vars(cls)).items():
        if value is not before.get(name):
            setattr(cls, name, TestData(name, value))
    for alias, keeper in kept.items():
        with on_behalf_of(strclass(cls), alias):
            keeper.adopt()
            cls.addClassCleanup(keeper.leave_class)
    _with_data.add(cls)


def _start_of(cls: type, alias: str, keeper: Keeper) -> Baseline | None:
    if not is_flushed(cls):
        return None
    # Where Django itself fills the tables before each test, its flush leaves them quite empty.
    bare = getattr(cls, "available_apps", None) is not None or getattr(
        cls, "serialized_rollback", False
    )
    return keeper.layer(
        "flushed, bare" if bare else "flushed",
        lambda: call_command(
            "flush",
            verbosity=0,
            interactive=False,
            database=alias,
            reset_sequences=False,
            allow_cascade=True,
            inhibit_post_migrate=bare,
        ),
    )


def is_flushed(cls: type) -> bool:
    """Tell whether a class starts from what a flush leaves."""
    commits = issubclass(cls, TransactionTestCase) and not issubclass(cls, TestCase)
    return commits and not issubclass(cls, SnapshotTestCase) and test_config().baseline == "flushed"


def has_own_start(cls: type) -> bool:
    """Tell whether a class' tests start from data of its own, or from a snapshot."""
    return cls in _with_data or issubclass(cls, SnapshotTestCase)


def _restart_sequences(alias: str) -> None:
    """Number rows from 1 on in the tables that have none; what migrations inserted has numbers."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        sequences = connection.introspection.sequence_list()
        empty = []
        for sequence in sequences:
            table = connection.ops.quote_name(sequence["table"])
            cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608  # quoted
            if cursor.fetchone() == (False,):
                empty.append(sequence)
        for statement in connection.ops.sequence_reset_by_name_sql(no_style(), empty):
            cursor.execute(statement)
