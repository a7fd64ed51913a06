"""axe-core finds nothing wrong with any page, in light and in dark."""

import pytest
from django.db import connection

from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.browser.visitor import Visitor
from tests.servers import Server
from tests.visiting import account, of, page, undo_page
from tests.watching import in_transaction, write


@pytest.fixture
def snapshot(live: str) -> Snapshot:
    """Two snapshots that differ in all that there are filters for, and an undo."""
    account("ada", is_superuser=True)
    snapshot = take("seeded", note="before the erasure", pin=True, spare=False)
    take("other", spare=False)
    write("Lem")
    restore("seeded")
    connection.close()
    return snapshot


def test_empty_list(live: str, visitor: Visitor, axe: str) -> None:
    """Where there is no snapshot yet."""
    account("ada", is_superuser=True)
    connection.close()
    visitor.go(page("changelist"))
    visitor.log_in("ada")

    for dark in (False, True):
        visitor.look(width=1280, dark=dark)
        visitor.keep(f"empty-{dark}")
        assert visitor.find_violations(axe) == []


def test_pages(snapshot: Snapshot, visitor: Visitor, axe: str) -> None:
    """Each page that there is, and what is said where something cannot be done."""
    visitor.go(page("changelist"))
    visitor.log_in("ada")
    pages = [page("changelist"), page("add"), undo_page()]
    pages += [of(name, snapshot) for name in ("change", "restore", "delete", "history")]

    found = {}
    for dark in (False, True):
        visitor.look(width=1280, dark=dark)
        for address in pages:
            visitor.go(address)
            visitor.keep(f"axe-{dark}-{address.strip('/').replace('/', '-')}")
            found[address, dark] = visitor.find_violations(axe)
        visitor.go(page("add"))
        visitor.fill("Name:", "seeded")
        visitor.press("Take snapshot")
        visitor.reads("There is a snapshot of this name already")
        visitor.keep(f"axe-{dark}-errors")
        found["errors", dark] = visitor.find_violations(axe)

    assert {key: violations for key, violations in found.items() if violations} == {}


def test_progress(
    snapshot: Snapshot, live: str, visitor: Visitor, axe: str, server: Server
) -> None:
    """The page of an operation that is at work reloads nothing, and has a name for everything."""
    visitor.go(page("add"))
    visitor.log_in("ada")
    with in_transaction(server, live):
        visitor.press("Take snapshot")
        visitor.reads("Waiting up to 10 s for pid ")

        found = []
        for dark in (False, True):
            visitor.look(width=1280, dark=dark)
            visitor.keep(f"axe-{dark}-progress")
            found += visitor.find_violations(axe)
        visitor.press("Cancel")
        visitor.reads("The work goes on")

    assert found == []
    visitor.reads("Cancelled. The databases are as they were.")
