"""The app's entry in ``INSTALLED_APPS``."""

import os
import sys

from django.apps import AppConfig
from django.conf import global_settings, settings
from django.core.checks import register
from django.core.management.utils import get_command_line_option
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

# For which test runner it is noted what models read while they are imported: migrations may use it.
_runner = ""
if sys.argv[1:2] == ["test"]:
    from multiprocessing import parent_process

    from .testing.databases.file_reads import file_reads

    _runner = get_command_line_option(sys.argv, "--testrunner") or settings.TEST_RUNNER
    # In workers nobody migrates.
    if _runner == global_settings.TEST_RUNNER or parent_process() is not None:
        _runner = ""
    else:
        file_reads.begin()


def _is_ours(runner: str) -> bool:
    try:
        from .testing.runner import SnapshotRunnerMixin

        found = import_string(runner)
        # What makes one may make one of ours.
        return not isinstance(found, type) or issubclass(found, SnapshotRunnerMixin)
    except ImportError:  # which Django reports
        return False


class PgsnapConfig(AppConfig):
    """Registers the system checks, and keeps an enabled process fresh after restores."""

    name = "django_pgsnap"
    verbose_name = _("Database snapshots")

    def ready(self) -> None:
        """Start up; where psycopg or a usable setting is missing only the checks, which say so."""
        from . import conf
        from .checks import check_deployment, check_settings
        from .errors import ConfigurationError

        try:
            clones = conf.run_databases()
        except ConfigurationError:
            # Whatever runs here was not meant for the live databases.
            clones = dict.fromkeys(settings.DATABASES, f"{conf.RUN_DATABASES} cannot be read")
        for alias, name in clones.items():
            settings.DATABASES[alias]["NAME"] = name
        if conf.TEST_DATABASES in os.environ:
            from .testing import creation

            creation.adopt()
        # The runner's module may ask the databases that are meant by now.
        if _runner and not _is_ours(_runner):
            file_reads.end()
        register(check_settings, conf.CHECKS_TAG)
        register(check_deployment, conf.CHECKS_TAG, deploy=True)
        if conf.psycopg_problem() is None and not conf.problems(conf.given()):
            from .connections.reconnect import watch_connections
            from .safety import is_enabled
            from .snapshots.before_migrate import watch_migrations

            if is_enabled():
                watch_connections()
            watch_migrations()
