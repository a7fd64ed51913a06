"""Baselines for pytest, where fixtures of any scope may write between tests.

A test that commits starts from what it finds, and the databases are put back to that after it. So
what fixtures of a module or a class have committed stays, which a flush would take with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.util import strclass

from django.db import connections
from django.test import TransactionTestCase

from . import cases
from .cases import (
    fixture_setup,
    fixture_teardown,
    has_own_start,
    is_flushed,
    make_up,
    start_from_snapshot,
)
from .managed import keeper_of, kept_of
from .replacing import replace
from .reset import connections as connections_module
from .reset.baseline import Baseline
from .reset.resetter import Keeper, forget_cached, on_behalf_of

# The development snapshot that tests start from now, empty for none.
_snapshot = ""


def install() -> None:
    """Have tests that commit be followed by a reset from now on, in this process."""
    connections_module.watch()
    replace(TransactionTestCase, "_fixture_setup", classmethod(_fixture_setup))
    replace(TransactionTestCase, "_fixture_teardown", fixture_teardown)


def remember() -> dict[str, Baseline]:
    """Return what all test databases are at now, by alias.

    Raises:
        PgsnapError: That was not possible.
    """
    found = {}
    for alias, keeper in _keepers():
        with on_behalf_of("a class", alias):
            found[alias] = keeper.floor = keeper.adopt()
    return found


def bring_back(before: dict[str, Baseline]) -> None:
    """Put test databases back to what they were at.

    Raises:
        PgsnapError: That was not possible.
    """
    for alias, keeper in _keepers():
        if alias in before:
            keeper.floor = before[alias]
    _to_floors()


def leave_class(cls: type) -> None:
    """Put back what a class' tests started from, once the last of them is over.

    Raises:
        PgsnapError: That was not possible.
    """
    if has_own_start(cls):
        _to_floors()


def start_from(snapshot: str, module: str = "", test: str = "") -> None:
    """Have tests start from a development snapshot, or with an empty name no longer from any.

    Args:
        snapshot: Its name.
        module: Name of the module of the test that needs it.
        test: Name of that test.

    Raises:
        SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
        PgsnapError: There is none, and it is on; or it cannot be used.
    """
    global _snapshot  # noqa: PLW0603  # one process has one set of test databases
    if snapshot == _snapshot:
        return
    _snapshot = ""
    _to_floors()
    if snapshot:
        start_from_snapshot(type(test, (_Test,), {"__module__": module}), snapshot)
        _snapshot = snapshot


class _Test:
    """Stands for the test that needs a snapshot, as a class of Django's would."""

    databases = "__all__"

    @classmethod
    def addClassCleanup(cls, *_: object) -> None:  # noqa: N802  # unittest's name
        """Leave the snapshot to `start_from`."""


def _fixture_setup(cls: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_setup``."""
    make_up(cls)
    if not _snapshot and not has_own_start(cls):
        for alias, keeper in kept_of(cls):
            with on_behalf_of(strclass(cls), alias):
                keeper.floor = keeper.adopt()
        if is_flushed(cls):
            cases.start(cls)
    fixture_setup(cls)


def _to_floors() -> None:
    for alias, keeper in _keepers():
        with on_behalf_of("what comes next", alias):
            keeper.start()
        forget_cached(alias)


def _keepers() -> Iterator[tuple[str, Keeper]]:
    for alias in connections:
        keeper = keeper_of(alias)
        if keeper is not None:
            yield alias, keeper
