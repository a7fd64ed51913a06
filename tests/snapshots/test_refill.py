"""Making the spare in the foreground."""

import pytest
from pytest_django import Settings

from django_pgsnap.clones.names import spare_name
from django_pgsnap.errors import SnapshotNotFoundError
from django_pgsnap.snapshots.manage import refill
from django_pgsnap.snapshots.queries import get, list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import ListDatabases
from tests.servers import Server
from tests.watching import Recorder, authors, in_transaction, oids, settle, write


def test_spare_is_there_when_it_returns(live: str) -> None:
    """When refill returns the spare is ready."""
    take("seeded", spare=False)
    recorder = Recorder()

    snapshot = refill(reporter=recorder)

    assert (snapshot.name, snapshot.spare) == ("seeded", "ready")
    assert snapshot == get("seeded")
    assert recorder.steps == ["Making the spare of seeded"]


def test_restore_uses_it(live: str, server: Server) -> None:
    """The spare that refill made is what the next restore swaps in."""
    write("Ursula")
    identity = take("seeded", spare=False).members[0].record.identity
    write("Stanisław")
    refill()
    before = oids(settle(server))

    restore("seeded")

    assert oids(settle(server))[live] == before[spare_name(identity)]
    assert authors() == ["Ursula"]


def test_spare_that_is_there_stays(live: str, server: Server) -> None:
    """Where the spare is ready there is nothing to do."""
    take("seeded")
    before = settle(server)

    refill()

    assert settle(server) == before


def test_live_database_is_not_disturbed(live: str, server: Server) -> None:
    """A spare is made of the copy, so clients may work on meanwhile."""
    take("seeded", spare=False)

    with in_transaction(server, live) as client:
        refill()

        assert client.execute("SELECT 1").fetchone() == (1,)


def test_named_snapshot(live: str, server: Server, settings: Settings) -> None:
    """A spare can be had of any snapshot; those beyond the number make way."""
    settings.PGSNAP = {"ENABLED": True, "SPARES": 1}
    take("first")
    take("second")
    settle(server)

    refill("first")

    settle(server)
    assert {each.name: each.spare for each in list_snapshots()} == {
        "first": "ready",
        "second": "none",
    }


def test_default_is_the_one_last_restored(live: str, server: Server, settings: Settings) -> None:
    """Without a name it is the snapshot last taken or restored, whichever was later."""
    settings.PGSNAP = {"ENABLED": True, "SPARES": False}
    take("first")
    take("second")
    assert _refilled() == "second"

    write("Ursula")
    restore("first")
    assert _refilled() == "first"

    take("third")
    assert _refilled() == "third"


def test_unknown_name(live: str, databases: ListDatabases) -> None:
    """An unknown name is refused."""
    take("seeded", spare=False)
    before = databases()

    with pytest.raises(SnapshotNotFoundError) as caught:
        refill("sown")

    assert str(caught.value) == "There is no snapshot 'sown'.\nThere are: seeded."
    assert databases() == before


def _refilled() -> str:
    return refill().name
