"""Many clients write and reconnect while snapshots are taken, restored and undone.

A sample runs in the plain suite; the whole in ``tox run -e hammer``.
"""

import os
import re
from collections import Counter

import pytest

from django_pgsnap.conf import Config
from django_pgsnap.snapshots.queries import list_snapshots
from tests.hammer.campaign import Campaign
from tests.project import Manage
from tests.servers import Server
from tests.watching import settle

# How many operations; without it, a sample.
OPERATIONS = int(os.environ.get("PGSNAP_HAMMER_OPERATIONS", "0"))
SEED = int(os.environ.get("PGSNAP_HAMMER_SEED", "1"))


@pytest.fixture
def campaign(live: str, server: Server, manage: Manage) -> Campaign:
    """Operations on a live database that has the hammer's tables."""
    return Campaign(server, live, manage, seed=SEED)


def test_sample(campaign: Campaign) -> None:
    """A few operations under fire: no command fails, and every row is accounted for."""
    with campaign.under_fire(writers=2, sites=["pool"], visitors=1):
        campaign.run(4)

    assert campaign.failures == []
    assert campaign.ledger.counts()["acknowledged"] > 0


@pytest.mark.skipif(not OPERATIONS, reason="takes minutes: tox run -e hammer")
@pytest.mark.timeout(60 * 60)
def test_nothing_is_lost_under_fire(
    campaign: Campaign, live: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command fails, no database is lost, and no state has rows that no client put there."""
    with campaign.under_fire(writers=6, sites=["persistent", "pool"], visitors=2):
        campaign.run(OPERATIONS)
        campaign.restore_all()

    with capsys.disabled():
        print(f"\n{campaign.report()}")  # noqa: T201  # the figures are what it is run for
    assert campaign.failures == []
    assert {snapshot.name for snapshot in list_snapshots()} == campaign.snapshots
    kinds = Counter(re.sub("[0-9a-f]{16}$", "", each.name) for each in settle(server))
    assert 1 <= kinds.pop("pgsnap_undo_") <= Config.undo
    spares = min(Config.spares, len(campaign.snapshots))
    assert kinds == {live: 1, "pgsnap_": len(campaign.snapshots), "pgsnap_spare_": spares}
