"""Random histories; `tox run -e histories` runs many long ones."""

import os
from functools import partial

import hypothesis
import pytest
from django.conf import settings
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from tests.histories.machine import Histories
from tests.histories.world import World
from tests.servers import Server

EXAMPLES = int(os.environ.get("PGSNAP_HISTORIES", "0"))
# Shrinking takes minutes; a sample is short as it is.
SHRINKS = EXAMPLES and os.environ.get("PGSNAP_SHRINKING", "1") == "1"
STEPS = 20
DAY_S = 24 * 60 * 60

CHOSEN = hypothesis.settings(
    max_examples=EXAMPLES or 5,
    stateful_step_count=STEPS if EXAMPLES else 10,
    derandomize=not EXAMPLES,
    print_blob=bool(EXAMPLES),
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink] if SHRINKS else [Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.timeout(DAY_S if EXAMPLES else 180)
def test_histories(
    clean_server: Server, two_servers: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of many commands everything is there that the model promises, by content."""
    monkeypatch.setattr(settings, "PGSNAP", settings.PGSNAP)
    monkeypatch.setattr("django_pgsnap.snapshots.before_migrate._KEPT", 1)
    world = World(clean_server, two_servers)
    try:
        run_state_machine_as_test(partial(Histories, world), settings=CHOSEN)  # type: ignore[arg-type]
    except BaseException as error:
        error.add_note(f"Found in history {world.histories}.")
        raise
    finally:
        world.close()
