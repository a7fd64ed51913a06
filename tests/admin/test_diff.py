"""What changed since a snapshot, in the admin: on demand, and without values."""

import pytest
from django.db import connection
from django.test import Client

from django_pgsnap.admin import snapshot_admin
from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import RunSql
from tests.visiting import account, of, superuser, text, visit
from tests.watching import write


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


@pytest.fixture
def snapshot(root: Client) -> Snapshot:
    """A snapshot of a database that has changed since."""
    snapshot = take("seeded", spare=False)
    write("Ursula")
    connection.close()
    return snapshot


def test_numbers_without_values(snapshot: Snapshot, sql: RunSql, live: str) -> None:
    """Who may look at snapshots sees what changed, and no value of it."""
    sql("ALTER TABLE testapp_author ADD COLUMN more int", dbname=live)
    looker = visit(account(permissions=["view"]))

    answer = looker.get(of("diff", snapshot))

    shown = text(answer)
    assert answer.status_code == 200
    assert "testapp.Author (default) 1 0 0" in " ".join(shown.split())
    assert "column testapp_author.more" in shown
    assert "Ursula" not in shown


def test_pages_lead_to_it_without_comparing(
    root: Client, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot's page and the page before a restore link to it, and do not wait for it."""
    monkeypatch.delattr(snapshot_admin, "diff")

    pages = [root.get(of(name, snapshot)).content.decode() for name in ("change", "restore")]

    for page in pages:
        assert f'href="{of("diff", snapshot)}"' in page
        assert "django_pgsnap/diff.js" in page
        assert 'id="pgsnap-diff"' in page


def test_operation_that_comes_between(
    root: Client, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why there is nothing to see is said on the page."""

    def fail(*_: object, **__: object) -> None:
        raise DatabaseBusyError("Another operation needed it.", hint="Compare again.")

    monkeypatch.setattr(snapshot_admin, "diff", fail)

    answer = root.get(of("diff", snapshot))

    assert answer.status_code == 409
    assert "Compare again." in text(answer)


def test_snapshot_that_is_gone(root: Client, snapshot: Snapshot) -> None:
    """Who asks about a deleted snapshot is led to the list."""
    address = of("diff", snapshot).replace(snapshot.set_id, "0" * 16)

    assert root.get(address).status_code == 302
