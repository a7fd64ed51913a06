"""The test runner: Django's, or a project's own, over test databases that need no migrating."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import PgsnapError
from . import creation, hooks


class SnapshotRunnerMixin:
    """Put before a runner's class, has its test databases cloned from templates."""

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases.

        Raises:
            CommandError: One is in use by another run, or the server refused something.
        """
        creation.install()
        hooks.install()
        try:
            return super().setup_databases(**kwargs)  # type: ignore[misc]
        except PgsnapError as error:
            hooks.uninstall()
            creation.uninstall()
            raise CommandError(str(error)) from error

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Have the test databases dropped, or keep them if that was asked for.

        Raises:
            CommandError: The server refused something.
        """
        try:
            hooks.uninstall()
            super().teardown_databases(old_config, **kwargs)  # type: ignore[misc]
        except PgsnapError as error:
            raise CommandError(str(error)) from error
        finally:
            creation.uninstall()


class SnapshotRunner(SnapshotRunnerMixin, DiscoverRunner):
    """Django's runner over test databases that need no migrating."""
