"""For tests: a runner whose test databases are cloned instead of migrated.

    TEST_RUNNER = "django_pgsnap.testing.SnapshotRunner"

A project that has a runner of its own puts ``SnapshotRunnerMixin`` before it. Names are loaded when
they are first used: nothing of this is imported outside of tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import DatabaseChangesMixin
    from .cases import SnapshotTestCase
    from .runner import SnapshotRunner, SnapshotRunnerMixin

__all__ = ["DatabaseChangesMixin", "SnapshotRunner", "SnapshotRunnerMixin", "SnapshotTestCase"]

_HOMES = {
    "DatabaseChangesMixin": "assertions",
    "SnapshotRunner": "runner",
    "SnapshotRunnerMixin": "runner",
    "SnapshotTestCase": "cases",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
