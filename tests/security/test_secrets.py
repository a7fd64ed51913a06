"""Passwords: in no argument, no output, no log, no error page and no comment."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from django.http import HttpRequest
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.conf import Config, problems
from django_pgsnap.errors import PgsnapError
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.project import ROOT, Manage, child_environment, point
from tests.servers import Server
from tests.watching import settle

# With what would end a quoted string, a pair of a connection string, or an URL's password.
SECRET = "s3cr'et \\ @:/%{}"
WRONG = f"wrong {SECRET}"

# What is left of the secret where it is quoted or escaped in any way.
TRACE = "s3cr"

WATCH_PROGRAMS = """
import sys

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        print(event, arguments)

import django
django.setup()
sys.addaudithook(watch)
from django_pgsnap import restore, take
take("seeded")
restore("seeded")
"""


@pytest.fixture
def project(live_owned: str, sql: RunSql) -> str:
    """The live database of a role that needs its password, which is the secret."""
    sql(pg.SQL("ALTER ROLE ordinary PASSWORD {}").format(SECRET))
    point("default", PASSWORD=SECRET)
    return live_owned


@pytest.fixture
def wrong_password(project: str) -> None:
    """Have Django use a password that the server refuses."""
    point("default", PASSWORD=WRONG)


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All loggers, at their most talkative."""
    with caplog.at_level(logging.DEBUG):
        for name in ("django_pgsnap", "django.db.backends", "psycopg", "psycopg.pool"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield caplog


def test_nothing_tells_when_all_goes_well(
    project: str, server: Server, everything_logged: pytest.LogCaptureFixture
) -> None:
    """Neither our log, nor the server's, nor a comment has the password."""
    before = server.log_size_bytes

    take("seeded", note="a note")
    settle(server)
    restore("seeded")
    undo()
    comments = [str(database.comment) for database in settle(server)]
    listed = repr(list_snapshots())
    delete("seeded")

    assert everything_logged.text
    for text in (everything_logged.text, server.read_log(before), *comments, listed):
        assert TRACE not in text


@pytest.mark.parametrize("words", [["take"], ["restore", "seeded"], ["list"], ["doctor"]], ids=str)
def test_nothing_tells_when_the_password_is_wrong(
    words: list[str], wrong_password: None, manage: Manage
) -> None:
    """The message says that the password is wrong, and not what it is; nor does a traceback."""
    ended = manage("pgsnap", *words, "--traceback", "-v", "3")

    assert ended.returncode != 0
    assert "password authentication failed" in ended.stdout + ended.stderr
    assert "Traceback" in ended.stderr
    assert TRACE not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "verb", [take, restore, undo, list_snapshots], ids=lambda verb: verb.__name__
)
def test_error_page(verb: Callable[[], object], wrong_password: None, settings: Settings) -> None:
    """Django's page for errors, which shows the variables of all frames, does not show it."""
    settings.DEBUG = True

    page = error_page(verb)

    assert "password authentication failed" in page
    assert "django_pgsnap" in page
    assert TRACE not in page


def test_error_page_in_mid_operation(project: str, settings: Settings) -> None:
    """Nor does the page for an error that comes when the sessions are open."""
    settings.DEBUG = True

    page = error_page(lambda: restore("unknown"))

    assert "There is no snapshot" in page
    assert TRACE not in page


def test_error_page_of_maintenance_parameters(live: str, settings: Settings) -> None:
    """A password in PGSNAP's MAINTENANCE is kept as well, also where no connection is made."""
    settings.DEBUG = True
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"password": WRONG}}
    point("default", OPTIONS={"isolation_level": 99})

    page = error_page(list_snapshots)

    assert "Invalid transaction isolation level 99" in page
    assert TRACE not in page


def test_password_that_cannot_be_sent(live_owned: str, settings: Settings) -> None:
    """A password from an environment that is not UTF-8 gives an error of ours, without it."""
    settings.DEBUG = True
    point("default", PASSWORD=f"{SECRET}\udcff")

    with pytest.raises(PgsnapError) as caught:
        take()

    assert "surrogates not allowed" in str(caught.value)
    assert TRACE not in str(caught.value) + error_page(take)


def test_checks_do_not_print_it() -> None:
    """Where settings of a connection are mistaken for ours, only their type is named."""
    url = f"postgres://ordinary:{SECRET}@db/live"

    assert problems({"MAINTENANCE": url, "DATABASES": {"default": {"PASSWORD": SECRET}}}) == [
        (
            "PGSNAP['MAINTENANCE'] must be a dict of connection parameters, or of such dicts by "
            "alias, not str."
        ),
        "PGSNAP['DATABASES'] must be a list of database aliases or None, not dict.",
    ]
    assert TRACE not in repr(Config(maintenance={"password": SECRET}))


def test_arguments_of_all_programs(project: str) -> None:
    """No program is started with the password among its arguments or in its environment."""
    ended = subprocess.run(
        [sys.executable, "-c", WATCH_PROGRAMS],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert "git" in ended.stdout
    assert TRACE not in ended.stdout + ended.stderr


def error_page(function: Callable[[], object]) -> str:
    """Return Django's page for the error that a view meets when it calls a function."""

    def view(request: HttpRequest) -> None:
        function()

    request = RequestFactory().get("/")
    try:
        view(request)
    except Exception:  # noqa: BLE001  # as Django's handler does
        reporter = ExceptionReporter(request, *sys.exc_info())
        return f"{reporter.get_traceback_html()}\n{reporter.get_traceback_text()}"
    pytest.fail("no error")
