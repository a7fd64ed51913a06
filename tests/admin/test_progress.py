"""Operations that take longer than a request should: their page, and how they end."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from pytest_django import Settings

from django_pgsnap.admin import progress_access, snapshot_admin
from django_pgsnap.admin.background import Job, ProgressFile, read
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.queries import get, list_snapshots
from django_pgsnap.snapshots.take import take
from tests.admin.test_restore import SIGNED_OUT, progress_at, snapshot_with, somebody_else
from tests.servers import Server
from tests.staleness import answer, asgi_answer
from tests.visiting import account, confirm, of, page, superuser, text, told, visit
from tests.watching import Background, authors, in_transaction, until, write


@pytest.fixture(autouse=True)
def _nobody_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation is a long one."""
    monkeypatch.setattr(snapshot_admin, "_PATIENCE_S", 0.0)


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


def age(directory: Path) -> None:
    """Make a directory look as if nothing had happened in it for two days."""
    long_ago = time.time() - 2 * 24 * 60 * 60
    os.utime(directory, (long_ago, long_ago))


def asks_who(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Ask who sends a request, as some middleware does."""

    def middleware(request: HttpRequest) -> HttpResponse:
        assert request.user.is_authenticated or request.user.is_anonymous
        return get_response(request)

    return middleware


@contextmanager
def at_work(server: Server, database: str) -> Iterator[None]:
    """Have clients that connect to a database wait, as they do while it is copied."""
    with server.connect() as other:
        other.execute("BEGIN")
        # The name is one of the suite's own.
        other.execute(f'ALTER DATABASE "{database}" RENAME TO "{database}_"')
        yield
        other.execute("ROLLBACK")


def ticket_for(token: str) -> dict[str, str]:
    """Return the cookies of who started the operation of this token."""
    response = HttpResponse()
    progress_access.give(RequestFactory().get("/"), response, token, "/")
    return {cookie.key: cookie.value for cookie in response.cookies.values()}


def test_take_that_has_to_wait(root: Client, live: str, server: Server) -> None:
    """Its page says what it is at, needs no database for it, and in the end what came of it."""
    with in_transaction(server, live):
        started = confirm(root, page("add"), name="seeded")
        until(lambda: "Waiting" in progress_at(started["Location"]).step)
        shown = root.get(started["Location"])
        asked_nobody = connection.connection is None

    ended = follow(root, started["Location"])

    assert started["Location"].startswith("/admin/django_pgsnap/snapshot/progress/")
    assert shown.status_code == 200
    assert "Take a snapshot" in text(shown)
    assert "Waiting up to 10 s for pid " in text(shown)
    assert "(psql), idle in transaction…" in text(shown)
    assert '<meta http-equiv="refresh"' in shown.content.decode()
    assert "sessionid" not in shown.cookies
    assert asked_nobody
    assert ended["Location"] == page("changelist")
    assert told(ended)[-1].startswith("Took “seeded”: ")
    assert get("seeded").name == "seeded"
    assert root.get(page("changelist")).context["user"].username == "root"


@pytest.mark.parametrize(
    "middleware",
    ["django.contrib.auth.middleware.LoginRequiredMiddleware", f"{__name__}.{asks_who.__name__}"],
)
def test_no_middleware_asks_a_database(
    middleware: str, root: Client, live: str, server: Server, settings: Settings
) -> None:
    """Neither who asks for users at every request, nor who saves sessions, has the page wait."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, middleware]
    settings.SESSION_SAVE_EVERY_REQUEST = True
    settings.CSRF_USE_SESSIONS = True
    asked_nobody = []
    with in_transaction(server, live):
        started = confirm(root, page("add"), name="seeded")
        asked_nobody.append(connection.connection is None)
        shown = root.get(started["Location"])
        asked_nobody.append(connection.connection is None)

    ended = follow(root, started["Location"])

    assert asked_nobody == [True, True]
    assert (shown.status_code, "sessionid" in shown.cookies) == (200, False)
    assert told(ended)[-1].startswith("Took “seeded”: ")
    assert root.get(page("changelist")).status_code == 200


def test_database_at_work_is_not_waited_for(root: Client, live: str, server: Server) -> None:
    """Behind either kind of server the page is there at once, while other clients wait."""
    file = ProgressFile("Take a snapshot")
    address = page("progress", file.token)
    root.cookies.load(ticket_for(file.token))
    header = "; ".join(f"{each.key}={each.value}" for each in root.cookies.values())

    with at_work(server, live):
        wsgi = Background(lambda: answer(address, cookies=header)).result()
        asgi = Background(lambda: asyncio.run(asgi_answer(address, cookies=header))).result()
    file.forget()

    assert (wsgi, asgi) == ({"status": 200}, {"status": 200})


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
    until(lambda: progress_at(address).ended)
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
    file.end(signed_out="You are signed out.")
    ended = lookers[0].get(address)
    file.forget()

    assert statuses == [200, 403, 302]
    assert "Copying live…" in shown
    assert (ended["Location"], told(ended)) == (page("changelist"), ["Took “seeded”."])


def test_ticket_is_for_one_operation_and_one_end(live: str) -> None:
    """It opens neither the page of another operation, nor its own once the end has been told."""
    file, other = ProgressFile("Take a snapshot"), ProgressFile("Restore “secret”")
    stranger = Client()
    stranger.cookies.load(ticket_for(file.token))
    address = page("progress", file.token)

    shown = stranger.get(address)
    refused = stranger.get(page("progress", other.token))
    file.end()
    concluded = stranger.get(address)
    stranger.cookies.clear()
    again = stranger.get(address)
    file.forget()
    other.forget()

    assert "Take a snapshot" in text(shown)
    assert concluded["Location"] == page("changelist")
    taken_back = concluded.cookies["pgsnap_progress"]
    assert (taken_back.value, taken_back["path"], taken_back["max-age"]) == ("", address, 0)
    for answer_to_stranger in (refused, again):
        assert answer_to_stranger["Location"].startswith("/admin/login/")


def test_server_that_cannot_be_asked(root: Client, settings: Settings) -> None:
    """Where it takes the server to tell how an operation is going, and it is down, one is told."""
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"port": "1"}}

    shown = root.get(page("progress", "0" * 32))

    assert shown.status_code == 503
    assert "Start the server, or correct HOST and PORT" in text(shown)


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

    def act(_: ProgressFile) -> str:
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
    age(old._directory)

    new = ProgressFile("New")

    assert [read(file.token) is not None for file in (old, recent, new)] == [False, True, True]
    recent.forget()
    new.forget()


def test_what_killed_processes_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes a day later; what is another's, is called otherwise or leads elsewhere stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, foreign, named = (
        tmp_path / f"django_pgsnap-{name}" for name in ("a" * 32, "b" * 32, "notes")
    )
    elsewhere, link = tmp_path / "elsewhere", tmp_path / f"django_pgsnap-{'c' * 32}"
    for directory in (left, foreign, named, elsewhere):
        directory.mkdir()
        (directory / "progress").write_text("{}")
        age(directory)
    link.symlink_to(elsewhere, target_is_directory=True)
    os.utime(link, (0, 0), follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    else:
        foreign.rename(tmp_path / "another user's")

    file = ProgressFile("New")

    assert not left.exists()
    assert all(kept.exists() for kept in (named, elsewhere / "progress", link))
    assert os.geteuid() != 0 or foreign.exists()
    file.forget()


def test_progress_of_another_user_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others put where ours would be is not shown to anybody."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = ProgressFile("Take")
    real, link = file._directory, tmp_path / f"django_pgsnap-{'c' * 32}"
    link.symlink_to(real, target_is_directory=True)

    assert read(file.token) is not None
    assert read("c" * 32) is None
    file.forget()


def test_work_goes_on_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where progress cannot be written down, the work is done all the same."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = ProgressFile("Take")
    file.forget()

    file.step("Copying")
    file.end()

    assert file.progress.ended


@pytest.mark.parametrize("token", ["", "..", "x" * 32, "0" * 31, "../../etc/passwd"])
def test_tokens_that_are_none(token: str) -> None:
    """No other file is read, whatever is asked for."""
    assert read(token) is None
