"""A diff only looks: it stands in nobody's way, and leaves everything as it was."""

from collections.abc import Callable

import pytest
from django.db import connection

from django_pgsnap.comparison.diff import diff
from django_pgsnap.comparison.sides import open_copy
from django_pgsnap.comparison.types import RowChange
from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.snapshots.manage import delete, refill
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ListDatabases
from tests.servers import Server
from tests.testapp.models import Invoice
from tests.watching import authors, settle, write


def write_to_two_tables() -> None:
    """Write rows, so that a diff has more to read when it has told of the first."""
    write("Ursula")
    Invoice.objects.create(number=1)
    connection.close()


OPERATIONS: dict[str, Callable[[], object]] = {
    "restore": lambda: restore("seeded"),
    "delete": lambda: delete("seeded"),
    "replace": lambda: take("seeded", replace=True),
    "refill": lambda: refill("seeded"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_end_it(live: str, operation: str) -> None:
    """Whatever needs a database that is being compared ends the diff at once, which says so."""
    take("seeded", spare=False)
    write_to_two_tables()

    def interfere(_: RowChange) -> None:
        OPERATIONS[operation]()

    with pytest.raises(DatabaseBusyError, match=f"Another operation needed '{live}' or its copy"):
        diff("seeded", on_row=interfere)


def test_undo_ends_it(live: str) -> None:
    """What undo brings back may be compared at that moment."""
    take("seeded")
    write_to_two_tables()
    restore("seeded")

    def interfere(_: RowChange) -> None:
        undo()

    with pytest.raises(DatabaseBusyError):
        diff(undo=1, on_row=interfere)

    assert authors() == ["Ursula"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_copies_are_shut_again(
    live: str, databases: ListDatabases, server: Server, error: type[BaseException]
) -> None:
    """However a diff ends, its sessions are gone, and copies are as shut as they were."""
    take("seeded")
    write("Ursula")
    settle(server)
    connection.close()
    before = databases()

    def fail(_: RowChange) -> None:
        raise error

    assert diff("seeded").tables
    with pytest.raises(error):
        diff("seeded", on_row=fail)

    assert databases() == before
    restore("seeded")


def test_copies_stay_shut_for_others(live: str, server: Server) -> None:
    """While a copy is compared nobody else can get into it."""
    snapshot = take("seeded")
    write("Ursula")
    seen = []

    def knock(_: RowChange) -> None:
        with server.connect() as maintenance:
            query = "SELECT datallowconn, datconnlimit FROM pg_database WHERE datname = %s"
            name = snapshot.members[0].database.name
            seen.append(maintenance.execute(query, [name]).fetchone())

    diff("seeded", on_row=knock)

    assert seen == [(False, 0)]


def test_several_at_once(live_owned: str) -> None:
    """A role that is no superuser compares with a snapshot though another diff of it is there."""
    copy = take("seeded", spare=False).members[0]

    with open_copy(copy.server, copy.database.name):
        assert diff("seeded").is_empty
