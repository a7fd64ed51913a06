"""Baselines for pytest, where fixtures of any scope may write between tests.

A test that commits starts from what it finds, and the databases are put back to that after it. So
what fixtures of a module or a class have committed stays, which a flush would take with it.
"""

from __future__ import annotations

from typing import Any
from unittest.util import strclass

from django.test import TransactionTestCase

from ..connections.reconnect import clear_caches
from .cases import (
    has_own_start,
    patch_method,
    repeat_failed_resets,
    set_up_fixtures,
    start_class,
    starts_flushed,
    tear_down_fixtures,
)
from .reset.baseline import Baseline
from .reset.connections import watch_connections
from .reset.resetter import explain_errors, list_resetters
from .snapshot_source import start_from_snapshot

# The development snapshot that tests start from now, empty for none.
_snapshot = ""


def install() -> None:
    """Have tests that commit be followed by a reset from now on, in this process."""
    watch_connections()
    patch_method(TransactionTestCase, "_fixture_setup", classmethod(_set_up_fixtures))
    patch_method(TransactionTestCase, "_fixture_teardown", tear_down_fixtures)


def adopt_states() -> dict[str, Baseline]:
    """Have tests start from what the test databases are at now, and return it by alias.

    Raises:
        PgsnapError: That was not possible.
    """
    found = {}
    for alias, resetter in list_resetters():
        with explain_errors("a class", alias):
            found[alias] = resetter.class_baseline = resetter.adopt_state()
    return found


def restore_states(before: dict[str, Baseline]) -> None:
    """Put test databases back to what they were at.

    Raises:
        PgsnapError: That was not possible.
    """
    for alias, resetter in list_resetters():
        if alias in before:
            resetter.class_baseline = before[alias]
    _start_from_class_baselines()


def leave_class(cls: type) -> None:
    """Put back what a class' tests started from, once the last of them is over.

    Raises:
        PgsnapError: That was not possible.
    """
    if has_own_start(cls):
        _start_from_class_baselines()


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
    _start_from_class_baselines()
    if snapshot:
        start_from_snapshot(type(test, (_Test,), {"__module__": module}), snapshot)
        _snapshot = snapshot


class _Test:
    """Stands for the test that needs a snapshot, as a class of Django's would."""

    databases = "__all__"

    @classmethod
    def addClassCleanup(cls, *_: object) -> None:  # noqa: N802  # unittest's name
        """Leave the snapshot to `start_from`."""


def _set_up_fixtures(cls: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_setup``."""
    repeat_failed_resets(cls)
    if not _snapshot and not has_own_start(cls):
        for alias, resetter in list_resetters(cls):
            with explain_errors(strclass(cls), alias):
                resetter.class_baseline = resetter.adopt_state()
        if starts_flushed(cls):
            start_class(cls)
    set_up_fixtures(cls)


def _start_from_class_baselines() -> None:
    for alias, resetter in list_resetters():
        with explain_errors("what comes next", alias):
            resetter.start()
        clear_caches(alias)
