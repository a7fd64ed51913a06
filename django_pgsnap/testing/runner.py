"""The test runner: Django's, or a project's own, over test databases that need no migrating."""

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import PgsnapError
from . import creation
from .databases.file_reads import file_reads
from .databases.own_databases import OwnDatabase, list_made_databases


class SnapshotRunnerMixin:
    """Put before a runner's class, has its test databases cloned from templates.

    What is wrong with them it says by a ``CommandError``.
    """

    # Not among them are those of a run in which a test started this one.
    _test_databases: Collection[OwnDatabase] = ()

    def setup_databases(self, **kwargs: Any) -> Any:
        # By its app, workers that are not forked and processes that tests start learn of all this.
        if not apps.is_installed("django_pgsnap"):
            raise CommandError(
                "SnapshotRunner needs its app.\nAdd 'django_pgsnap' to INSTALLED_APPS."
            )
        before = {own.name for own in list_made_databases()}
        try:
            creation.install()
            old_config = super().setup_databases(**kwargs)  # type: ignore[misc]
        except BaseException as error:
            creation.uninstall()
            if isinstance(error, PgsnapError):
                raise CommandError(str(error)) from error
            raise
        finally:
            file_reads.end()
        made = list_made_databases()
        self._test_databases = [own for own in made if own.name not in before]
        return old_config

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        try:
            super().teardown_databases(old_config, **kwargs)  # type: ignore[misc]
            # What else is left was made by a test, and the next run sweeps it.
            if getattr(self, "keepdb", False):
                creation.keep(self._test_databases)
        except PgsnapError as error:
            raise CommandError(str(error)) from error
        finally:
            creation.uninstall()


class SnapshotRunner(SnapshotRunnerMixin, DiscoverRunner):
    """Django's runner over test databases that need no migrating."""
