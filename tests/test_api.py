"""The package's front door for programs: its names, and its signals."""

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import pytest
from django.dispatch import Signal

import django_pgsnap
from django_pgsnap.signals import post_restore, post_take, pre_restore, pre_take
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot, Undo
from tests.conftest import ListDatabases
from tests.servers import Server
from tests.watching import authors, settle, write

SIGNALS = {
    "pre_take": pre_take,
    "post_take": post_take,
    "pre_restore": pre_restore,
    "post_restore": post_restore,
}

Heard = list[tuple[str, dict[str, Any]]]


class RefusedError(Exception):
    """What a receiver raises."""


@pytest.mark.parametrize("name", django_pgsnap.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name that the package announces can be imported from it, and is documented."""
    assert getattr(django_pgsnap, name).__doc__


def test_names_are_sorted() -> None:
    """The announced names are in order, each once."""
    assert django_pgsnap.__all__ == sorted(set(django_pgsnap.__all__))


def test_unknown_name() -> None:
    """Another name is an AttributeError, as in any module."""
    with pytest.raises(
        AttributeError, match=r"^module 'django_pgsnap' has no attribute 'snapshoot'$"
    ):
        _ = django_pgsnap.snapshoot


def test_values_are_frozen(live: str) -> None:
    """A snapshot is a value: it compares by what it says, and cannot be changed."""
    snapshot = take("seeded", spare=False)

    assert list_snapshots() == (snapshot,)
    with pytest.raises(AttributeError):
        snapshot.members = ()  # type: ignore[misc]


def test_facts_of_the_classes() -> None:
    """What `help` and other tools look at on a class is there."""
    assert {"name", "taken_at", "note", "pinned"} <= signature(Snapshot).parameters.keys()
    assert {"name", "taken_at", "by_undo"} <= signature(Undo).parameters.keys()


def test_signals_of_a_take(live: str, heard: Heard) -> None:
    """A take is announced with its aliases and name, and followed by the snapshot."""
    snapshot = take("seeded", spare=False)

    assert heard == [
        ("pre_take", {"sender": Snapshot, "aliases": ("default",), "name": "seeded"}),
        ("post_take", {"sender": Snapshot, "snapshot": snapshot}),
    ]


def test_name_that_is_yet_to_be_chosen(live: str, heard: Heard) -> None:
    """Where the name is left to the take, the announcement has none."""
    take(spare=False)

    assert heard[0][1]["name"] is None
    assert heard[1][1]["snapshot"].name == "snap1"


def test_signals_of_a_restore(lives: dict[str, str], heard: Heard) -> None:
    """A restore is announced once, and followed by one signal per alias that was replaced."""
    snapshot = take("both")
    heard.clear()

    restore("both")

    assert heard[0] == (
        "pre_restore",
        {"sender": Snapshot, "aliases": ("default", "other"), "name": "both"},
    )
    assert [(name, values["using"]) for name, values in heard[1:]] == [
        ("post_restore", "default"),
        ("post_restore", "other"),
    ]
    assert {values["snapshot"].set_id for _, values in heard[1:]} == {snapshot.set_id}


def test_signals_of_an_undo(live: str, heard: Heard) -> None:
    """An undo replaces the live database as well: it is announced as a restore without a name."""
    take("seeded")
    restore("seeded")
    heard.clear()

    undo()

    assert heard == [
        ("pre_restore", {"sender": Snapshot, "aliases": ("default",), "name": None}),
        ("post_restore", {"sender": None, "using": "default", "snapshot": None}),
    ]


def test_restored_rows_are_there_for_receivers(live: str, connected: Callable[..., None]) -> None:
    """When post_restore is sent, the alias leads to the restored database."""
    seen: list[list[str]] = []
    write("Ursula")
    take("seeded")
    write("Stanisław")
    connected(post_restore, lambda using, **_: seen.append(authors(using)))

    restore("seeded")

    assert seen == [["Ursula"]]


@pytest.mark.parametrize("signal", ["pre_take", "pre_restore"])
def test_receiver_that_raises_stops_the_operation(
    signal: str, live: str, server: Server, connected: Callable[..., None]
) -> None:
    """What a receiver of pre_take or pre_restore raises comes through, and nothing has happened."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    write("Stanisław")
    before = settle(server)

    def refuse(**_: Any) -> None:
        raise RefusedError

    connected(SIGNALS[signal], refuse)
    operations: list[Callable[[], object]] = [take] if signal == "pre_take" else [restore, undo]
    for operation in operations:
        with server.connect(live) as client:
            with pytest.raises(RefusedError):
                operation()

            assert client.execute("SELECT 1").fetchone() == (1,)

    assert settle(server) == before
    assert authors() == ["Stanisław"]


def test_housekeeping_and_looking_send_nothing(live: str, heard: Heard) -> None:
    """Only takes and restores are announced."""
    take("seeded", spare=False)
    heard.clear()

    django_pgsnap.rename("seeded", "sown")
    django_pgsnap.pin("sown")
    django_pgsnap.annotate("sown", "a note")
    django_pgsnap.refill("sown")
    overview()
    django_pgsnap.delete("sown", force=True)

    assert heard == []


def test_failed_operation_sends_no_sequel(
    live: str, heard: Heard, databases: ListDatabases
) -> None:
    """What was announced and then failed is not reported as done."""
    take("seeded", spare=False)
    before = databases()
    heard.clear()

    with pytest.raises(django_pgsnap.PgsnapError):
        take("seeded")
    with pytest.raises(django_pgsnap.PgsnapError):
        restore("sown")

    assert [name for name, _ in heard] == ["pre_take", "pre_restore"]
    assert databases() == before


@pytest.fixture
def connected() -> Iterator[Callable[..., None]]:
    """Connects receivers to signals for the time of a test."""
    pairs: list[tuple[Signal, Callable[..., None]]] = []

    def connect(signal: Signal, receiver: Callable[..., None]) -> None:
        signal.connect(receiver, weak=False)
        pairs.append((signal, receiver))

    yield connect
    for signal, receiver in pairs:
        signal.disconnect(receiver)


@pytest.fixture
def heard(connected: Callable[..., None]) -> Heard:
    """The app's signals in the order in which they were sent, with what came along."""
    messages: Heard = []

    def listener(name: str) -> Callable[..., None]:
        def receive(*, signal: Signal, **values: Any) -> None:
            messages.append((name, values))

        return receive

    for name, signal in SIGNALS.items():
        connected(signal, listener(name))
    return messages
