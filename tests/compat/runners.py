"""Runners that write down how each test ended, over stock Django's and over ours."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

from django.apps import apps
from django.db import connections
from django.test.runner import DiscoverRunner

from django_pgsnap.testing.runner import SnapshotRunner

OUTCOMES = ("failures", "errors", "skipped", "expectedFailures")


class Recording:
    """Writes a file that is named in the environment."""

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> Any:
        """Write down what did not simply pass."""
        found: dict[str, Any] = {
            outcome: sorted(str(test) for test, _ in getattr(result, outcome))
            for outcome in OUTCOMES
        }
        found["unexpectedSuccesses"] = sorted(map(str, result.unexpectedSuccesses))
        found["ran"] = result.testsRun
        Path(os.environ["COMPAT_OUTCOME"]).write_text(json.dumps(found))
        return super().suite_result(suite, result, **kwargs)  # type: ignore[misc]


class Stock(Recording, DiscoverRunner):
    """Django's runner."""


class Ours(Recording, SnapshotRunner):
    """The snapshot runner."""

    def setup_databases(self, **kwargs: Any) -> Any:
        """Let Django's own suite choose the apps itself, and say which of its tests fail."""
        if os.environ.get("RUNNING_DJANGOS_TEST_SUITE") != "true":
            return super().setup_databases(**kwargs)
        with mock.patch.object(apps, "is_installed", return_value=True):
            old_config = super().setup_databases(**kwargs)
        for connection in connections.all():
            connection.creation.mark_expected_failures_and_skips()
        return old_config
