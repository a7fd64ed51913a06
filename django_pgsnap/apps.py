"""The app's entry in ``INSTALLED_APPS``."""

from __future__ import annotations

import os

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _


class PgsnapConfig(AppConfig):
    """Registers the system checks, and keeps an enabled process fresh after restores."""

    name = "django_pgsnap"
    verbose_name = _("Database snapshots")

    def ready(self) -> None:
        """Start up; where psycopg or a usable setting is missing only the checks, which say so."""
        from . import checks, conf

        if conf.TEST_DATABASES in os.environ:
            from .testing import creation

            creation.adopt()
        register(checks.check_settings, conf.CHECKS_TAG)
        if checks.psycopg_problem() is None and not conf.problems(conf.given()):
            from . import guard, watch

            if guard.is_on():
                watch.watch()
