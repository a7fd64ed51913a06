"""The admin's actions: what their pages say beforehand, and what they do."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client
from pytest_django import Settings

from django_pgsnap.snapshots.queries import get, list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.servers import Server
from tests.visiting import account, confirm, of, page, superuser, text, told, visit
from tests.watching import authors, in_transaction, settle, write

ON_ONE = ("restore", "rename", "note", "pin", "delete")


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


def known() -> list[tuple[str, str, bool]]:
    return [(each.name, each.note, each.pinned) for each in list_snapshots()]


def addresses(snapshot: Snapshot) -> list[str]:
    """Return the addresses of all pages that do something."""
    return [*(of(name, snapshot) for name in ON_ONE), page("add"), page("undo")]


def test_take(root: Client) -> None:
    """A take from the admin has the name and note that were filled in, and is told and logged."""
    response = confirm(root, page("add"), name="seeded", note="before the erasure", pinned="on")

    assert (response.status_code, response["Location"]) == (302, page("changelist"))
    assert known() == [("seeded", "before the erasure", True)]
    assert told(response)[-1].startswith("Took “seeded”: ")
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, str(entry)) == (get("seeded").set_id, "Added “seeded”.")
    assert entry.get_admin_url() == of("change", get("seeded"))


def test_take_of_chosen_databases(lives: dict[str, str]) -> None:
    """Where there are several databases, all are chosen until some are not."""
    root = superuser()
    offered = root.get(page("add")).content.decode()

    confirm(root, page("add"), databases=["other"])

    assert offered.count('name="databases"') == offered.count(" checked") == 2
    assert "default, other are copied as of one moment" in offered
    assert [(each.name, each.aliases) for each in list_snapshots()] == [("snap1", ("other",))]


def test_restore(root: Client) -> None:
    """A restore from the admin brings the rows back, says so, and is logged in what it restored."""
    write("Ursula")
    snapshot = take("seeded")
    write("Lem")

    response = confirm(root, of("restore", snapshot))

    assert authors() == ["Ursula"]
    assert told(response) == ["Restored “seeded” of just now."]
    (entry,) = LogEntry.objects.all()
    assert (entry.user.username, str(entry)) == ("root", "Changed “seeded” — Restored.")
    assert root.get(page("changelist")).status_code == 200


def test_undo_and_redo(root: Client) -> None:
    """Undo swaps back what a restore replaced, and once more is the redo."""
    snapshot = take("seeded")
    write("Lem")
    confirm(root, of("restore", snapshot))

    undone = confirm(root, page("undo"))
    after_undo = authors()
    confirm(root, page("undo"))

    assert told(undone) == [
        "Swapped back what was live before “seeded” took its place. Undo again to redo."
    ]
    assert (after_undo, authors()) == (["Lem"], [])
    assert root.get(page("changelist")).status_code == 200


def test_housekeeping(root: Client) -> None:
    """Rename, note, pin and unpin do that, and say so."""
    snapshot = take("seeded", spare=False)

    answers = [
        confirm(root, of("rename", snapshot), name="a/b.c-d_e"),
        confirm(root, of("note", snapshot), note="for the demo"),
        confirm(root, of("pin", snapshot)),
    ]
    changed = known()
    answers.append(confirm(root, of("pin", snapshot)))

    assert changed == [("a/b.c-d_e", "for the demo", True)]
    assert known() == [("a/b.c-d_e", "for the demo", False)]
    assert [message for answer in answers for message in told(answer)] == [
        "Renamed “seeded” to “a/b.c-d_e”.",
        "Changed the note of “a/b.c-d_e”.",
        "Pinned “a/b.c-d_e”.",
        "Unpinned “a/b.c-d_e”.",
    ]
    assert root.get(of("change", snapshot)).status_code == 200
    assert LogEntry.objects.count() == 4


def test_delete_several(root: Client, server: Server) -> None:
    """Those that are chosen in the list are named, and deleted once that is confirmed."""
    first, second, third = (take(name, spare=False) for name in ("a", "b", "c"))
    chosen = {"set_id": [first.set_id, third.set_id]}

    asked = root.post(page("delete_selected"), chosen)
    still_there = [name for name, *_ in known()]
    answer = confirm(root, page("delete_selected"), **chosen)

    assert "Delete 2 snapshots" in text(asked)
    assert still_there == ["c", "b", "a"]
    assert known() == [("b", "", False)]
    assert told(answer) == ["Deleted “a”, “c”."]
    assert sorted(map(str, LogEntry.objects.all())) == ["Deleted “a.”", "Deleted “c.”"]
    assert second.set_id not in asked.content.decode()


def test_nothing_happens_unless_it_is_confirmed(root: Client) -> None:
    """A GET shows what would be done, whatever it carries; so does a POST from elsewhere."""
    write("Ursula")
    take("older", spare=False)
    restore("older")
    snapshot = take("seeded", spare=False)
    write("Lem")
    values = {"name": "other", "note": "other", "set_id": [snapshot.set_id]}

    for address in [*addresses(snapshot), page("delete_selected")]:
        statuses = {
            root.post(address, values).status_code,
            root.get(address, {"confirmed": "yes", **values}).status_code,
            root.put(address, {"confirmed": "yes", **values}).status_code,
        }
        assert statuses <= {200, 405, 409}, address

    assert [name for name, *_ in known()] == ["seeded", "older"]
    assert authors() == ["Lem", "Ursula"]
    assert not LogEntry.objects.exists()


def test_forged_requests_are_refused(live: str) -> None:
    """Without the token that Django puts into the page, nothing is done."""
    snapshot = take("seeded", spare=False)
    root = visit(account("root", is_superuser=True), enforce_csrf_checks=True)

    statuses = {confirm(root, address).status_code for address in addresses(snapshot)}

    assert statuses == {403}
    assert known() == [("seeded", "", False)]


def test_unknown_snapshots_are_not_found(root: Client) -> None:
    """An address or a choice that means no snapshot is answered with 404, to a POST too."""
    take("seeded", spare=False)

    for set_id in ("0123456789abcdef", "seeded", "-"):
        for name in ("change", *ON_ONE):
            assert root.get(page(name, set_id)).status_code == 404
        for name in ON_ONE:
            assert confirm(root, page(name, set_id), name="new").status_code == 404
        assert confirm(root, page("delete_selected"), set_id=set_id).status_code == 404
    assert known() == [("seeded", "", False)]


def test_errors_of_the_core_are_shown_beside_the_form(root: Client) -> None:
    """What cannot be done is said on the page, with what was filled in still there."""
    taken = take("seeded", spare=False)
    take("other", spare=False)

    existing = confirm(root, page("add"), name="seeded", note="keep me")
    invalid = confirm(root, page("add"), name="no spaces!")
    renamed = confirm(root, of("rename", taken), name="other")

    assert "There is a snapshot &#x27;seeded&#x27; already" in existing.content.decode()
    assert 'value="keep me"' in existing.content.decode()
    assert "A snapshot cannot be called &#x27;no spaces!&#x27;." in invalid.content.decode()
    assert "There is a snapshot &#x27;other&#x27; already." in renamed.content.decode()
    assert [answer.status_code for answer in (existing, invalid, renamed)] == [200, 200, 200]
    assert [name for name, *_ in known()] == ["other", "seeded"]


def test_replace(root: Client) -> None:
    """A take may take the place of a snapshot of the same name."""
    first = take("seeded", spare=False)

    confirm(root, page("add"), name="seeded", replace="on")

    (second,) = list_snapshots()
    assert second.set_id != first.set_id


def test_busy_sessions_are_named(
    live: str, root: Client, server: Server, settings: Settings
) -> None:
    """A session at work is named beforehand and in the error; it is ended only if one says so."""
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0.05}
    snapshot = take("seeded")
    with in_transaction(server, live):
        asked = text(root.get(of("restore", snapshot)))
        refused = text(confirm(root, of("restore", snapshot)))
        forced = confirm(root, of("restore", snapshot), force="on")

    assert "1 session is busy." in asked
    assert "(psql), idle in transaction" in asked
    assert f"Other sessions are using &#x27;{live}&#x27;" in refused
    assert "(psql), idle in transaction" in refused
    assert told(forced)[-1] == "Restored “seeded” of just now."


def test_restore_page_says_what_will_happen(root: Client, live: str, server: Server) -> None:
    """It tells who is connected, how long it takes, and what the undo will be."""
    snapshot = take("seeded")
    restore("seeded")
    settle(server)
    with server.connect(live, application_name="psql"):
        asked = text(root.get(of("restore", snapshot)))

    assert "default: everything goes back to how it was just now" in asked
    assert "A spare stands ready, so it takes milliseconds." in asked
    assert "It takes the place of the present undo: what was live before “seeded”" in asked
    assert "1 session idles and will be ended:" in asked
    assert "(psql), idle" in asked


def test_restore_page_without_spare_and_undo(root: Client, settings: Settings) -> None:
    """It tells that there is a copy to make first, and that nothing is kept."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": False}
    snapshot = take("seeded", spare=False)

    asked = text(root.get(of("restore", snapshot)))

    assert "No spare stands ready, so " in asked
    assert "What is live now is lost" in asked
    assert "Nobody else." in asked


def test_nothing_to_undo(root: Client) -> None:
    """Where no restore left anything, the page of undo says so."""
    answers = [root.get(page("undo")), confirm(root, page("undo"))]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert "There is nothing to undo" in text(answers[0])


def test_nothing_chosen(root: Client) -> None:
    """To delete none of the list is answered with what to do."""
    answer = root.post(page("delete_selected"))

    assert answer.status_code == 409
    assert "No snapshot was chosen. Tick some in the list." in text(answer)


def test_inside_a_transaction_it_is_refused(root: Client) -> None:
    """A request that some middleware wrapped in a transaction would wait for itself."""
    root.get(page("add"))

    with transaction.atomic():
        answer = confirm(root, page("add"))

    assert answer.status_code == 409
    assert "This request runs inside transaction.atomic on &#x27;default&#x27;" in text(answer)
    assert known() == []


def test_atomic_requests(live: str, settings: Settings) -> None:
    """With ATOMIC_REQUESTS, and sessions saved at every request, everything works."""
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    settings.SESSION_SAVE_EVERY_REQUEST = True
    root = superuser()

    answers: list[Any] = [confirm(root, page("add"), name="seeded")]
    write("Lem")
    answers.append(confirm(root, of("restore", get("seeded"))))
    answers.append(confirm(root, page("undo")))

    assert [answer.status_code for answer in answers] == [302, 302, 302]
    assert authors() == ["Lem"]
    assert root.get(page("changelist")).status_code == 200


def test_drift_is_told_before_a_restore(root: Client) -> None:
    """A snapshot that lacks migrations, or knows others, says so on its page and before."""
    connection.cursor().execute(
        "UPDATE django_migrations SET name = '0002_elsewhere'"
        " WHERE app = 'testapp' AND name = '0002_genres'"
    )
    snapshot = take("elsewhere", spare=False)

    asked, shown = (text(root.get(of(name, snapshot))) for name in ("restore", "change"))

    assert "It lacks 1 migration of this checkout: run migrate afterwards." in asked
    assert "It has 1 migration that this checkout does not know." in asked
    assert "In this checkout, not in the snapshot testapp.0002_genres" in shown
    assert "In the snapshot, not in this checkout testapp.0002_elsewhere" in shown
