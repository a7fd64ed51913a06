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
    get_stock_method,
    patch_method,
    set_up_fixtures,
    start_class,
    tear_down_fixtures,
    unpatch_methods,
)
from .reset.connections import unwatch_connections, watch_connections
from .reset.resetter import close_resetters, explain_errors, list_resetters, use_run_baselines


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
    is_next = name != self._get_previous_module(result)
    has_set_up = is_next and hasattr(sys.modules.get(name), "setUpModule")
    if is_next:
        use_run_baselines()
    if has_set_up and not _succeeds(self, result, "setUpModule", name, _start_module):
        result._moduleSetUpFailed = True
        return
    get_stock_method(unittest.TestSuite, "_handleModuleFixture")(self, test, result)
    if (
        has_set_up
        and not result._moduleSetUpFailed
        and not _succeeds(self, result, "setUpModule", name, _adopt_module)
    ):
        result._moduleSetUpFailed = True


def _start_module() -> None:
    """Put all databases to the baseline of the whole run, for a module to set them up."""
    for alias, resetter in list_resetters():
        with explain_errors("the module", alias):
            resetter.start()


def _adopt_module() -> None:
    """Have the classes of a module start from what it has just set up."""
    for alias, resetter in list_resetters():
        with explain_errors("the module", alias):
            resetter.class_baseline = resetter.adopt_state()


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
