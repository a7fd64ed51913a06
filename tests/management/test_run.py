"""Running a command on a clone of a snapshot: the live database stays as it is."""

import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import settings

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.context import ServerContext
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from tests.conftest import ListDatabases, MakeRole, RunSql, SetAlias
from tests.project import Manage, child_environment
from tests.servers import Server
from tests.terminal import on_terminal
from tests.watching import Recorder, authors, settle, until, write

WRITE = "from tests.testapp.models import Author; Author.objects.create(name='by command')"


@pytest.fixture
def names(server: Server, databases: ListDatabases, live: str) -> list[str]:
    """Takes a snapshot, and tells which databases there are."""
    write("Ursula")
    take("seeded")
    settle(server)
    return [database.name for database in databases()]


def test_live_database_stays(names: list[str], manage: Manage, databases: ListDatabases) -> None:
    """The command works on the clone, whose changes are shown, and which is gone afterwards."""
    run = manage("pgsnap", "run", "seeded", "--diff", "--", "shell", "-c", WRITE)

    assert (run.returncode, run.stderr) == (0, "")
    assert "+ id=2  name: by command" in run.stdout
    assert authors() == ["Ursula"]
    assert [database.name for database in databases()] == names


def test_diff_as_json(names: list[str], manage: Manage, live: str) -> None:
    """The diff with what was cloned is given as by `diff --json`; all else goes beside it."""
    meanwhile = (
        "from django.conf import settings; from django_pgsnap import take; "
        f"settings.DATABASES['default']['NAME'] = {live!r}; take('newer', spare=False)"
    )
    command = ("shell", "-c", f"{WRITE}; print('done'); {meanwhile}")
    run = manage("pgsnap", "run", "--diff", "--keep", "--json", "--", *command)

    printed = [json.loads(line) for line in run.stdout.splitlines()]
    assert [each["type"] for each in printed] == ["row", "diff", "table"]
    assert (printed[1]["before"], printed[1]["after"]) == ("seeded", "clone")
    assert list_snapshots()[0].name == "newer"
    assert printed[0]["columns"] == {"id": [None, "2"], "name": [None, "by command"]}
    assert "done" in run.stderr
    assert "Kept" in run.stderr


def test_way_back_is_told_though_nobody_reads_on(names: list[str], manage: Manage) -> None:
    """Whoever reads only the first lines of the diff is told how to go back, and the status."""
    command = f"{WRITE}; raise SystemExit(7)"
    arguments = ("pgsnap", "run", "--live", "--json", "--", "shell", "-c", command)
    run = manage.start(*arguments, env=child_environment() | {"PYTHONUNBUFFERED": "1"})
    assert run.stdout
    run.stdout.close()

    assert run.stderr
    assert "To go back: ./manage.py pgsnap restore before-run-" in run.stderr.read()
    assert run.wait(60) == 7


def test_steps(names: list[str], manage: Manage) -> None:
    """What is done before the command is told, as for other subcommands."""
    run = manage("pgsnap", "run", "seeded", "--verbosity", "2", "--", "check")

    assert "Cloning seeded" in run.stderr


def test_other_aliases(names: list[str], manage: Manage, set_alias: SetAlias) -> None:
    """Every alias of the live database leads to the clone; whatever else is live is named."""
    chosen = {**settings.PGSNAP, "DATABASES": ["default"]}
    set_alias("direct", HOST="localhost")
    set_alias("another", NAME="another")
    command = WRITE.replace(".objects", ".objects.using('direct')")

    run = manage(
        *("pgsnap", "run", "seeded", "--diff", "--", "shell", "-c", command),
        env=child_environment(PGSNAP=chosen),
    )

    assert "+ id=2  name: by command" in run.stdout
    assert run.returncode == 0
    assert "The snapshot lacks another: there the command works on live data." in run.stderr
    assert authors() == ["Ursula"]


def test_exit_status_is_the_commands(names: list[str], manage: Manage) -> None:
    """Scripts see how the command ended, and so does the user."""
    run = manage("pgsnap", "run", "seeded", "--", "shell", "-c", "raise SystemExit(7)")

    assert run.returncode == 7


def test_killed_command(names: list[str], manage: Manage) -> None:
    """A command that a signal ends has the status that shells give it."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    run = manage("pgsnap", "run", "seeded", "--", "shell", "-c", kill)

    assert run.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("more", ["seeded", "--keep"])
def test_live_takes_no_clone(names: list[str], manage: Manage, more: str) -> None:
    """What would be ignored is refused."""
    run = manage("pgsnap", "run", "--live", more, "--", "check")

    assert run.returncode == 2
    assert "it takes neither a NAME nor --keep" in run.stderr


def test_live_command_that_fails(names: list[str], manage: Manage) -> None:
    """Where nobody can be asked, the way back stays, and is named."""
    fail = f"{WRITE}; raise SystemExit(7)"

    run = manage("pgsnap", "run", "--live", "--", "shell", "-c", fail)

    assert run.returncode == 7
    assert authors() == ["Ursula", "by command"]
    back = re.search(r"To go back: ./manage.py (pgsnap restore \S+)", run.stdout)
    assert back is not None
    assert manage(*back[1].split()).returncode == 0
    assert authors() == ["Ursula"]


def test_clone_is_dated_by_the_server(
    live: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone is dated by the server's clock, as all that is kept."""
    take("seeded", spare=False)
    moment = datetime(2024, 2, 29, tzinfo=UTC)
    monkeypatch.setattr(ServerContext, "read_clock", lambda _: moment)

    with open_throwaway("seeded"):
        (run,) = load_catalog(session).runs()

    assert run.record.taken_at == moment


def test_what_is_not_carried_over_to_a_clone(live_owned: str, role: MakeRole, sql: RunSql) -> None:
    """What our role may not set is told with the name that the clone has afterwards."""
    copy = take("seeded", spare=False).members[0].database.name
    sql(f"ALTER ROLE {role('reader')} IN DATABASE {copy} SET work_mem = '8MB'")
    recorder = Recorder()

    with open_throwaway("seeded", reporter=recorder) as names:
        (note,) = (note for note in recorder.notes if note.startswith("Not carried over: "))

    assert f'IN DATABASE "{names["default"]}" SET' in note


def test_kept(names: list[str], manage: Manage, databases: ListDatabases) -> None:
    """A clone that is kept is a database like any other, until it is dropped."""
    run = manage("pgsnap", "run", "seeded", "--keep", "--", "check")

    (kept,) = {database.name for database in databases()} - set(names)
    assert f"{kept} (default)  drop it: DROP DATABASE {kept};" in run.stdout
    assert f'Work on them: PGSNAP_RUN_DATABASES=\'{{"default": "{kept}"}}\' ' in run.stdout


def test_on_the_live_database(names: list[str], manage: Manage, databases: ListDatabases) -> None:
    """With --live the changes are shown and stay, and the snapshot that showed them goes."""
    run = manage("pgsnap", "run", "--live", "--", "shell", "-c", WRITE)

    assert (run.returncode, run.stderr) == (0, "")
    assert "+ id=2  name: by command" in run.stdout
    assert authors() == ["Ursula", "by command"]
    assert [database.name for database in databases()] == names


def test_migration_on_yesterdays_data(
    names: list[str], manage: Manage, databases: ListDatabases
) -> None:
    """Migrations run on the clone, of which no snapshot is taken, and the diff says so."""
    run = manage(
        *("pgsnap", "run", "seeded", "--diff", "--", "migrate", "sites", "zero"),
        env=child_environment(PGSNAP={**settings.PGSNAP, "BEFORE_MIGRATE": True}),
    )

    assert run.returncode == 0
    assert [database.name for database in databases()] == names
    assert "Migrations missing now: sites.0001_initial, sites.0002" in run.stdout
    assert "- table django_site" in run.stdout


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped(
    names: list[str], manage: Manage, server: Server, databases: ListDatabases, stop: signal.Signals
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end the command, and the clone goes."""
    # What we ignore, as under nohup, the command would ignore, too.
    before = signal.signal(stop, signal.default_int_handler)
    try:
        process = manage.start("pgsnap", "run", "seeded", "--", "shell", "-c", SLEEP)
    finally:
        signal.signal(stop, before)
    wait_for_clone(server)

    process.send_signal(stop)
    process.wait(timeout=30)

    assert [database.name for database in databases()] == names


def test_killed(names: list[str], manage: Manage, server: Server, databases: ListDatabases) -> None:
    """What a killed process leaves the next one drops."""
    process = manage.start("pgsnap", "run", "seeded", "--", "shell", "-c", SLEEP)
    wait_for_clone(server)
    process.kill()
    process.wait(timeout=30)

    run = manage("pgsnap", "run", "seeded", "--", "check")

    assert run.returncode == 0
    assert [database.name for database in databases()] == names


def test_live_on_a_terminal(names: list[str], manage: Manage, databases: ListDatabases) -> None:
    """After the diff it is asked; what is kept stays, and the way back goes."""
    with on_terminal(manage, "pgsnap", "run", "--live", "--", "shell", "-c", WRITE) as terminal:
        terminal.expect("Keep it? [Y/n] ")
        assert "+ id=2  name: by command" in terminal.text
        terminal.type("\n")
        assert terminal.end() == 0

    assert authors() == ["Ursula", "by command"]
    assert [database.name for database in databases()] == names


def test_live_that_goes_back(names: list[str], manage: Manage) -> None:
    """What is not kept is undone, and undo brings it again."""
    with on_terminal(manage, "pgsnap", "run", "--live", "--", "shell", "-c", WRITE) as terminal:
        terminal.expect("Keep it? [Y/n] ")
        terminal.type("n\n")
        assert terminal.end() == 0

    assert terminal.lines[-1] == "Went back to what was there; undo brings the changes again."
    assert authors() == ["Ursula"]
    assert [snapshot.name for snapshot in list_snapshots()] == ["seeded"]
    assert manage("pgsnap", "undo").returncode == 0
    assert authors() == ["Ursula", "by command"]


def test_live_left_at_the_question(names: list[str], manage: Manage) -> None:
    """Ctrl-C decides nothing: the changes stay, and so does the way back, which is named."""
    with on_terminal(manage, "pgsnap", "run", "--live", "--", "shell", "-c", WRITE) as terminal:
        terminal.expect("Keep it? [Y/n] ")
        terminal.interrupt()
        assert terminal.end() == 130

    assert authors() == ["Ursula", "by command"]
    assert_way_back(terminal.text, manage)


def test_live_stopped(names: list[str], manage: Manage, tmp_path: Path) -> None:
    """Whoever ends it while the command runs is told of the way back."""
    written = tmp_path / "written"
    tell = f"import pathlib; pathlib.Path({str(written)!r}).touch()"
    process = manage.start(
        "pgsnap", "run", "--live", "--", "shell", "-c", f"{WRITE}; {tell}; {SLEEP}"
    )
    until(written.exists)

    process.terminate()
    printed, _ = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert_way_back(printed, manage)


def assert_way_back(printed: str, manage: Manage) -> None:
    """Check that the restore that is named brings back what was there before."""
    back = re.search(r"To go back: ./manage.py (pgsnap restore \S+)", printed)
    assert back is not None, printed
    assert manage(*back[1].split()).returncode == 0
    assert authors() == ["Ursula"]


def test_server_on_a_clone(names: list[str], manage: Manage, databases: ListDatabases) -> None:
    """A development server runs until Ctrl-C, which ends it and the clone."""
    command = ("pgsnap", "run", "seeded", "--", "runserver", "0")
    with on_terminal(manage, *command) as terminal:
        terminal.expect("Quit the server with CONTROL-C.")
        assert len(databases()) == len(names) + 1
        terminal.interrupt()
        assert terminal.end() == 0

    assert "Traceback" not in terminal.text
    assert [database.name for database in databases()] == names


SLEEP = "import time; from django.db import connection; connection.cursor(); time.sleep(60)"


def wait_for_clone(server: Server) -> None:
    """Wait until the command is on its clone."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'pgsnap\\_run\\_%'"
    with server.connect() as connection:
        until(lambda: connection.execute(query).fetchone() != (0,))
