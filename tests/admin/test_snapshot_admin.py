"""A snapshot's own pages: its form, its deletion, its history."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from django_pgsnap.admin.text import describe_snapshot
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import RunSql
from tests.visiting import account, confirm, of, page, superuser, text, told, visit

NAME = "a/b.c-d_e"


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


@pytest.fixture
def snapshot(root: Client) -> Snapshot:
    """A snapshot called seeded, which knows the superuser."""
    return take("seeded", note="before", spare=False)


def known() -> list[tuple[str, str, bool]]:
    return [(each.name, each.note, each.pinned) for each in list_snapshots()]


def test_name_note_and_pin_are_changed(root: Client, snapshot: Snapshot) -> None:
    """The form shows what a snapshot has, and changes that and nothing else."""
    shown = root.get(of("change", snapshot)).context["adminform"].form

    changed = root.post(of("change", snapshot), {"name": NAME, "note": "later", "pinned": "on"})
    after = known()
    root.post(of("change", snapshot), {"name": NAME, "note": "later"})

    assert (shown["name"].value(), shown["note"].value(), shown["pinned"].value()) == (
        *("seeded", "before"),
        False,
    )
    assert after == [(NAME, "later", True)]
    assert known() == [(NAME, "later", False)]
    assert "was changed successfully" in told(changed)[-1]
    assert [str(entry) for entry in LogEntry.objects.order_by("pk")] == [
        f"Changed “{NAME}” — Changed Name, Note and Pinned.",
        f"Changed “{NAME}” — Changed Pinned.",
    ]


def test_name_that_cannot_be(root: Client, snapshot: Snapshot) -> None:
    """A name that another snapshot has, or that is none, is refused at its field."""
    take("other", spare=False)

    answers = [
        root.post(of("change", snapshot), {"name": name, "note": "later"})
        for name in ("other", "no spaces!", "list", "")
    ]

    first = [each.context["adminform"].form.errors["name"][0] for each in answers]
    assert [each.partition("<br>")[0] for each in first] == [
        "There is a snapshot “other” already.",
        "A snapshot cannot be called &#x27;no spaces!&#x27;.",
        "A snapshot cannot be called &#x27;list&#x27;: that is a subcommand of pgsnap.",
        "This field is required.",
    ]
    assert ("seeded", "before", False) in known()


def test_looking_is_not_changing(snapshot: Snapshot) -> None:
    """Who may only look sees name, note and facts, and cannot send others."""
    looker = visit(account(permissions=["view"]))

    shown = looker.get(of("change", snapshot))
    refused = looker.post(of("change", snapshot), {"name": "new", "note": "", "pinned": "on"})

    assert "seeded" in text(shown)
    assert "before" in text(shown)
    assert f"Identity: {snapshot.set_id}" in text(shown)
    assert 'type="submit" value="Save"' not in shown.content.decode()
    assert refused.status_code == 403
    assert known() == [("seeded", "before", False)]


def test_values_of_custom_settings_are_not_shown(root: Client, live: str, sql: RunSql) -> None:
    """Projects keep secrets in settings of their own; the server's own are no secret."""
    sql(f"ALTER DATABASE {live} SET app.jwt_secret = 'hunter2'")
    sql(f"ALTER DATABASE {live} SET work_mem = '7MB'")

    shown = text(root.get(of("change", take("seeded", spare=False))))

    assert "app.jwt_secret = … work_mem = 7MB" in shown
    assert "hunter2" not in shown


def test_deletion_names_what_goes(root: Client, snapshot: Snapshot) -> None:
    """The page says what is lost and which databases go; then they go."""
    asked = root.get(of("delete", snapshot))
    answer = confirm(root, of("delete", snapshot))

    assert describe_snapshot(snapshot) in text(asked)
    assert snapshot.members[0].database.name in text(asked)
    assert (known(), answer["Location"]) == ([], page("changelist"))
    assert told(answer) == ["Deleted: “seeded”."]
    assert [str(entry) for entry in LogEntry.objects.all()] == ["Deleted “seeded.”"]


def test_history_and_recent_actions(root: Client, snapshot: Snapshot) -> None:
    """Both say that it was restored; a link to one that is gone says that it is."""
    confirm(root, of("restore", snapshot))

    history = text(root.get(of("history", snapshot)))
    index = text(root.get(reverse("admin:index")))
    confirm(root, of("delete", snapshot))
    stale = root.get(of("change", snapshot))

    assert "root restored" in history
    assert "seeded: restored" in index
    assert "Perhaps it was deleted?" in told(stale)[-1]
