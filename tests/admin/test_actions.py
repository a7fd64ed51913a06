"""The admin's actions: what their pages say beforehand, and what they do."""

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client
from django.utils import translation
from pytest_django import Settings

from django_pgsnap.admin.text import describe_snapshot
from django_pgsnap.clones.transitions import rewrite_comment
from django_pgsnap.snapshots.queries import get, list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.admin.test_session_transfer import restored
from tests.conftest import RunSql
from tests.servers import Server
from tests.visiting import account, confirm, of, page, superuser, text, told, undo, undo_page, visit
from tests.watching import authors, in_transaction, settle, write

ON_ONE = ("change", "restore", "delete")


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


def errors_at(answer: Any, field: str) -> list[str]:
    """Return the errors at a field of the form on a page."""
    return list(answer.context["adminform"].form.errors.get(field, []))


def known() -> list[tuple[str, str, bool]]:
    return [(each.name, each.note, each.pinned) for each in list_snapshots()]


def addresses(snapshot: Snapshot) -> list[str]:
    """Return the addresses of all pages that do something."""
    return [*(of(name, snapshot) for name in ON_ONE), page("add"), undo_page()]


def test_take(root: Client) -> None:
    """A take from the admin has the name and note that were filled in, and is told and logged."""
    response = confirm(root, page("add"), name="seeded", note="before the erasure", pinned="on")

    assert (response.status_code, response["Location"]) == (302, page("changelist"))
    assert known() == [("seeded", "before the erasure", True)]
    assert told(response)[-1].startswith("Took “seeded”: ")
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, str(entry)) == (get("seeded").set_id, "Added “seeded: taken”.")
    assert entry.get_admin_url() == of("change", get("seeded"))


def test_take_of_chosen_databases(lives: dict[str, str]) -> None:
    """Where there are several databases, all are chosen until some are not."""
    root = superuser()
    offered = root.get(page("add")).content.decode()

    confirm(root, page("add"), databases=["other"])

    assert offered.count('name="databases"') == offered.count(" checked") == 2
    assert "Copied as of one moment: default, other (" in offered
    assert [(each.name, each.aliases) for each in list_snapshots()] == [("snap1", ("other",))]


def test_restore(root: Client) -> None:
    """A restore from the admin brings the rows back, says so, and is logged in what it restored."""
    write("Ursula")
    snapshot = take("seeded")
    write("Lem")

    response = confirm(root, of("restore", snapshot))

    assert authors() == ["Ursula"]
    assert told(response)[-1] == restored(snapshot)
    (entry,) = LogEntry.objects.all()
    assert (entry.user.username, str(entry)) == ("root", "Changed “seeded: restored” — restored")
    assert root.get(page("changelist")).status_code == 200


def test_undo_and_redo(root: Client) -> None:
    """Undo swaps back what a restore replaced, and once more is the redo."""
    snapshot = take("seeded")
    write("Lem")
    confirm(root, of("restore", snapshot))

    undone = undo(root)
    after_undo = authors()
    undo(root)

    assert told(undone)[-1].startswith("Live again: your own data, until the restore of “seeded” ")
    assert (after_undo, authors()) == (["Lem"], [])
    assert root.get(page("changelist")).status_code == 200


def test_page_of_a_replaced_state_is_no_addition(root: Client) -> None:
    """The way to it ends in what it does, and not as that to a new snapshot."""
    take("seeded", spare=False)
    restore("seeded")

    shown = text(root.get(undo_page())).replace("&rsaquo; ", "")  # there until Django 6.1

    assert "Snapshots Bring back " in shown
    assert "Snapshots Bring back a " not in shown
    assert "Add snapshot" not in shown


def test_older_state_is_brought_back(root: Client) -> None:
    """Each replaced state has a page of its own, which means it whatever is restored meanwhile."""
    take("seeded", spare=False)
    write("Lem")
    restore("seeded")
    confirmed = undo_page()
    write("Ursula")
    restore("seeded")

    answer = confirm(root, confirmed)

    assert answer.status_code == 302
    assert authors() == ["Lem"]


def test_state_that_is_not_kept_any_more(root: Client, settings: Settings) -> None:
    """A state that has gone is said to have gone, and nothing else is brought back."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": 1}
    take("seeded", spare=False)
    write("Lem")
    restore("seeded")
    address = undo_page()
    write("Ursula")
    restore("seeded")

    answers = [root.get(address), confirm(root, address)]

    assert [each["Location"] for each in answers] == [page("changelist")] * 2
    assert told(answers[1])[-1] == "This state is not kept any more."
    assert authors() == []


def test_who_restored_is_in_pythons_log(root: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The log is outside of any database that a restore replaces."""
    snapshot = take("seeded", spare=False)
    write("Lem")

    confirm(root, of("restore", snapshot))
    undo(root)

    assert [each.getMessage() for each in caplog.records if "admin" in each.getMessage()] == [
        "Snapshot 'seeded': restored by 'root' in the admin",
        "Snapshot 'seeded': brought back by 'root' in the admin",
    ]


def test_nothing_happens_unless_it_is_confirmed(root: Client) -> None:
    """A GET shows what would be done, whatever it carries."""
    write("Ursula")
    take("older", spare=False)
    restore("older")
    snapshot = take("seeded", spare=False)
    write("Lem")
    values = {"post": "yes", "name": "other", "note": "other", "set_id": [snapshot.set_id]}

    statuses = {root.get(address, values).status_code for address in addresses(snapshot)}

    assert statuses == {200}

    assert [name for name, *_ in known()] == ["seeded", "older"]
    assert authors() == ["Lem", "Ursula"]
    assert not LogEntry.objects.exists()


def test_forged_requests_are_refused(live: str) -> None:
    """Without the token that Django puts into the page, nothing is done."""
    root = visit(account("root", is_superuser=True), enforce_csrf_checks=True)
    snapshot = take("seeded", spare=False)
    write("Lem")
    restore("seeded")

    statuses = {confirm(root, address).status_code for address in addresses(snapshot)}

    assert statuses == {403}
    assert known() == [("seeded", "", False)]


def test_unknown_snapshots_are_not_found(root: Client) -> None:
    """An address that means no snapshot leads elsewhere and says so, to a POST too."""
    take("seeded", spare=False)

    for set_id in ("0123456789abcdef", "seeded", "-"):
        for name in ("history", *ON_ONE):
            shown = root.get(page(name, set_id))
            assert shown.status_code == 302
            assert set_id in told(shown)[-1] or "not there any more" in told(shown)[-1]
        for name in ON_ONE:
            assert confirm(root, page(name, set_id), name="new").status_code == 302
    assert known() == [("seeded", "", False)]


def test_errors_stand_at_their_field(root: Client) -> None:
    """What cannot be done is said at the field, with what was filled in still there."""
    take("seeded", spare=False)

    existing = confirm(root, page("add"), name="seeded", note="keep me")
    invalid = confirm(root, page("add"), name="no spaces!")

    assert errors_at(existing, "name")[0].startswith("There is a snapshot of this name already: ")
    assert errors_at(invalid, "name")[0].startswith("A snapshot cannot be called ")
    assert 'value="keep me"' in existing.content.decode()
    assert [answer.status_code for answer in (existing, invalid)] == [200, 200]
    assert [name for name, *_ in known()] == ["seeded"]


def test_replace_says_what_is_lost(root: Client) -> None:
    """A take may replace a snapshot that was named with what is lost, and no other one."""
    first = take("seeded", pin=True, spare=False)

    asked = confirm(root, page("add"), name="seeded")
    second = list_snapshots()
    stranger = confirm(root, page("add"), name="seeded", replace="0123456789abcdef")
    replaced = confirm(root, page("add"), name="seeded", replace=first.set_id)

    assert f"Delete {describe_snapshot(first)}, once the new one is complete" in text(asked)
    assert "pinned" in describe_snapshot(first)
    assert [each.set_id for each in second] == [first.set_id]
    assert (stranger.status_code, replaced.status_code) == (200, 302)
    assert [(each.name, each.set_id == first.set_id) for each in list_snapshots()] == [
        ("seeded", False)
    ]


def test_replace_takes_the_permission_to_delete(live: str) -> None:
    """Who may take and not delete is not offered to replace, and cannot."""
    first = take("seeded", spare=False)
    client = visit(account("ada", permissions=["take"]))

    answer = confirm(client, page("add"), name="seeded", replace=first.set_id)

    assert 'name="replace"' not in answer.content.decode()
    assert "Choose another name." in text(answer)
    assert [each.set_id for each in list_snapshots()] == [first.set_id]


def test_busy_sessions_are_named(
    live: str, root: Client, server: Server, settings: Settings
) -> None:
    """A session at work is named beforehand and in the error; it is ended only if one says so."""
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0.05}
    snapshot = take("seeded")
    with in_transaction(server, live):
        asked = text(root.get(of("restore", snapshot)))
        refused = confirm(root, of("restore", snapshot))
        forced = confirm(root, of("restore", snapshot), force="on")

    assert "1 session is at work." in asked
    assert "(psql), idle in transaction" in asked
    assert f"Other sessions are using &#x27;{live}&#x27;" in str(errors_at(refused, "force"))
    assert "(psql), idle in transaction" in str(errors_at(refused, "force"))
    assert "“End sessions that are at work”" in str(errors_at(refused, "force"))
    assert "--" not in str(errors_at(refused, "force"))
    assert told(forced)[-1] == restored(snapshot)
    with in_transaction(server, live):
        refused = confirm(root, undo_page())
        forced = confirm(root, undo_page(), force="on")
    assert f"Other sessions are using &#x27;{live}&#x27;" in str(errors_at(refused, "force"))
    assert told(forced)[-1].startswith("Live again: ")


def test_restore_page_says_what_will_happen(root: Client, live: str, server: Server) -> None:
    """It tells who is connected, how long it takes, and what the undo will be."""
    snapshot = take("seeded")
    restore("seeded")
    settle(server)
    with server.connect(live, application_name="psql"):
        asked = text(root.get(of("restore", snapshot)))

    assert f"All that is in default goes back to {describe_snapshot(snapshot)}." in asked
    assert "Its spare is ready, so that takes milliseconds." in asked
    assert "Replaced states that stay: 3." in asked
    assert "1 session idles and will be ended:" in asked
    assert "(psql), idle" in asked


def test_restore_page_without_spare_and_undo(root: Client, settings: Settings) -> None:
    """It tells that there is a copy to make first, and that nothing is kept; an undo keeps one."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": False}
    snapshot = take("seeded", spare=False)

    asked = text(root.get(of("restore", snapshot)))

    assert " are copied first, which takes " in asked
    assert "What is live now is lost: the settings say that no replaced state is kept." in asked
    assert "Nobody else." in asked
    restore("seeded", undo=True)
    assert "Replaced states that stay: 1." in text(root.get(undo_page()))


def test_incomplete_snapshot_is_refused(root: Client, sql: RunSql) -> None:
    """Where a restore is refused, its page says so instead of what it would do."""
    snapshot = take("both", spare=False)
    sql(rewrite_comment(replace(snapshot.members[0].record, members=2)))

    shown = root.get(of("restore", snapshot))

    assert shown.status_code == 409
    assert "Of the snapshot &#x27;both&#x27; only the part of default is there." in text(shown)


def test_inside_a_transaction_it_is_refused(root: Client) -> None:
    """A request that some middleware wrapped in a transaction would wait for itself."""
    root.get(page("add"))

    with transaction.atomic():
        answer = confirm(root, page("add"))
        with translation.override("de"):
            german = confirm(root, page("add"))

    assert answer.status_code == 409
    assert "This request runs inside transaction.atomic on “default”" in text(answer)
    assert "Diese Anfrage läuft in transaction.atomic auf „default“" in text(german)
    assert known() == []


def test_atomic_requests(live: str, settings: Settings) -> None:
    """With ATOMIC_REQUESTS, and sessions saved at every request, everything works."""
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    settings.SESSION_SAVE_EVERY_REQUEST = True
    root = superuser()

    answers: list[Any] = [confirm(root, page("add"), name="seeded")]
    write("Lem")
    answers.append(confirm(root, of("restore", get("seeded"))))
    answers.append(undo(root))

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

    assert "Migrations not run: 1. Run migrate afterwards." in asked
    assert "Migrations of another branch, not in this code: 1." in asked
    assert "In this checkout, not in the snapshot: testapp.0002_genres" in shown
    assert "In the snapshot, not in this checkout: testapp.0002_elsewhere" in shown
