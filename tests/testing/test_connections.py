"""Which connections of other threads are closed, and which are left alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from django_pgsnap.testing.reset.connections import (
    close_idle_connections,
    unwatch_connections,
    watch_connections,
)

OtherThread = Callable[[Callable[[], object]], object]


@pytest.fixture
def other_thread(live: str) -> Iterator[OtherThread]:
    """Runs functions in a thread that stays, and has a connection of its own."""
    watch_connections()
    with ThreadPoolExecutor(1) as executor:
        yield lambda function: executor.submit(function).result()
        executor.submit(lambda: connection.close()).result()  # noqa: PLW0108  # its thread's own
    unwatch_connections()


def pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_closed(other_thread: OtherThread) -> None:
    """What another thread does not use is closed, and it connects again; ours stays."""
    ours, theirs = pid(), other_thread(pid)

    close_idle_connections(["default"])

    assert other_thread(lambda: connection.connection) is None
    assert other_thread(pid) != theirs
    assert pid() == ours


def test_left_alone(other_thread: OtherThread) -> None:
    """A thread inside a transaction, or at work, keeps its connection, as on other aliases."""
    theirs = other_thread(pid)
    close_idle_connections(["other"])
    inside = transaction.atomic()
    other_thread(inside.__enter__)
    close_idle_connections(["default"])
    assert other_thread(pid) == theirs
    other_thread(lambda: inside.__exit__(None, None, None))

    held = other_thread(lambda: connection.connection)
    with held.lock:  # type: ignore[attr-defined]
        close_idle_connections(["default"])

    assert other_thread(pid) == theirs
