"""Off means off: no subcommand writes anything where snapshots are switched off."""

from collections.abc import Callable

import pytest
from django.core.management import CommandError
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap import safety
from django_pgsnap.clones.names import new_identity, unfinished_name
from django_pgsnap.management.arguments import SUBCOMMANDS
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, MakeLive, RunSql
from tests.project import point
from tests.security.conftest import SHUT
from tests.servers import Server
from tests.state import Database
from tests.watching import settle

COMMANDS = {
    "take": ["new", "--replace"],
    "restore": ["seeded"],
    "undo": [],
    "diff": ["seeded"],
    "run": ["seeded", "--", "check"],
    "status": [],
    "list": ["--all"],
    "show": ["seeded"],
    "rename": ["seeded", "sown"],
    "annotate": ["seeded", "a note"],
    "pin": ["seeded"],
    "unpin": ["seeded"],
    "delete": ["seeded", "--no-input"],
    "prune": ["--keep", "0"],
    "purge": ["--no-input"],
    "completion": ["bash"],
    "refill": ["seeded"],
    "doctor": ["--fix"],
}
LIST_UNDOS = ["undo", "--list"]
MORE = [
    ["take"],
    ["restore", "seeded", "--dry-run"],
    LIST_UNDOS,
    ["undo", "--drop"],
    ["run", "--live", "--", "check"],
    ["prune", "--templates"],
    ["prune", "--keep", "0", "--dry-run"],
    ["purge", "--all-projects", "--no-input"],
]
# These look, and say what they see. Status points to the list of replaced states.
LOOK = {"status", "list", "show", "completion", "doctor"}

SETTINGS_AND_ACCESS = """
    SELECT setdatabase::text, setrole::text, setconfig::text FROM pg_db_role_setting
    UNION ALL SELECT 'access', datname, datacl::text FROM pg_database
"""

State = tuple[list[Database], list[str]]


@pytest.fixture
def state(server: Server, sql: RunSql) -> Callable[[], State]:
    """Looks at all databases, and at all that is set for them, for roles, and granted."""

    def look() -> State:
        present = settle(server)
        return present, sorted(map(repr, sql(SETTINGS_AND_ACCESS)))

    return look


@pytest.fixture(params=["ENABLED", "DEBUG", "address"])
def switch_off(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Switches snapshots off, by the setting, by its absence in production, or by the address."""

    def off() -> None:
        settings.PGSNAP = {"ENABLED": False} if request.param == "ENABLED" else {}
        settings.DEBUG = request.param != "DEBUG"
        if request.param == "address":
            monkeypatch.setattr(safety, "_NEARBY", [])

    return off


@pytest.fixture
def live_postgres(make_live: MakeLive) -> None:
    """A project whose live database is called postgres, so that we need a database to work from."""
    make_live()
    point("default", NAME="postgres")
    point("other", NAME="postgres")


@pytest.mark.usefixtures("live_postgres")
def test_nothing_is_written(
    switch_off: Callable[[], None],
    state: Callable[[], State],
    call: Call,
    server: Server,
    sql: RunSql,
) -> None:
    """No subcommand changes databases, comments or settings, with something to do for each."""
    take("seeded", databases=["default"])
    settle(server)
    restore("seeded", databases=["default"])
    left = pg.Identifier(unfinished_name(new_identity()))
    sql(pg.SQL("CREATE DATABASE {} TEMPLATE template0 " + SHUT).format(left))
    settle(server)
    # That we worked from goes, so that each command would have to make it.
    sql("DROP DATABASE pgsnap")
    before = state()
    switch_off()

    ran = []
    for words in [*([verb, *rest] for verb, rest in COMMANDS.items()), *MORE]:
        try:
            call("pgsnap", *words)
            ran.append(words)
        except CommandError:
            pass
        assert state() == before, words

    assert COMMANDS.keys() == SUBCOMMANDS.keys()
    assert [words for words in ran if words[0] not in LOOK] == [LIST_UNDOS]


@pytest.mark.parametrize("words", [[verb] for verb in sorted(LOOK - {"show", "completion"})])
@pytest.mark.usefixtures("live_postgres")
def test_who_only_looks_makes_no_database(
    words: list[str], state: Callable[[], State], call: Call
) -> None:
    """Where snapshots are on, too, only what needs it makes a database to work from."""
    before = state()

    call("pgsnap", *words)

    assert state() == before
