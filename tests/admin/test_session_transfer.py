"""Who is signed in after a restore from the admin: the same person, or nobody."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from django_pgsnap.admin import progress_pages
from django_pgsnap.admin.background import Progress, read_progress
from django_pgsnap.messages import format_moment
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests import visiting
from tests.conftest import RunSql
from tests.project import point
from tests.servers import Server
from tests.visiting import (
    PASSWORD,
    Answer,
    account,
    confirm,
    of,
    page,
    text,
    undo,
    undo_page,
    visit,
)
from tests.watching import authors, in_transaction, until, write

Handler = Callable[[HttpRequest], HttpResponse]

ENGINES = ("db", "cached_db", "cache", "file", "signed_cookies")
SIGNED_OUT = (
    "You are signed out: the restored database does not have you with the same name and password."
    " Log in as somebody whom it has."
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> str:
    """Where sessions are kept, in turn."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(tmp_path / "cache"),
        }
    }
    return str(request.param)


def snapshot_with(name: str, password: str = PASSWORD) -> Snapshot:
    """Take a snapshot in which this superuser is the only user."""
    User.objects.all().delete()
    user = account(name, is_superuser=True)
    user.set_password(password)
    user.save()
    connection.close()
    return take(spare=False)


def somebody_else(name: str) -> User:
    """Replace the only user by another one who has the same primary key."""
    pk = User.objects.get().pk
    User.objects.all().delete()
    user = User(pk=pk, username=name, is_staff=True, is_superuser=True)
    user.set_password(PASSWORD)
    user.save()
    return user


def progress_at(address: str) -> Progress:
    """Return how far the operation at this address is."""
    progress = read_progress(address.split("/")[-2])
    assert progress is not None
    return progress


def told(response: Answer) -> list[str]:
    """Return the messages that an answer adds, but for the one that says why it copied."""
    return [each for each in visiting.told(response) if not each.startswith("Copied ")]


def restored(snapshot: Snapshot) -> str:
    """Return what is told after a restore."""
    return f"Restored “{snapshot.name}” ({format_moment(snapshot.taken_at)})."


def is_at_login(client: Client) -> bool:
    """Tell whether a browser is asked to log in where the snapshots would be."""
    response = client.get(page("changelist"))
    return response.status_code == 302 and response["Location"].startswith("/admin/login/")


def test_same_person_stays_signed_in(live: str, engine: str) -> None:
    """Who is in the restored database with the same password goes on, also after the undo."""
    snapshot = snapshot_with("ada")
    write("Lem")
    client = visit(User.objects.get())

    restored = confirm(client, of("restore", snapshot))
    undone = undo(client)

    assert [answer["Location"] for answer in (restored, undone)] == [page("changelist")] * 2
    assert authors() == ["Lem"]
    assert client.get(page("changelist")).context["user"].username == "ada"


def test_another_person_with_the_same_key_is_not_signed_in(live: str, engine: str) -> None:
    """The primary key alone makes nobody the restored database's user of that key."""
    snapshot = snapshot_with("eve")
    client = visit(somebody_else("ada"))

    answer = confirm(client, of("restore", snapshot))

    assert answer["Location"] == f"/admin/login/?next={page('changelist')}"
    assert told(answer) == [restored(snapshot), SIGNED_OUT]
    assert is_at_login(client)
    assert SIGNED_OUT in client.get(answer["Location"]).content.decode()
    assert [user.username for user in User.objects.all()] == ["eve"]
    assert not LogEntry.objects.exists()


def test_login_of_another_person_under_the_own_key(live: str) -> None:
    """A login that comes back under the visitor's session key is over, for whoever has the key."""
    snapshot_with("eve")
    client = visit(User.objects.get())
    snapshot = take(spare=False)
    key = client.session.session_key
    login = visit(somebody_else("ada")).session.session_key
    own = Session.objects.get(pk=login).session_data
    Session.objects.filter(pk=key).update(session_data=own)

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[-1] == SIGNED_OUT
    assert not Session.objects.filter(pk=key).exists()


@pytest.mark.parametrize("engine", ["db", "cache"], indirect=True)
def test_people_without_passwords_are_told_apart(live: str, engine: str) -> None:
    """Where somebody else vouches for users, session hashes are alike, names are not."""
    snapshot_with("eve")
    User.objects.update(password="")
    connection.close()
    snapshot = take(spare=False)
    User.objects.update(username="ada")
    client = visit(User.objects.get())

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[-1] == SIGNED_OUT
    assert is_at_login(client)


def test_changed_password(live: str) -> None:
    """Whose password was another one at that time has to log in with that one."""
    snapshot = snapshot_with("ada", "what it was then")
    user = User.objects.get()
    user.set_password(PASSWORD)
    user.save()
    client = visit(user)

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[-1] == SIGNED_OUT
    assert is_at_login(client)
    assert not client.login(username="ada", password=PASSWORD)
    assert client.login(username="ada", password="what it was then")


def log_out(client: Client) -> None:
    """Log out in another tab, without the browser's forgetting its cookie."""
    tab = Client()
    tab.cookies.load({key: morsel.value for key, morsel in client.cookies.items()})
    tab.post(reverse("admin:logout"))


def change_password(_client: Client) -> None:
    """Change the password from elsewhere, as one does who fears for it."""
    user = User.objects.get()
    user.set_password("a new one")
    user.save()


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache"], indirect=True)
@pytest.mark.parametrize("end", [log_out, change_password])
def test_session_that_ends_before_the_swap(
    end: Callable[[Client], None],
    live: str,
    server: Server,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ends the session while the restore has not swapped yet, is not undone by it."""
    monkeypatch.setattr(progress_pages, "_PATIENCE_S", 0.0)
    snapshot = snapshot_with("ada")
    client = visit(User.objects.get())
    with in_transaction(server, live):
        address = confirm(client, of("restore", snapshot))["Location"]
        until(lambda: "Waiting" in progress_at(address).step)
        end(client)
        connection.close()
    until(lambda: progress_at(address).ended)

    concluded = client.get(address)

    # Before that it may tell that it ended the session that has just been closed.
    assert told(concluded)[-2:] == [
        restored(snapshot),
        "You are signed out: your session ended while the restore was at work.",
    ]
    assert is_at_login(client)
    assert not Session.objects.exists()
    assert authors() == []


@pytest.mark.parametrize("verb", ["restore", "undo"])
def test_session_that_moves_on_before_the_swap(
    verb: str, live: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is carried over is the session as it was last, not as it was when one asked."""
    monkeypatch.setattr(progress_pages, "_PATIENCE_S", 0.0)
    snapshot = snapshot_with("ada")
    write("Lem")
    restore(snapshot.name)
    client = visit(User.objects.get())
    with in_transaction(server, live):
        asked = of("restore", snapshot) if verb == "restore" else undo_page()
        address = confirm(client, asked)["Location"]
        until(lambda: "Waiting" in progress_at(address).step)
        session = client.session
        session["colour"] = "green"
        session.save()
        connection.close()
    until(lambda: progress_at(address).ended)

    client.get(address)

    assert client.session["colour"] == "green"


@pytest.mark.parametrize("engine", ["cached_db"], indirect=True)
def test_row_that_has_expired_is_not_carried_over(live: str, engine: str) -> None:
    """A session whose row has expired is over, whatever a cache still holds of it."""
    snapshot = snapshot_with("ada")
    client = visit(User.objects.get())
    Session.objects.update(expire_date=timezone.now() - timedelta(minutes=1))
    connection.close()

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[-2:] == [
        restored(snapshot),
        "You are signed out: your session ended while the restore was at work.",
    ]
    assert not Session.objects.exists()


def test_behind_a_pool(live: str) -> None:
    """The last look goes through the pool that the project has, and does not keep it."""
    snapshot = snapshot_with("ada")
    write("Lem")
    point("default", OPTIONS={"pool": {"min_size": 1, "max_size": 3}})
    client = visit(User.objects.get())

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[-1] == restored(snapshot)
    assert authors() == []
    assert client.get(page("changelist")).context["user"].username == "ada"


def test_only_the_own_session_is_carried_over(live: str) -> None:
    """Other people's sessions, and users who came later, stay in the database that was replaced."""
    snapshot = snapshot_with("ada")
    client = visit(User.objects.get())
    visit(account("bob", is_superuser=True))
    mine = Session.objects.get(pk=client.session.session_key)

    confirm(client, of("restore", snapshot))

    (carried,) = Session.objects.all()
    assert (carried.pk, carried.session_data) == (mine.pk, mine.session_data)
    assert carried.expire_date == mine.expire_date
    assert [user.username for user in User.objects.all()] == ["ada"]


def test_sessions_in_a_database_that_is_not_restored(lives: dict[str, str]) -> None:
    """A restore of another database ends nobody's session."""
    client = visit(account("ada", is_superuser=True))
    other = visit(account("bob", is_superuser=True))
    connection.close()
    snapshot = take(databases=["other"], spare=False)

    page_says = text(client.get(of("restore", snapshot)))
    confirm(client, of("restore", snapshot))

    assert "Others stay logged in" in page_says
    assert not is_at_login(client)
    assert not is_at_login(other)


def test_session_of_the_snapshot_becomes_the_present_one(live: str) -> None:
    """A session that was there at the take is brought up to date."""
    snapshot_with("ada")
    client = visit(User.objects.get())
    snapshot = take(spare=False)
    session = client.session
    session["colour"] = "green"
    session.save()
    connection.close()

    confirm(client, of("restore", snapshot))

    assert client.session["colour"] == "green"


@pytest.mark.parametrize("keep", [False, True])
def test_logins_of_others_come_back_only_if_wanted(
    keep: bool, live: str, settings: Settings
) -> None:
    """A login that has ended since the take is not brought back, unless the settings say so."""
    settings.PGSNAP = {"ENABLED": True, "KEEP_SESSIONS": keep}
    snapshot_with("ada")
    client, other = visit(User.objects.get()), visit(account("bob", is_superuser=True))
    snapshot = take("both", spare=False)
    stolen = {key: morsel.value for key, morsel in other.cookies.items()}
    other.post(reverse("admin:logout"))
    connection.close()

    page_says = text(client.get(of("restore", snapshot)))
    confirm(client, of("restore", snapshot))
    other.cookies.load(stolen)

    assert ("Logins of others come back, too" in page_says) == keep
    assert ("Others have to log in again." in page_says) != keep
    assert client.get(page("changelist")).status_code == 200
    assert is_at_login(other) != keep


@pytest.mark.parametrize("engine", ["cached_db", "cache", "signed_cookies"], indirect=True)
@pytest.mark.parametrize("wanted", [True, False])
def test_ids_of_users_are_not_given_twice(wanted: bool, live: str, engine: str) -> None:
    """Where logins outlive a restore, the users' sequence can go on behind what it gave."""
    snapshot = snapshot_with("ada")
    client = visit(User.objects.get())
    later = account("bob")
    connection.close()

    offered = client.get(of("restore", snapshot)).context["adminform"].form
    confirm(client, of("restore", snapshot), **({"keep_ids_unique": "on"} if wanted else {}))

    assert offered["keep_ids_unique"].value()
    assert (account("eve").pk > later.pk) == wanted


def test_ids_do_not_matter_where_logins_are_in_the_database(live: str) -> None:
    """There, logins and users go back together."""
    snapshot = snapshot_with("ada")

    shown = visit(User.objects.get()).get(of("restore", snapshot))

    assert "keep_ids_unique" not in shown.context["adminform"].form.fields


@pytest.mark.parametrize(
    ("missing", "goes_on"),
    [("django_session", False), ("auth_user", False), ("django_admin_log", True)],
)
def test_restored_database_that_lacks_a_table(
    missing: str, goes_on: bool, live: str, sql: RunSql
) -> None:
    """A restored database may be older than the tables of sessions, users or the log."""
    snapshot_with("ada")
    take("all", spare=False)
    sql(f"DROP TABLE {missing} CASCADE", dbname=live)
    snapshot = take("without", spare=False)
    restore("all")
    client = visit(User.objects.get())

    answer = confirm(client, of("restore", snapshot))

    assert told(answer)[0] == restored(snapshot)
    if goes_on:
        assert told(answer)[1].startswith("Nothing was written into the admin's log: ")
        assert client.get(page("changelist")).status_code == 200
    else:
        assert told(answer)[-1] == SIGNED_OUT
        assert SIGNED_OUT in client.get(answer["Location"]).content.decode()


def test_middleware_that_says_who_it_is(live: str, settings: Settings) -> None:
    """Where no session signs anybody in, a restore signs nobody out."""
    snapshot = snapshot_with("ada")
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{everybody_is_ada.__name__}"]

    answer = confirm(Client(), of("restore", snapshot))

    assert answer["Location"] == page("changelist")
    assert told(answer) == [restored(snapshot)]


def everybody_is_ada(get_response: Handler) -> Handler:
    def middleware(request: HttpRequest) -> HttpResponse:
        request.user = User.objects.get(username="ada")
        return get_response(request)

    return middleware
