"""unittest's suites, made to put databases back before a class or a module begins.

This is the only point after the previous class's cleanup and before any code of the next class,
which may write before it calls its parent's ``setUpClass``.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from typing import Any
from unittest.util import strclass

from django.test import TransactionTestCase

from .cases import (
    adopt_states,
    get_stock_method,
    patch_method,
    set_up_fixtures,
    start_class,
    start_from_class_baselines,
    tear_down_fixtures,
    unpatch_methods,
)
from .reset.connections import unwatch_connections, watch_connections
from .reset.resetter import close_resetters, use_run_baselines


def _handle_class_set_up(self: Any, test: Any, result: Any) -> None:
    """Have a class start from its baseline; what is wrong with that is the class' failure."""
    cls = type(test)
    if (
        cls is not getattr(result, "_previousTestClass", None)
        and not getattr(result, "_moduleSetUpFailed", False)
        and not getattr(cls, "__unittest_skip__", False)
        and not _succeeds(self, result, "setUpClass", strclass(cls), lambda: start_class(cls))
    ):
        cls._classSetupFailed = True
        return
    get_stock_method(unittest.TestSuite, "_handleClassSetUp")(self, test, result)


def _handle_module_fixture(self: Any, test: Any, result: Any) -> None:
    """Have the classes of a module start from what its ``setUpModule`` makes."""
    name = type(test).__module__
    who = "the module"
    is_next = name != self._get_previous_module(result)
    has_set_up = is_next and hasattr(sys.modules.get(name), "setUpModule")
    if is_next:
        use_run_baselines()
    if has_set_up and not _succeeds(
        self, result, "setUpModule", name, lambda: start_from_class_baselines(who)
    ):
        result._moduleSetUpFailed = True
        return
    get_stock_method(unittest.TestSuite, "_handleModuleFixture")(self, test, result)
    if (
        has_set_up
        and not result._moduleSetUpFailed
        and not _succeeds(self, result, "setUpModule", name, lambda: adopt_states(who))
    ):
        result._moduleSetUpFailed = True


def _succeeds(suite: Any, result: Any, method: str, owner: str, work: Callable[[], object]) -> bool:
    try:
        work()
    except Exception as error:  # a flush calls receivers of the project, which may raise anything
        if isinstance(result, unittest.suite._DebugResult):  # type: ignore[attr-defined]
            raise
        suite._createClassOrModuleLevelException(result, error, method, owner)
        return False
    return True


def install() -> None:
    """Have tests start from baselines from now on, in this process."""
    watch_connections()
    patch_method(unittest.TestSuite, "_handleClassSetUp", _handle_class_set_up)
    patch_method(unittest.TestSuite, "_handleModuleFixture", _handle_module_fixture)
    patch_method(TransactionTestCase, "_fixture_setup", classmethod(set_up_fixtures))
    patch_method(TransactionTestCase, "_fixture_teardown", tear_down_fixtures)


def uninstall() -> None:
    """Leave tests to Django again, and give up what was kept for them."""
    unwatch_connections()
    unpatch_methods()
    close_resetters()
