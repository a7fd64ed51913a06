"""The test runner: Django's, or a project's own, over test databases that need no migrating."""

from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import PgsnapError
from . import creation
from .databases.file_reads import file_reads


class SnapshotRunnerMixin:
    """Put before a runner's class, has its test databases cloned from templates.

    What is wrong with them it says by a ``CommandError``.
    """

    def setup_databases(self, **kwargs: Any) -> Any:
        # By its app, workers that are not forked and processes that tests start learn of all this.
        if not apps.is_installed("django_pgsnap"):
            raise CommandError(
                "SnapshotRunner needs its app.\nAdd 'django_pgsnap' to INSTALLED_APPS."
            )
        try:
            creation.install()
            return super().setup_databases(**kwargs)  # type: ignore[misc]
        except BaseException as error:
            creation.uninstall()
            if isinstance(error, PgsnapError):
                raise CommandError(str(error)) from error
            raise
        finally:
            file_reads.end()

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        try:
            super().teardown_databases(old_config, **kwargs)  # type: ignore[misc]
            creation.keep_what_is_left()
        except PgsnapError as error:
            raise CommandError(str(error)) from error
        finally:
            creation.uninstall()


class SnapshotRunner(SnapshotRunnerMixin, DiscoverRunner):
    """Django's runner over test databases that need no migrating."""
