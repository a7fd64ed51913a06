"""Runners that write down how each test ended, over stock Django's and over ours."""

import json
import os
from pathlib import Path
from typing import Any

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
