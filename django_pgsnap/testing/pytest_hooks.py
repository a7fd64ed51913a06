"""Baselines for pytest, where fixtures of any scope may write between tests.

A test that commits starts from what it finds, and the databases are put back to that after it. So
what fixtures of a module or a class have committed stays, which a flush would take with it.
"""

from __future__ import annotations

from typing import Any
from unittest.util import strclass

from django.test import TransactionTestCase

from .cases import (
    adopt_states,
    has_own_start,
    patch_method,
    repeat_failed_resets,
    set_up_fixtures,
    start_class,
    start_from_class_baselines,
    starts_flushed,
    tear_down_fixtures,
)
from .reset.baseline import Baseline
from .reset.connections import watch_connections
from .reset.resetter import list_resetters
from .snapshot_source import start_from_snapshot

# The development snapshot that tests start from now, empty for none.
_snapshot = ""


def install() -> None:
    """Have tests that commit be followed by a reset from now on, in this process."""
    watch_connections()
    patch_method(TransactionTestCase, "_fixture_setup", classmethod(_set_up_fixtures))
    patch_method(TransactionTestCase, "_fixture_teardown", tear_down_fixtures)


def restore_states(before: dict[str, Baseline]) -> None:
    """Put test databases back to what they were at."""
    for alias, resetter in list_resetters():
        if alias in before:
            resetter.class_baseline = before[alias]
    start_from_class_baselines("what comes next")


def leave_class(cls: type) -> None:
    """Put back what a class' tests started from, once the last of them is over."""
    if has_own_start(cls):
        start_from_class_baselines("what comes next")


def start_from(snapshot: str, who: str = "") -> None:
    """Have a test, and those after it, start from a development snapshot; from none if empty.

    Raises:
        SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
        PgsnapError: There is none, and it is on; or it cannot be used.
    """
    global _snapshot  # noqa: PLW0603  # one process has one set of test databases
    if snapshot == _snapshot:
        return
    _snapshot = ""
    start_from_class_baselines("what comes next")
    if snapshot:
        start_from_snapshot(who, list_resetters(), snapshot)
        _snapshot = snapshot


def _set_up_fixtures(cls: Any) -> None:
    repeat_failed_resets(cls)
    if not _snapshot and not has_own_start(cls):
        adopt_states(strclass(cls), cls)
        if starts_flushed(cls):
            start_class(cls)
    set_up_fixtures(cls)
