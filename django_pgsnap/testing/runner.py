"""The test runner: Django's, or a project's own, over test databases that need no migrating."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import ConfigurationError, PgsnapError
from . import cases, creation
from .databases.file_reads import file_reads


class SnapshotRunnerMixin:
    """Put before a runner's class, has its test databases cloned from templates.

    What is wrong with them it says by a ``CommandError``.
    """

    def setup_databases(self, **kwargs: Any) -> Any:
        try:
            # Workers that are not forked, and processes that tests start, learn by the app of all
            # this.
            if not apps.is_installed("django_pgsnap"):
                raise ConfigurationError(
                    "SnapshotRunner needs its app.", hint="Add 'django_pgsnap' to INSTALLED_APPS."
                )
            with ExitStack() as undoing:
                undoing.callback(creation.uninstall)
                creation.install()
                undoing.callback(cases.uninstall_hooks)
                cases.install_hooks()
                old_config = super().setup_databases(**kwargs)  # type: ignore[misc]
                undoing.pop_all()
        except PgsnapError as error:
            raise CommandError(str(error)) from error
        finally:
            file_reads.end()
        return old_config

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        try:
            cases.uninstall_hooks()
            super().teardown_databases(old_config, **kwargs)  # type: ignore[misc]
        except PgsnapError as error:
            raise CommandError(str(error)) from error
        finally:
            creation.uninstall()


class SnapshotRunner(SnapshotRunnerMixin, DiscoverRunner):
    """Django's runner over test databases that need no migrating."""
