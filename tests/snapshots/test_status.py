"""Status: what is live, and what undo would bring back."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import pytest
from psycopg import sql

from django_pgsnap.errors import ServerError
from django_pgsnap.postgres import server as maintenance
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots import context, status
from django_pgsnap.snapshots.purge import list_managed_databases
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.status import LiveState, preview, read_status
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, RunSql
from tests.project import close_connections
from tests.watching import until, write

# By what each asks of the server while it looks.
LOOKS: dict[Callable[[], object], tuple[ModuleType, str]] = {
    preview: (status, "measure_databases"),
    read_status: (status, "measure_databases"),
    list_managed_databases: (context, "measure_databases"),
    overview: (context, "list_comments"),
}


def the_live_state() -> LiveState:
    (live,) = read_status().live
    return live


def test_before_any_restore(live: str, call: Call) -> None:
    """A database that nothing was restored to is the user's own."""
    state = the_live_state()
    lines = call("pgsnap", "status").stdout.splitlines()

    assert (state.database, state.based_on, state.since) == (live, "", None)
    assert state.size_bytes is not None
    assert lines == [
        "Live: your own data, as far as is known.",
        "There is nothing to undo.",
        "No snapshots yet. Take one: ./manage.py pgsnap take",
    ]


def test_restore_that_kept_nothing(live: str, call: Call) -> None:
    """What is live is known from replaced states; without one it is not said that nothing was."""
    take("seeded", spare=False)
    restore("seeded", undo=False)

    assert "Live: your own data, as far as is known." in call("pgsnap", "status").stdout


def test_one_look(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that status tells of a server is asked by one session."""
    opened = []
    session = maintenance.Server.session

    def noted(self: maintenance.Server, purpose: str, **options: Any) -> Session:
        opened.append(purpose)
        return session(self, purpose, **options)

    monkeypatch.setattr(maintenance.Server, "session", noted)
    read_status()

    assert opened == ["status"]


def test_restored_and_written(live: str, call: Call, sql: RunSql) -> None:
    """It is said what was restored, and how many rows were written since."""
    take("seeded")
    restore("seeded")
    unchanged = call("pgsnap", "status").stdout.splitlines()
    write("Ursula")
    write("Stanislaw")
    close_connections()
    # A session hands over its counts before its process is gone.
    until(lambda: not sql("SELECT FROM pg_stat_activity WHERE datname = %s", [live]))

    written = the_live_state()
    lines = call("pgsnap", "status").stdout.splitlines()

    assert unchanged[0] == "Live: 'seeded', restored just now, unchanged since."
    assert (written.based_on, written.by_undo, written.rows_written) == ("seeded", False, 2)
    assert lines[0] == "Live: 'seeded', restored just now, 2 rows written since."
    assert "Snapshots: 1, the newest 'seeded' of just now." in lines
    assert "Restored without copying: 'seeded'." in lines


def test_undo_and_redo_are_told_apart(live: str, call: Call) -> None:
    """After an undo the redo is what undo would bring back, and the other way round."""
    take("seeded", spare=False)
    write("Ursula")
    restore("seeded")
    before = call("pgsnap", "status").stdout.splitlines()
    undo()
    after = call("pgsnap", "status").stdout.splitlines()

    assert before[:2] == [
        "Live: 'seeded', restored just now, unchanged since.",
        "Undo would bring back: your own data, live until just now.",
    ]
    assert after[0].startswith("Live: your own data, brought back by undo just now, ")
    assert after[1] == "Undo would bring back: 'seeded' as restored, live until just now."


def test_restore_that_keeps_no_undo(live: str) -> None:
    """It is since that restore that its snapshot is live, whatever was kept before."""
    take("seeded", spare=False)
    restore("seeded")
    undo()
    before = the_live_state()
    restore("seeded", undo=False)

    after = the_live_state()

    assert (before.based_on, before.by_undo) == ("", True)
    assert (after.based_on, after.by_undo) == ("seeded", False)
    assert before.since is not None
    assert after.since is not None
    assert after.since > before.since


def test_database_that_was_replaced_by_others(live: str, sql: RunSql) -> None:
    """Of a database that no restore put there nothing is claimed."""
    take("seeded", spare=False)
    restore("seeded")
    sql(f'ALTER DATABASE "{live}" RENAME TO aside')
    sql(f'CREATE DATABASE "{live}" TEMPLATE template0')

    assert (the_live_state().based_on, the_live_state().since) == ("", None)


def test_counts_that_the_server_lost(live: str, sql: RunSql) -> None:
    """Where the statistics were reset, nothing is claimed of what was written."""
    take("seeded", spare=False)
    restore("seeded")
    sql("SELECT pg_stat_reset()", dbname=live)

    assert the_live_state().rows_written is None


def test_several_databases_as_json(lives: dict[str, str], call: Call) -> None:
    """Each live database is there, by its alias; in words it has a line of its own."""
    take("seeded", spare=False)
    restore("seeded")

    facts = json.loads(call("pgsnap", "status", "--json").stdout)
    lines = call("pgsnap", "status").stdout.splitlines()

    assert {each["alias"]: each["based_on"] for each in facts["live"]} == {
        "default": "seeded",
        "other": "seeded",
    }
    assert len(facts["undos"]) == len(facts["snapshots"]) == 1
    assert lines[0].startswith("Live (default): 'seeded', restored just now")


def test_session_that_is_ended(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever only looks hears what the server said as an error of ours, too."""
    take("m", spare=False)

    def end(session: Session, *_: object) -> NoReturn:
        session.rows(sql.SQL("SELECT pg_terminate_backend(pg_backend_pid())"))
        pytest.fail("it goes on")

    for look, what in LOOKS.items():
        with monkeypatch.context() as patch:
            patch.setattr(*what, end)

            with pytest.raises(ServerError, match="terminating connection"):
                look()
