"""Operations that take longer than a request should: their page, and how they end."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.signals import post_init
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from pytest_django import Settings

from django_pgsnap.admin import background, progress_pages
from django_pgsnap.admin.background import ProgressReporter, forget_progress
from django_pgsnap.admin.snapshot_admin import SnapshotAdmin
from django_pgsnap.models import Snapshot
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.queries import get, list_snapshots
from django_pgsnap.snapshots.take import take
from tests.admin.test_session_transfer import (
    SIGNED_OUT,
    progress_at,
    restored,
    snapshot_with,
    somebody_else,
)
from tests.servers import Server
from tests.staleness import answer, asgi_answer
from tests.visiting import account, confirm, of, page, superuser, text, told, visit
from tests.watching import PATIENCE_S, Background, authors, in_transaction, until, write


@pytest.fixture(autouse=True)
def _nobody_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation is a long one."""
    monkeypatch.setattr(progress_pages, "_PATIENCE_S", 0.0)


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


@contextmanager
def locked(server: Server, database: str) -> Iterator[None]:
    """Hold a live database's lock, as another operation on it does."""
    with server.connect(application_name="pgsnap take other (ada@web2:4711)") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_key(database)])
        yield


def cookies_for(token: str) -> dict[str, str]:
    """Return the cookies of who started the operation of this token."""
    response = HttpResponse()
    progress_pages.set_progress_cookie(response, token, "/", secure=False)
    return {cookie.key: cookie.value for cookie in response.cookies.values()}


def begin(title: str) -> ProgressReporter:
    """Begin an operation that a superuser asked for."""
    return ProgressReporter(title, User(username="ada", is_staff=True, is_superuser=True))


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
    assert "Welcome, root" in text(shown)
    assert "sessionid" not in shown.cookies
    assert asked_nobody
    assert ended["Location"] == page("changelist")
    assert told(ended)[-1].startswith("Took “seeded”: ")
    assert get("seeded").name == "seeded"
    assert root.get(page("changelist")).context["user"].username == "root"


def test_user_with_what_no_file_can_hold(root: Client, live: str, server: Server) -> None:
    """What a project keeps on its users, functions for instance, takes nobody's page away."""

    def keep_function(instance: Any, **_: Any) -> None:
        instance.greet = lambda: "hello"

    post_init.connect(keep_function, sender=User)
    try:
        with in_transaction(server, live):
            started = confirm(root, page("add"), name="seeded")
            shown = root.get(started["Location"])
            asked_nobody = connection.connection is None
    finally:
        post_init.disconnect(keep_function, sender=User)

    assert "Welcome, root" in text(shown)
    assert asked_nobody
    assert told(follow(root, started["Location"]))[-1].startswith("Took “seeded”: ")


def test_user_that_no_file_can_hold(
    root: Client, live: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot be kept with the progress is known by the session, as on any other page."""
    monkeypatch.setattr(User, "__reduce__", None)

    with in_transaction(server, live):
        started = confirm(root, page("add"), name="seeded")
        until(lambda: "Waiting" in progress_at(started["Location"]).step)
        shown = root.get(started["Location"])
    until(lambda: progress_at(started["Location"]).ended)  # a copy ends sessions that idle

    assert "Welcome, root" in text(shown)
    assert told(follow(root, started["Location"]))[-1].startswith("Took “seeded”: ")


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
    file = begin("Take a snapshot")
    address = page("progress", file.token)
    root.cookies.load(cookies_for(file.token))
    header = "; ".join(f"{each.key}={each.value}" for each in root.cookies.values())

    with at_work(server, live):
        wsgi = Background(lambda: answer(address, cookies=header)).result()
        asgi = Background(lambda: asyncio.run(asgi_answer(address, cookies=header))).result()
    forget_progress(file.token)

    assert (wsgi, asgi) == ({"status": 200}, {"status": 200})


def test_restore_that_takes_its_time(live: str) -> None:
    """Who asked for it is still signed in when it is over, and the rows are back."""
    snapshot = snapshot_with("ada")
    write("Lem")
    client = visit(User.objects.get())

    ended = follow(client, confirm(client, of("restore", snapshot))["Location"])

    assert (ended["Location"], told(ended)[-1]) == (page("changelist"), restored(snapshot))
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


def test_errors_are_told_in_the_end(root: Client, live: str, server: Server) -> None:
    """What went wrong is told by the page after the progress."""
    with in_transaction(server, live):
        ended = follow(root, confirm(root, page("add"), wait_s="0.1")["Location"])

    assert ended["Location"] == page("changelist")
    assert "Other sessions are using &#x27;live" in told(ended)[-1]
    assert "“End sessions that are at work”" in told(ended)[-1]
    assert list_snapshots() == ()


def test_others_may_watch_if_they_may_look(live: str) -> None:
    """The page is for who started it; others need the permission to look."""
    file = begin("Take a snapshot")
    file.step("Copying live")
    address = page("progress", file.token)
    lookers = [visit(account("a", permissions=["view"])), visit(account("b")), Client()]

    statuses = [client.get(address).status_code for client in lookers]
    shown = text(lookers[0].get(address))
    file.tell("success", "Took “seeded”.")
    file.end(signed_out="You are signed out.")
    ended = lookers[0].get(address)
    forget_progress(file.token)

    assert statuses == [200, 403, 302]
    assert "Copying live…" in shown
    assert (ended["Location"], told(ended)) == (page("changelist"), ["Took “seeded”."])


def test_cookie_is_for_one_operation_and_one_end(live: str) -> None:
    """It opens neither the page of another operation, nor its own once the end has been told."""
    file, other = begin("Take a snapshot"), begin("Restore “secret”")
    stranger = Client()
    stranger.cookies.load(cookies_for(file.token))
    address = page("progress", file.token)

    shown = stranger.get(address)
    refused = stranger.get(page("progress", other.token))
    file.end(signed_out="You are signed out.")
    concluded = stranger.get(address)
    stranger.cookies.clear()
    again = stranger.get(address)
    forget_progress(file.token)
    forget_progress(other.token)

    assert "Take a snapshot" in text(shown)
    assert told(concluded) == ["You are signed out."]
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
    file = begin("Restore")
    file.progress = replace(file.progress, heard=0.0)
    file.copied(512, 2048)
    file.copied(1024, 2048)

    shown = superuser().get(page("progress", file.token)).content.decode()
    forget_progress(file.token)

    assert '<progress max="2048" value="512"' in shown
    assert "django_pgsnap/admin.css" in shown


def test_work_of_another_machine(root: Client, live: str, server: Server) -> None:
    """What this machine has no file of is looked for on the server, until it is over."""
    address = page("progress", "0" * 32)
    with server.connect(application_name="pgsnap restore big (ada@web2:4711)") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [lock_key(live)])
        shown = root.get(address)

    assert "At work on default" in text(shown)
    assert "restore big (ada@web2:4711)" in text(shown)
    ended = follow(root, address)
    assert (ended["Location"], told(ended)) == (page("changelist"), ["It is over."])


def test_process_that_is_gone(root: Client) -> None:
    """Where nothing has been heard of an operation, and the server knows of none, one is told."""
    file = begin("Restore “seeded”")
    long_ago = replace(file.progress, heard=time.time() - 60)
    background._store().set(file.token, vars(long_ago))

    ended = root.get(page("progress", file.token))
    forget_progress(file.token)

    assert ended["Location"] == page("changelist")
    (message,) = told(ended)
    assert message.startswith("Restore “seeded”: the process that did it is gone.")


def test_script_is_told_when_it_is_over(live: str) -> None:
    """The page's script hears that it is over without the end being told to nobody."""
    file = begin("Take a snapshot")
    client = Client()
    client.cookies.load(cookies_for(file.token))
    address, poll = page("progress", file.token), {"X-Pgsnap-Poll": "1"}

    during = client.get(address, headers=poll)
    file.tell("success", "Took “seeded”.")
    file.end(signed_out="You are signed out.")
    over = [client.get(address, headers=poll), client.get(address, headers=poll)]
    concluded = client.get(address)

    assert [each.status_code for each in (during, *over)] == [200, 204, 204]
    assert told(concluded) == ["Took “seeded”.", "You are signed out."]


def test_page_needs_no_script(live: str) -> None:
    """Nothing reloads by itself; where no script runs, a link shows how far it is."""
    file = begin("Take a snapshot")
    client = Client()
    client.cookies.load(cookies_for(file.token))

    shown = client.get(page("progress", file.token)).content.decode()
    forget_progress(file.token)

    assert "http-equiv" not in shown
    assert '<noscript><p><a href="">See how far it is now</a></p></noscript>' in shown
    assert 'id="pgsnap-step" role="status"' in shown


@pytest.mark.parametrize("awaited", ["session", "operation"])
def test_cancel(root: Client, live: str, server: Server, settings: Settings, awaited: str) -> None:
    """Who started an operation stops it, whatever it waits for, however long; nothing changed."""
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 10 * PATIENCE_S}
    write("Ursula")
    busy = in_transaction if awaited == "session" else locked
    with busy(server, live):
        started = confirm(root, page("add"), name="seeded")["Location"]
        until(lambda: "Waiting" in progress_at(started).step)
        cancelled = root.post(f"{started}cancel/")
        until(lambda: progress_at(started).ended)

    ended = follow(root, started)
    assert cancelled["Location"] == started
    assert told(ended)[-1] == "Cancelled. The databases are as they were."
    assert (list_snapshots(), authors()) == ((), ["Ursula"])


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_deletion(root: Client, live: str, server: Server, several: bool) -> None:
    """A deletion that takes a while has the page of progress, and is told and logged at its end."""
    snapshot = take("seeded", spare=False)
    chosen = {"action": "delete_selected", "_selected_action": [snapshot.set_id], "post": "yes"}
    with locked(server, live):
        if several:
            started = root.post(page("changelist"), chosen)["Location"]
        else:
            started = confirm(root, of("delete", snapshot))["Location"]
        until(lambda: "Waiting" in progress_at(started).step)
        shown = text(root.get(started))

    ended = follow(root, started)
    assert "Delete “seeded”" in shown
    assert (ended["Location"], told(ended)) == (page("changelist"), ["Deleted: “seeded”."])
    assert list_snapshots() == ()
    assert [str(entry) for entry in LogEntry.objects.all()] == ["Deleted “seeded.”"]


def test_cancel_is_for_who_started_it(root: Client) -> None:
    """Without the cookie nobody cancels, whatever else they may do."""
    file = begin("Take a snapshot")

    answer = root.post(f"{page('progress', file.token)}cancel/")
    file.step("Copying live")
    forget_progress(file.token)

    assert answer.status_code == 403
    assert file.progress.step == "Copying live"


@pytest.mark.urls("tests.admin.test_progress")
def test_site_decides_who_looks(live: str) -> None:
    """The site's own rule is asked, also while no database answers, and after the end."""
    file = begin("Restore “secret”")
    client = Client()
    client.cookies.load(cookies_for(file.token))
    address = page("progress", file.token)

    answers = [client.get(address)]
    file.end()
    answers.append(client.get(address))
    forget_progress(file.token)

    assert [answer["Location"].partition("?")[0] for answer in answers] == ["/closed/login/"] * 2


class ClosedSite(AdminSite):
    """Lets nobody in."""

    def has_permission(self, _request: HttpRequest) -> bool:
        """Refuse."""
        return False


closed = ClosedSite(name="closed")
closed.register(Snapshot, SnapshotAdmin)
urlpatterns = [path("closed/", closed.urls)]
