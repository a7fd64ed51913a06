"""Who may do what in the admin, and that nobody may where snapshots are switched off."""

from collections.abc import Iterator
from itertools import chain, combinations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.visiting import ALL, account, confirm, of, page, superuser, text, undo_page, visit
from tests.watching import authors, write

# What each page takes; nothing more than one of them all, to look.
TAKES = {
    "changelist": None,
    "change": None,
    "history": None,
    "diff": None,
    "add": "take",
    "restore": "restore",
    "undo": "restore",
    "delete": "delete",
}
WITHOUT_SNAPSHOT = ("changelist", "add")


@pytest.fixture
def snapshot(live: str) -> Snapshot:
    """A snapshot, restored, and something to lose."""
    snapshot = take("seeded", spare=False)
    write("Ursula")
    restore("seeded")
    write("Lem")
    return snapshot


def address(name: str, snapshot: Snapshot) -> str:
    if name == "undo":
        return undo_page()
    return page(name) if name in WITHOUT_SNAPSHOT else of(name, snapshot)


def subsets() -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(ALL, count) for count in range(len(ALL) + 1))


def test_every_combination_of_permissions(snapshot: Snapshot) -> None:
    """Each page opens, and each link to it shows, for whoever has its permission, and only then."""
    user = account()

    for granted in subsets():
        codenames = [f"{permission}_snapshot" for permission in granted]
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = visit(user)
        links = "".join(
            client.get(address(name, snapshot)).content.decode()
            for name in ("changelist", "change")
        )
        for name, permission in TAKES.items():
            may = permission in granted if permission else bool(granted)
            if permission:
                assert (f'"{address(name, snapshot)}"' in links) == may, (name, granted)
            # What one permission opens, several open.
            if len(granted) < 2 or not may:
                status = client.get(address(name, snapshot)).status_code
                assert status == (200 if may else 403), (name, granted)


def test_post_without_permission_does_nothing(snapshot: Snapshot) -> None:
    """Who may look and nothing else cannot do anything, nor can who is no member of staff."""
    looker = visit(account(permissions=["view"]))
    visitor = visit(account("bob", permissions=ALL, is_staff=False))

    for name, permission in TAKES.items():
        if permission:
            values = {"name": "new", "set_id": snapshot.set_id}
            assert confirm(looker, address(name, snapshot), **values).status_code == 403
            for client in (visitor, Client()):
                answer = confirm(client, address(name, snapshot), **values)
                assert answer.status_code == 302
                assert answer["Location"].startswith("/admin/login/")

    assert [each.name for each in list_snapshots()] == ["seeded"]
    assert authors() == ["Lem"]
    assert not LogEntry.objects.exists()


def test_strangers_are_asked_to_log_in(snapshot: Snapshot) -> None:
    """Without a login there is nothing to see, the progress of an operation included."""
    pages = [address(name, snapshot) for name in TAKES] + [page("progress", "0" * 32)]

    answers = [Client().get(each) for each in pages]

    assert {answer.status_code for answer in answers} == {302}
    assert {answer["Location"].partition("?")[0] for answer in answers} == {"/admin/login/"}


@pytest.mark.parametrize(
    ("permissions", "offered"),
    [((), (False, False)), (("delete",), (True, False)), (("take",), (True, True))],
)
def test_index_of_the_admin(
    permissions: tuple[str, ...], offered: tuple[bool, bool], live: str
) -> None:
    """The index leads to the list for whoever may look, and to a take for whoever may take."""
    client = visit(account(permissions=permissions))

    index = client.get(reverse("admin:index")).content.decode()

    assert (f'"{page("changelist")}"' in index, f'"{page("add")}"' in index) == offered


def test_switched_off(snapshot: Snapshot, settings: Settings) -> None:
    """Where snapshots are off the list says so, and nothing is offered or done."""
    pages = {name: address(name, snapshot) for name in TAKES}
    settings.PGSNAP = {"ENABLED": False}
    root = superuser()

    shown = root.get(page("changelist"))
    index = root.get(reverse("admin:index")).content.decode()
    refused = {root.get(pages[name]).status_code for name in TAKES} | {
        confirm(root, pages[name], name="new").status_code
        for name, permission in TAKES.items()
        if permission
    }

    assert shown.status_code == 403
    assert "Snapshots are switched off here, since PGSNAP['ENABLED'] is off." in text(
        shown
    ).replace("&#x27;", "'")
    assert "seeded" not in text(shown)
    assert page("add") not in shown.content.decode() + index
    assert refused == {403}
    settings.PGSNAP = {"ENABLED": True}
    assert [each.name for each in list_snapshots()] == ["seeded"]
    assert (authors(), User.objects.count()) == (["Lem"], 1)


def test_server_that_is_down(live: str, settings: Settings) -> None:
    """Where the server cannot be reached, for our sessions alone, the page says what to do."""
    root = superuser()
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"port": "1"}}

    answers = [root.get(page("changelist")), root.get(page("add")), confirm(root, page("add"))]

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert "Start the server, or correct HOST and PORT" in text(answers[0])
