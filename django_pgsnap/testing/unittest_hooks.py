"""unittest's suites, told to put databases back before a class or a module begins.

Only there everything that was left behind is over, and nothing of what is to come has begun: a
class may write before it calls its parent's ``setUpClass``.

What stands in for functions of Django and unittest while tests run, all at once.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from typing import Any
from unittest.util import strclass

from django.test import TransactionTestCase

from . import cases
from .cases import adopt_module, fixture_setup, fixture_teardown, leave_module, start_module
from .replacing import put_back, replace, stock
from .reset import connections, resetter


def handle_class_set_up(self: Any, test: Any, result: Any) -> None:
    """Have a class start from its baseline; what is wrong with that is the class' failure."""
    cls = type(test)
    if (
        cls is not getattr(result, "_previousTestClass", None)
        and not getattr(result, "_moduleSetUpFailed", False)
        and not getattr(cls, "__unittest_skip__", False)
        and not _succeeds(self, result, "setUpClass", strclass(cls), lambda: cases.start(cls))
    ):
        cls._classSetupFailed = True
        return
    stock(unittest.TestSuite, "_handleClassSetUp")(self, test, result)


def handle_module_fixture(self: Any, test: Any, result: Any) -> None:
    """Have the classes of a module start from what its ``setUpModule`` makes."""
    name = type(test).__module__
    is_next = name != self._get_previous_module(result)
    has_set_up = is_next and hasattr(sys.modules.get(name), "setUpModule")
    if is_next:
        leave_module()
    if has_set_up and not _succeeds(self, result, "setUpModule", name, start_module):
        result._moduleSetUpFailed = True
        return
    stock(unittest.TestSuite, "_handleModuleFixture")(self, test, result)
    if (
        has_set_up
        and not result._moduleSetUpFailed
        and not _succeeds(self, result, "setUpModule", name, adopt_module)
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
    connections.watch()
    replace(unittest.TestSuite, "_handleClassSetUp", handle_class_set_up)
    replace(unittest.TestSuite, "_handleModuleFixture", handle_module_fixture)
    replace(TransactionTestCase, "_fixture_setup", classmethod(fixture_setup))
    replace(TransactionTestCase, "_fixture_teardown", fixture_teardown)


def uninstall() -> None:
    """Leave tests to Django again, and give up what was kept for them."""
    connections.unwatch()
    put_back()
    resetter.end()
