"""The context manager that takes and restores."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pytest_django import Settings

from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.signals import post_take
from django_pgsnap.snapshots.manage import rename
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import checkpoint, restore, undo
from django_pgsnap.snapshots.take import take
from tests.project import Manage
from tests.servers import Server
from tests.watching import PATIENCE_S, authors, in_transaction, oids, settle, write


def test_block_leaves_no_trace(live: str, server: Server) -> None:
    """After the block the rows are as before it, and no snapshot is left."""
    write("Ursula")

    with checkpoint() as snapshot:
        assert authors() == ["Ursula"]
        write("Stanisław")

    assert authors() == ["Ursula"]
    assert list_snapshots() == ()
    assert snapshot.name.startswith("checkpoint-")
    assert len(settle(server)) == 2  # the live database and the undo


def test_copy_itself_comes_back(live: str, server: Server) -> None:
    """Nothing is copied on exit: the copy made on entry becomes the live database."""
    with checkpoint() as snapshot:
        pass

    assert oids(settle(server))[live] == snapshot.members[0].database.oid


def test_error_in_the_block_comes_through(live: str) -> None:
    """A block that raises is undone as well, and its error is the one that is seen."""

    def block() -> None:
        with checkpoint():
            write("Ursula")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()

    assert authors() == []


def test_undo_has_what_the_block_did(live: str) -> None:
    """What the block did is not lost but one undo away."""
    with checkpoint():
        write("Ursula")

    undo()

    assert authors() == ["Ursula"]


def test_snapshot_is_there_inside(live: str) -> None:
    """Inside the block it is a snapshot like others, pinned, and can be restored."""
    with checkpoint() as snapshot:
        assert list_snapshots() == (snapshot,)
        assert snapshot.pinned
        write("Ursula")
        restore(snapshot.name)
        assert authors() == []
        write("Stanisław")

    assert authors() == []


def test_snapshot_that_is_renamed_inside(live: str) -> None:
    """The block goes back to its beginning, whatever name that has by then."""
    with checkpoint() as snapshot:
        rename(snapshot.name, "mine")
        write("Ursula")

    assert (authors(), list_snapshots()) == ([], ())


def test_checkpoints_nest(live: str) -> None:
    """A block within a block goes back to its own beginning."""
    with checkpoint():
        write("Ursula")
        with checkpoint():
            write("Stanisław")
        assert authors() == ["Ursula"]

    assert authors() == []
    assert list_snapshots() == ()


def test_other_snapshots_and_spares_stay(live: str, server: Server) -> None:
    """A checkpoint leaves the project's snapshots alone, their spare too."""
    take("seeded")
    settle(server)

    with checkpoint():
        write("Ursula")

    settle(server)
    assert [(each.name, each.spare) for each in list_snapshots()] == [("seeded", "ready")]


def test_several_databases(lives: dict[str, str]) -> None:
    """All databases go back, or those that are named."""
    with checkpoint(databases=["other"]) as snapshot:
        write("Ursula", alias="default")
        write("Stanisław", alias="other")

    assert snapshot.aliases == ("other",)
    assert (authors("default"), authors("other")) == (["Ursula"], [])


def test_snapshot_stays_when_the_exit_fails(
    live: str, server: Server, settings: Settings, clients: ExitStack
) -> None:
    """A session that works on at the end stops the restore; the snapshot is there to try again."""
    taken = []

    def block() -> None:
        with checkpoint() as snapshot:
            taken.append(snapshot.name)
            write("Ursula")
            settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0}
            clients.enter_context(in_transaction(server, live))

    with pytest.raises(DatabaseBusyError):
        block()
    clients.close()

    assert authors() == ["Ursula"]
    restore(*taken)
    assert authors() == []
    assert len(overview().undos) == 1


def test_receiver_that_fails_on_entry(live: str) -> None:
    """Where a receiver of post_take fails, the block does not run, and no snapshot stays."""

    def fail(**_: object) -> None:
        raise ZeroDivisionError

    post_take.connect(fail)
    try:
        with pytest.raises(ZeroDivisionError), checkpoint():
            write("Ursula")
    finally:
        post_take.disconnect(fail)

    assert list_snapshots() == ()
    assert authors() == []


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """What is still connected at the end of a test."""
    with ExitStack() as stack:
        yield stack


def test_process_that_ends_inside(live: str, manage: Manage) -> None:
    """A process that ends without leaving the block does end, and the snapshot stays."""
    write("Ursula")
    enter = "import sys, django_pgsnap as p; sys.block = p.checkpoint(); sys.block.__enter__()"

    assert manage("shell", "-c", enter, timeout_s=PATIENCE_S).returncode == 0

    (left,) = list_snapshots()
    assert left.name.startswith("checkpoint-")
    assert authors() == ["Ursula"]
