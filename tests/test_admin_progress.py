"""Operations that take longer than a request should: their page, and how they end."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from pytest_django import Settings

from django_pgsnap import get, list_snapshots, take
from django_pgsnap.admin import acting
from django_pgsnap.admin.progress import ProgressFile, read
from django_pgsnap.admin.work import Job
from django_pgsnap.names import lock_key
from tests.servers import Server
from tests.test_admin_restore import SIGNED_OUT, snapshot_with, somebody_else
from tests.visiting import account, confirm, of, page, superuser, text, told, visit
from tests.watching import authors, in_transaction, until, write


@pytest.fixture(autouse=True)
def _nobody_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation is a long one."""
    monkeypatch.setattr(acting, "_PATIENCE_S", 0.0)


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


def follow(client: Client, address: str) -> Any:
    """Reload the page of an operation until it leads elsewhere."""
    answers: list[Any] = []

    def leads_elsewhere() -> bool:
        answers.append(client.get(address))
        return bool(answers[-1].status_code == 302)

    until(leads_elsewhere)
    return answers[-1]


def is_over(address: str) -> bool:
    """Tell whether the operation at this address has ended."""
    found = read(address.split("/")[-2])
    return found is not None and found.progress.ended


def test_take_that_has_to_wait(root: Client, live: str, server: Server) -> None:
    """Its page says what it is at, needs no database for it, and in the end what came of it."""
    with in_transaction(server, live):
        started = confirm(root, page("add"), name="seeded")
        connection.close()
        shown = root.get(started["Location"])
        asked_nobody = connection.connection is None

    ended = follow(root, started["Location"])

    assert started["Location"].startswith("/admin/django_pgsnap/snapshot/progress/")
    assert shown.status_code == 200
    assert "Take a snapshot" in text(shown)
    assert '<meta http-equiv="refresh"' in shown.content.decode()
    assert "sessionid" not in shown.cookies
    assert asked_nobody
    assert ended["Location"] == page("changelist")
    assert told(ended)[-1].startswith("Took “seeded”: ")
    assert get("seeded").name == "seeded"
    assert root.get(page("changelist")).context["user"].username == "root"


def test_restore_that_takes_its_time(live: str) -> None:
    """Who asked for it is still signed in when it is over, and the rows are back."""
    snapshot = snapshot_with("ada")
    write("Lem")
    client = visit(User.objects.get())

    ended = follow(client, confirm(client, of("restore", snapshot))["Location"])

    assert (ended["Location"], told(ended)[-1]) == (
        page("changelist"),
        "Restored “snap1” of just now.",
    )
    assert authors() == []
    assert client.get(page("changelist")).status_code == 200


def test_login_page_says_why(live: str, settings: Settings) -> None:
    """Whom the restored database does not know is led to the login page, with our words."""
    wants_login = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, wants_login]
    snapshot = snapshot_with("eve")
    client = visit(somebody_else("ada"))

    address = confirm(client, of("restore", snapshot))["Location"]
    until(lambda: is_over(address))
    # That middleware asks a database, and this thread's connection has been ended.
    connection.close()
    ended = client.get(address)

    assert ended["Location"].startswith("/admin/login/")
    assert told(ended)[-1] == SIGNED_OUT
    assert SIGNED_OUT in client.get(ended["Location"]).content.decode()


def test_errors_are_told_in_the_end(root: Client) -> None:
    """What went wrong is told by the page after the progress."""
    take("seeded", spare=False)

    ended = follow(root, confirm(root, page("add"), name="seeded")["Location"])

    assert ended["Location"] == page("changelist")
    assert told(ended)[-1].startswith("There is a snapshot 'seeded' already, taken ")
    assert len(list_snapshots()) == 1


def test_others_may_watch_if_they_may_look(live: str) -> None:
    """The page is for who started it; others need the permission to look."""
    file = ProgressFile("Take a snapshot")
    file.step("Copying live")
    address = page("progress", file.token)
    lookers = [visit(account("a", permissions=["view"])), visit(account("b")), Client()]

    statuses = [client.get(address).status_code for client in lookers]
    shown = text(lookers[0].get(address))
    file.tell("success", "Took “seeded”.")
    file.end(signed_out=True)
    ended = lookers[0].get(address)
    file.forget()

    assert statuses == [200, 403, 302]
    assert "Copying live…" in shown
    assert (ended["Location"], told(ended)) == (page("changelist"), ["Took “seeded”."])


def test_amount_copied(live: str) -> None:
    """While it copies, the page shows how much of how much."""
    file = ProgressFile("Restore")
    file._written = 0.0
    file.copied(512, 2048)
    file.copied(1024, 2048)

    shown = superuser().get(page("progress", file.token)).content.decode()
    file.forget()

    assert '<progress max="2048" value="512"' in shown


def test_work_of_another_machine(root: Client, live: str, server: Server) -> None:
    """What this machine has no file of is looked for on the server, until it is over."""
    address = page("progress", "0" * 32)
    with server.connect(application_name="pgsnap restore big (ada@web2:4711)") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [lock_key(live)])
        shown = root.get(address)

    assert "Under way on default: restore big (ada@web2:4711)" in text(shown)
    assert '<meta http-equiv="refresh"' in shown.content.decode()
    ended = follow(root, address)
    assert (ended["Location"], told(ended)) == (page("changelist"), ["It is over."])


def test_process_that_is_gone(root: Client) -> None:
    """Where nothing has been heard of an operation, and the server knows of none, one is told."""
    file = ProgressFile("Restore “seeded”")
    long_ago = time.time() - 60
    os.utime(file._directory / "progress", (long_ago, long_ago))

    ended = root.get(page("progress", file.token))
    file.forget()

    assert ended["Location"] == page("changelist")
    (message,) = told(ended)
    assert message.startswith("Restore “seeded”: the process that did it is gone.")


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expected ends the progress, and is raised for the log."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def act(_: ProgressFile) -> bool:
        raise ZeroDivisionError

    ended = Job("Take", act).result(10)

    assert ended is not None
    assert (ended.failed, ended.texts[-1][0]) == (True, "error")
    assert [each.exc_type for each in raised] == [ZeroDivisionError]


def test_file_is_for_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress lies where only our own user may look, and is removed when it has been told."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = ProgressFile("Take")
    (directory,) = tmp_path.iterdir()

    mode = directory.stat().st_mode & 0o777
    found = read(file.token)
    file.forget()

    assert mode == 0o700
    assert found is not None
    assert found.progress == file.progress
    assert read(file.token) is None
    assert list(tmp_path.iterdir()) == []


def test_old_files_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody came back for goes when the next operation begins an hour later."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, recent = ProgressFile("Old"), ProgressFile("Recent")
    long_ago = time.time() - 2 * 60 * 60
    os.utime(old._directory / "progress", (long_ago, long_ago))

    new = ProgressFile("New")

    assert [read(file.token) is not None for file in (old, recent, new)] == [False, True, True]
    recent.forget()
    new.forget()


@pytest.mark.parametrize("token", ["", "..", "x" * 32, "0" * 31, "../../etc/passwd"])
def test_tokens_that_are_none(token: str) -> None:
    """No other file is read, whatever is asked for."""
    assert read(token) is None
