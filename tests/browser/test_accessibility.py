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


def in_both_schemes(visitor: Visitor, axe: str, name: str) -> list[str]:
    """Look at a page in light and in dark, and return what is wrong with it."""
    found = []
    for scheme in ("light", "dark"):
        visitor.look(width=1280, dark=scheme == "dark")
        visitor.keep(f"axe-{name}-{scheme}")
        found += [f"{scheme}: {each}" for each in visitor.find_violations(axe)]
    return found


def test_empty_list(live: str, visitor: Visitor, axe: str) -> None:
    """Where there is no snapshot yet."""
    account("ada", is_superuser=True)
    connection.close()
    visitor.go(page("changelist"))
    visitor.log_in("ada")

    assert in_both_schemes(visitor, axe, "empty") == []


@pytest.mark.parametrize("changed_settings", [{"PGSNAP": {"ENABLED": False}}], ids=["off"])
def test_refusal(live: str, visitor: Visitor, axe: str) -> None:
    """The page that says why nothing is possible."""
    account("ada", is_superuser=True)
    connection.close()
    visitor.go(page("changelist"))
    visitor.log_in("ada")
    visitor.reads("Snapshots are switched off here")

    assert in_both_schemes(visitor, axe, "refused") == []


def test_pages(snapshot: Snapshot, visitor: Visitor, axe: str) -> None:
    """Each page that there is, and what is said where something cannot be done."""
    visitor.go(page("changelist"))
    visitor.log_in("ada")
    pages = [page("changelist"), page("add"), undo_page(), page("restore", "0" * 16)]
    pages += [of(name, snapshot) for name in ("change", "restore", "diff", "delete", "history")]

    found = {}
    for address in pages:
        visitor.go(address)
        found[address] = in_both_schemes(visitor, axe, address.strip("/").replace("/", "-"))
    visitor.go(page("add"))
    visitor.fill("Name:", "seeded")
    visitor.press("Take snapshot")
    visitor.reads("There is a snapshot of this name already")
    found["errors"] = in_both_schemes(visitor, axe, "errors")
    visitor.go(page("changelist"))
    visitor.choose_all("delete_selected")
    visitor.reads("Databases: 2")
    found["delete several"] = in_both_schemes(visitor, axe, "delete-several")

    assert {key: violations for key, violations in found.items() if violations} == {}


@pytest.mark.parametrize(
    "changed_settings", [{"PGSNAP": {"ENABLED": True, "WAIT_S": 120}}], ids=["patient"]
)
def test_progress(
    snapshot: Snapshot, live: str, visitor: Visitor, axe: str, server: Server
) -> None:
    """The page of an operation that is at work reloads nothing, and has a name for everything."""
    visitor.go(page("add"))
    visitor.log_in("ada")
    with in_transaction(server, live):
        visitor.press("Take snapshot")
        visitor.reads("Waiting up to 120 s for pid ")
        found = in_both_schemes(visitor, axe, "progress")
        visitor.press("Cancel")
        # No page in between is looked for: the take may be over before anybody reads one.
        visitor.reads("Cancelled. The databases are as they were.")

    assert found == []
