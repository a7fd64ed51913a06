"""What stands in for functions of Django and unittest while tests run, all at once."""

from __future__ import annotations

import unittest

from django.test import TransactionTestCase

from ..testbed import keepers, threads
from . import cases, suites
from .replacing import put_back, replace


def install() -> None:
    """Have tests start from baselines from now on, in this process."""
    threads.watch()
    replace(unittest.TestSuite, "_handleClassSetUp", suites.handle_class_set_up)
    replace(unittest.TestSuite, "_handleModuleFixture", suites.handle_module_fixture)
    replace(TransactionTestCase, "_fixture_setup", classmethod(cases.fixture_setup))
    replace(TransactionTestCase, "_fixture_teardown", cases.fixture_teardown)


def uninstall() -> None:
    """Leave tests to Django again, and give up what was kept for them."""
    threads.unwatch()
    put_back()
    keepers.end()
