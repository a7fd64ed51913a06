"""The admin's pages in a real browser, on a server that really commits."""

from typing import Any

import pytest
from django.db import connection

from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.browser.visitor import Visitor
from tests.servers import Server
from tests.visiting import account, of, page, undo_page
from tests.watching import authors, in_transaction, write


def authors_seen() -> list[str]:
    """Look into the live database, and leave it to the server process again."""
    try:
        return authors()
    finally:
        connection.close()


def test_story(live: str, visitor: Visitor) -> None:
    """Log in, take, lose data, restore, still be signed in, undo, and delete."""
    account("ada", is_superuser=True)
    write("Ursula")
    visitor.go("/admin/")
    visitor.log_in("ada")
    visitor.press("Snapshots")
    visitor.reads("There is no snapshot yet.")

    visitor.press("Take a snapshot")
    visitor.reads("Who is connected")
    visitor.fill("Name:", "seeded")
    visitor.fill("Note:", "before the erasure")
    visitor.keep("take")
    visitor.press("Take snapshot")
    visitor.reads("Took “seeded”")
    visitor.keep("list")

    write("Lem")
    visitor.press("Restore")
    visitor.reads("All that is in default goes back to “seeded” of ")
    visitor.press("What you would lose")
    visitor.reads("testapp.Author (default)")
    visitor.keep("restore")
    visitor.press("Restore")
    visitor.reads("Restored “seeded”")
    visitor.reads("ADA")
    assert authors_seen() == ["Ursula"]

    visitor.press_part("Your own data, until the restore of “seeded”")
    visitor.keep("undo")
    visitor.press("Bring back")
    visitor.reads("Live again")
    assert authors_seen() == ["Lem", "Ursula"]

    visitor.press("seeded")
    visitor.press("What changed since")
    visitor.reads("testapp.Author (default)")
    visitor.keep("change")
    visitor.press("Delete")
    visitor.keep("delete")
    visitor.press("Yes, I\u2019m sure")
    visitor.reads("Deleted: “seeded”.")
    visitor.reads("There is no snapshot yet.")
    assert list_snapshots() == ()


@pytest.mark.parametrize(
    "changed_settings", [{"PGSNAP": {"ENABLED": True, "WAIT_S": 120}}], ids=["patient"]
)
def test_progress(live: str, visitor: Visitor, server: Server) -> None:
    """A take that has to wait shows how it is going, by itself, until it is over."""
    account("ada", is_superuser=True)
    connection.close()
    visitor.go(page("add"))
    visitor.log_in("ada")
    with in_transaction(server, live):
        visitor.fill("Name:", "seeded")
        visitor.press("Take snapshot")
        visitor.reads("The work goes on without this page")
        visitor.reads("Waiting up to 120 s for pid ")
        visitor.reads("ADA")
        visitor.keep("progress")

    visitor.reads("Took “seeded”")


@pytest.mark.parametrize(
    "changed_settings", [{"LANGUAGE_CODE": "en"}, {"LANGUAGE_CODE": "ar"}], ids=["left", "right"]
)
def test_looks(live: str, visitor: Visitor, changed_settings: dict[str, Any]) -> None:
    """In the dark and on small phones everything is there, and nothing sticks out."""
    account("ada", is_superuser=True)
    snapshot = take(
        "a-name/that.is_quite-long-and-has-no-spaces-in-it",
        note="A note that goes on for a while, so that it does not fit a line either.",
        spare=False,
    )
    write("Lem")
    restore(snapshot.name)
    connection.close()
    visitor.go(page("add"))
    visitor.log_in("ada")

    pages = [page("changelist"), page("add"), undo_page()]
    pages += [of(name, snapshot) for name in ("change", "restore", "delete", "history")]
    for width, dark in ((1280, True), (320, False)):
        visitor.look(width=width, dark=dark)
        for number, address in enumerate(pages):
            visitor.go(address)
            visitor.keep(f"{changed_settings['LANGUAGE_CODE']}-{width}-{number}")
            assert visitor.is_dark == dark
            assert visitor.sticks_out == []
