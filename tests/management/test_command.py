"""The management command: what it prints, asks and returns."""

import json
import os
import re
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import Error, register, registry
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from psycopg import sql as pg

from django_pgsnap.management.arguments import SUBCOMMANDS
from django_pgsnap.management.commands.pgsnap import Command
from django_pgsnap.signals import post_take
from django_pgsnap.snapshots.manage import annotate, pin
from django_pgsnap.snapshots.queries import get, list_snapshots, overview
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, MakeRole, RunSql, SetAlias
from tests.project import Manage
from tests.servers import Server
from tests.terminal import ESCAPE, on_terminal
from tests.watching import authors, held_up, in_transaction, settle, write

LONG_NOTE = "before the erasure of the signer number 42, whom the GDPR allows to be forgotten"


def test_story_in_plain_words(live: str, call: Call) -> None:
    """Each verb says in a sentence what it did, in a pipe without any colour."""
    said = [
        _plain(call("pgsnap", *words.split()).stdout)
        for words in (
            "take seeded",
            "take",
            "restore seeded",
            "undo",
            "undo",
            "rename seeded sown",
            "pin sown",
            "unpin sown",
            "refill sown",
            "delete snap1 sown",
            "list",
        )
    ]

    assert said == [
        "Took 'seeded': SIZE of default in TIME.\nAll copies together occupy SIZE.\n",
        "Took 'snap1': SIZE of default in TIME.\nAll copies together occupy SIZE.\n",
        (
            "Restored 'seeded' of just now to default in TIME.\n"
            "Undo would bring back: your own data, live until just now.\n"
        ),
        (
            "Brought back what was live until just now.\n"
            "Live: your own data, brought back by undo.\n"
            "Undo would bring back: 'seeded' as restored, live until just now.\n"
        ),
        (
            "Brought back what was live until just now.\n"
            "Live: 'seeded' as restored, brought back by undo.\n"
            "Undo would bring back: your own data, live until just now.\n"
        ),
        "Renamed 'seeded' to 'sown'.\n",
        "Pinned 'sown': pruning leaves it.\n",
        "Unpinned 'sown': it may be pruned.\n",
        "The spare of 'sown' is ready.\n",
        "Deleted 'snap1', 'sown': SIZE less.\n",
        (
            "No snapshots yet. Take one: ./manage.py pgsnap take\n"
            "Undo would bring back: your own data, live until just now.\n"
            "All copies together occupy SIZE.\n"
        ),
    ]


def test_list_in_a_pipe(live: str, call: Call, server: Server) -> None:
    """In a pipe a list is columns of plain text, in full width, one line per snapshot."""
    take("seeded", note=LONG_NOTE, spare=False)
    pin("seeded")
    take("other")
    settle(server)

    heading, other, seeded, total = call("pgsnap", "list").stdout.splitlines()

    columns = [column for column in heading.split() if column != "Branch"]  # none without git
    assert columns == ["Name", "Age", "Size", "Note", "Spare"]
    assert re.fullmatch(r"other +now +\S+ MB +\S* +ready *", other)
    assert re.fullmatch(rf"seeded \(pinned\) +now +\S+ MB +{LONG_NOTE} +\S* *", seeded)
    assert _plain(total) == "All copies together occupy SIZE."


def test_list_says_how_far_the_code_is(live: str, call: Call) -> None:
    """Migrations that a snapshot lacks, and those that the code does not know, are counted."""
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("testapp", "0001_initial")
    recorder.record_unapplied("testapp", "0002_genres")
    recorder.record_applied("testapp", "0003_on_another_branch")
    take("seeded", spare=False)

    listed = call("pgsnap", "list").stdout
    shown = call("pgsnap", "show", "seeded").stdout

    assert "2 not run, 1 not in this code" in listed
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "Migrations 2 not run, 1 not in this code" in lines
    assert "not run testapp.0001_initial" in lines
    assert "not here testapp.0003_on_another_branch" in lines


def test_restore_says_how_far_the_code_is(live: str, call: Call) -> None:
    """After a restore one is told which migrations to run, unless they are run at once."""
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("testapp", "0002_genres")
    recorder.record_applied("testapp", "0003_on_another_branch")
    connection.cursor().execute("DELETE FROM testapp_genre")
    take("old", spare=False)

    said = call("pgsnap", "restore", "old").stdout.splitlines()
    migrated = call("pgsnap", "restore", "old", "--migrate").stdout

    assert said[1:-1] == [
        "Migrations not run: 1. Run migrate afterwards.",
        "Migrations of another branch, not in this code: 1.",
    ]
    assert "not run" not in migrated


def test_dry_run_of_a_restore(live: str, call: Call, server: Server) -> None:
    """It is said how a restore would go and who is in its way, and nothing is changed."""
    take("seeded", spare=False)
    write("Ursula")
    with server.connect(live, application_name="psql"), in_transaction(server, live):
        said = call("pgsnap", "restore", "--dry-run").stdout.splitlines()
        forced = call("pgsnap", "restore", "--dry-run", "--force").stdout.splitlines()
        facts = json.loads(call("pgsnap", "restore", "--dry-run", "--json").stdout)
    settle(server)
    take("other")
    settle(server)

    again = call("pgsnap", "restore", "--dry-run").stdout

    assert said[0] == "Would restore 'seeded' of just now to default by copying it first."
    assert [line.partition(": ")[0] for line in said[1:]] == [
        "Would end this idle session",
        "Would wait for",
    ]
    assert forced == [*said[:-1], said[-1].replace("wait for", "end")]
    assert (len(facts["idle"]), len(facts["busy"]), facts["name"]) == (1, 1, "seeded")
    assert again == "Would restore 'other' of just now to default by renaming its spare.\n"
    assert authors() == ["Ursula"]


def test_show(live: str, call: Call) -> None:
    """A snapshot is shown with all that is known of it."""
    snapshot = take("seeded", note="a note", pin=True, spare=False)

    lines = [
        " ".join(_plain(line).split())
        for line in call("pgsnap", "show", "seeded").stdout.splitlines()
    ]

    (member,) = snapshot.members
    code = [line for line in lines if line.startswith("Code ")]  # there is none without git
    assert [line for line in lines if line not in code] == [
        "Name seeded",
        f"Taken {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC (just now), in TIME",
        "Size SIZE",
        "Holds these databases; not uploaded files, caches, queues or search indexes",
        "Note a note",
        "Pinned yes",
        "Spare none",
        "Migrations as in this code",
        (
            f"Alias default {live}, copied by {member.record.strategy} on PostgreSQL "
            f"{member.record.postgresql} to {member.database.name} (SIZE)"
        ),
    ]


def test_json_of_one_snapshot(live: str, call: Call) -> None:
    """With --json the facts of the snapshot are printed, and nothing else, on any stream."""
    take("seeded", note="a \x1b note", spare=False)

    for words in (
        ["show", "seeded"],
        ["rename", "seeded", "seeded"],
        ["pin", "seeded"],
        ["unpin", "seeded"],
        ["refill"],
        ["restore"],
        ["take", "new"],
    ):
        printed = call("pgsnap", *words, "--json")

        facts = json.loads(printed.stdout)
        snapshot = get(facts["name"])
        assert printed.stderr == ""
        assert {key: facts[key] for key in ("name", "note", "taken_at", "size_bytes")} == {
            "name": snapshot.name,
            "note": snapshot.note,
            "taken_at": snapshot.taken_at.isoformat(),
            "size_bytes": snapshot.size_bytes,
        }
        assert [(each["alias"], each["source"]) for each in facts["members"]] == [("default", live)]


def test_json_of_lists(live: str, call: Call, server: Server) -> None:
    """With --json list gives snapshots and undos, undo what it swapped, delete what is gone."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    settle(server)

    listed = json.loads(call("pgsnap", "list", "--json").stdout)
    undone = json.loads(call("pgsnap", "undo", "--json").stdout)
    deleted = json.loads(call("pgsnap", "delete", "seeded", "--json").stdout)

    assert [each["name"] for each in listed["snapshots"]] == ["seeded"]
    assert listed["snapshots"][0]["spare"] == "ready"
    assert listed["snapshots"][0]["migrations"] == {"missing": [], "unknown": []}
    assert listed["undos"] == [undone]
    assert undone["replaced_by"] == "seeded"
    assert listed["occupied_bytes"] > 3_000_000
    assert [each["name"] for each in deleted] == ["seeded"]


def test_json_of_a_restore_that_migrates(live: str, call: Call) -> None:
    """What migrate would say does not get between the JSON."""
    MigrationRecorder(connection).record_unapplied("testapp", "0002_genres")
    connection.cursor().execute("DELETE FROM testapp_genre")
    take("old")

    printed = call("pgsnap", "restore", "--migrate", "--json")

    assert json.loads(printed.stdout)["name"] == "old"
    assert printed.stderr == ""


def test_verbosity(live: str, call: Call) -> None:
    """0 says nothing, 1 what was done, 2 also the steps; both before and after the subcommand."""
    silent = [call("pgsnap", "-v", "0", "take"), call("pgsnap", "take", "-v", "0")]
    talkative = [call("pgsnap", "--verbosity=2", "take"), call("pgsnap", "take", "--verbosity=2")]

    assert {(each.stdout, each.stderr) for each in silent} == {("", "")}
    assert {each.stderr for each in talkative} == {f"Copying {live} …\n"}
    assert all(each.stdout.startswith("Took 'snap") for each in talkative)


def test_warnings_are_never_silenced(live: str, call: Call, sql: RunSql) -> None:
    """What went not all the way is said at verbosity 0 and beside JSON, on stderr."""
    sql("CREATE UNLOGGED TABLE cache ()", dbname=live)

    for words in (["take", "-v0"], ["take", "--json"]):
        assert call("pgsnap", *words).stderr == (
            f"Warning: Unlogged tables of {live!r} come back empty if the server crashes after "
            "the take: cache.\n"
        )


def test_ended_sessions_are_told(live: str, call: Call, server: Server) -> None:
    """How many sessions were ended is said on stderr."""
    with server.connect(live):
        assert call("pgsnap", "take").stderr == "Ended 1 session on the live database.\n"


def test_djangos_own_options() -> None:
    """They may stand behind the subcommand, as behind any other command."""
    parser = Command().create_parser("manage.py", "pgsnap")
    given = ["--settings=a.b", "--pythonpath=c", "--skip-checks", "--traceback", "--no-color"]

    parsed = parser.parse_args(["list", *given])

    assert (parsed.settings, parsed.pythonpath, parsed.skip_checks) == ("a.b", "c", True)


def test_call_command_with_options(live: str) -> None:
    """A program may call the command with keywords as well as with words."""
    stdout = StringIO()

    call_command("pgsnap", "take", "seeded", note="by a program", as_json=True, stdout=stdout)

    assert json.loads(stdout.getvalue())["note"] == "by a program"


def test_text_that_would_steer_a_terminal(live: str, call: Call) -> None:
    """Whatever a note contains, it is printed on one line and steers nothing."""
    take("seeded", spare=False)
    annotate("seeded", "\x1b[31mred\x07\nsecond line \u202e")

    for words in (["list"], ["show", "seeded"]):
        printed = call("pgsnap", *words).stdout
        assert "�[31mred� second line �" in printed
        assert "\x1b" not in printed


@pytest.mark.parametrize("subcommand", ["", *SUBCOMMANDS])
def test_help(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each subcommand explains itself on lines that fit on a terminal."""
    with pytest.raises(SystemExit) as caught:
        call_command("pgsnap", *filter(None, [subcommand]), "--help")

    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.isascii()  # as some terminals are
    if subcommand:
        assert re.search(r"^[A-Z].+?\.$", printed, re.MULTILINE | re.DOTALL)
        assert "general options:" in printed
        assert "--json" in printed
    else:
        assert [name for name in SUBCOMMANDS if f"\n    {name} " not in printed] == []


def test_table_on_a_terminal(live: str, manage: Manage, server: Server) -> None:
    """On 80 columns all columns of the list are legible, however long names and notes are."""
    name = "feature/PAY-1234-a-name-as-long-as-branches-are"
    take("seeded", note=LONG_NOTE, spare=False)
    take(name, note="short")
    settle(server)

    with on_terminal(manage, "pgsnap", "list") as terminal:
        assert terminal.end() == 0

    heading = next(line for line in terminal.lines if "Name" in line)
    assert heading.split()[:4] == ["Name", "Age", "Size", "Note"]
    assert heading.endswith(" Spare")
    assert max(map(len, terminal.lines)) <= 80
    (row,) = (line for line in terminal.lines if line.startswith(" seeded "))
    assert row.split()[1:4:2] == ["now", "MB"]
    width = heading.index("Age")
    folded = "".join(line[:width].strip() for line in terminal.lines if line[:1] == " ")
    assert name in folded
    assert "\x1b[1m" in terminal.written


@pytest.mark.parametrize(
    ("words", "env"),
    [(["list", "--no-color"], {}), (["list"], {"NO_COLOR": "1"}), (["take"], {"NO_COLOR": "1"})],
)
def test_without_colour(words: list[str], env: dict[str, str], live: str, manage: Manage) -> None:
    """Neither --no-color nor NO_COLOR lets any colour through, on a terminal."""
    take("seeded", spare=False)

    with on_terminal(manage, "pgsnap", *words, env=env) as terminal:
        assert terminal.end() == 0

    assert "seeded" in terminal.text or "snap1" in terminal.text
    assert not ESCAPE.search(terminal.written.replace("\x1b[?25h", "").replace("\x1b[?25l", ""))


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["no", "enter", "end of input"])
def test_delete_asks_on_a_terminal(answer: str, live: str, manage: Manage) -> None:
    """On a terminal delete shows what would go and asks; anything but yes leaves it."""
    take("seeded", note="a note", spare=False)

    with on_terminal(manage, "pgsnap", "delete", "seeded") as terminal:
        terminal.expect("Delete for good? [y/N] ")
        assert _plain(terminal.text).startswith("  seeded  just now  SIZE  a note\n")
        terminal.type(answer)
        assert terminal.end() == 0

    assert [each.name for each in list_snapshots()] == ["seeded"]
    assert terminal.lines[-1] == "Nothing deleted."


def test_delete_with_consent(live: str, manage: Manage) -> None:
    """After a yes the snapshot is gone."""
    take("seeded", spare=False)

    with on_terminal(manage, "pgsnap", "delete", "seeded") as terminal:
        terminal.expect("Delete for good? [y/N] ")
        terminal.type("y\n")
        assert terminal.end() == 0

    assert list_snapshots() == ()
    assert _plain(terminal.lines[-1]) == "Deleted 'seeded': SIZE less."


def test_delete_of_what_was_replaced_meanwhile(live: str, manage: Manage) -> None:
    """A snapshot that nobody was shown is not deleted in place of the one that had its name."""
    take("seeded", spare=False)

    with on_terminal(manage, "pgsnap", "delete", "seeded") as terminal:
        terminal.expect("Delete for good? [y/N] ")
        new = take("seeded", replace=True, spare=False)
        terminal.type("y\n")
        assert terminal.end() == 1

    assert [each.set_id for each in list_snapshots()] == [new.set_id]
    assert "The snapshot 'seeded' has just been deleted." in terminal.text


def test_delete_of_a_pinned_one(live: str, manage: Manage, call: Call) -> None:
    """A pinned snapshot needs --force, or a yes to the question that says that it is pinned."""
    take("seeded", pin=True, spare=False)
    take("other", pin=True, spare=False)

    with pytest.raises(CommandError) as caught:
        call("pgsnap", "delete", "seeded", "other", "-y")
    with on_terminal(manage, "pgsnap", "delete", "seeded") as terminal:
        terminal.expect("seeded  (pinned)  ")
        terminal.expect("Delete for good? [y/N] ")
        terminal.type("y\n")
        assert terminal.end() == 0
    call("pgsnap", "rm", "other", "--force", "-y")

    assert str(caught.value) == (
        "Pinned: 'seeded', 'other'.\nUnpin it first, or delete it all the same with --force."
    )
    assert list_snapshots() == ()


def test_delete_by_patterns(live: str, call: Call) -> None:
    """A pattern means every snapshot that is like it, --all means all, and neither is an error."""
    for name in ("snap1", "snap2", "seeded"):
        take(name, spare=False)

    with pytest.raises(CommandError) as caught:
        call("pgsnap", "delete", "x*")
    first = call("pgsnap", "delete", "snap*", "snap1").stdout
    second = call("pgsnap", "delete", "--all").stdout
    with pytest.raises(CommandError) as usage:
        call("pgsnap", "delete")

    assert str(caught.value) == (
        "There is no snapshot like 'x*'.\nThere are: seeded, snap2, snap1."
    )
    assert _plain(first) == "Deleted 'snap2', 'snap1': SIZE less.\n"
    assert _plain(second) == "Deleted 'seeded': SIZE less.\n"
    assert (str(usage.value), usage.value.returncode) == (
        "Name snapshots to delete, or give --all.",
        2,
    )


def test_looking_and_deleting_where_snapshots_are_off(live: str, manage: Manage) -> None:
    """Looking harms nobody, and a question protects as well as the settings; nothing else goes."""
    take("seeded", spare=False)
    settings.PGSNAP = {"ENABLED": False}
    try:
        assert "seeded" in manage("pgsnap", "list").stdout
        assert manage("pgsnap", "show", "seeded").returncode == 0
        assert "PGSNAP['ENABLED'] is off" in manage("pgsnap", "delete", "seeded", "-y").stderr
        assert "PGSNAP['ENABLED'] is off" in manage("pgsnap", "restore", "seeded").stderr
        with on_terminal(manage, "pgsnap", "delete", "seeded") as terminal:
            terminal.expect("Delete for good? [y/N] ")
            terminal.type("y\n")
            assert terminal.end() == 0
    finally:
        settings.PGSNAP = {"ENABLED": True}

    assert list_snapshots() == ()


def test_errors_as_json(live: str, manage: Manage) -> None:
    """With --json an error is JSON on stdout, and a sentence on stderr as ever."""
    failed = manage("pgsnap", "show", "seeded", "--json")

    assert failed.returncode == 1
    assert failed.stdout.count("\n") == 1  # as each line of a diff
    assert json.loads(failed.stdout) == {
        "error": {
            "kind": "SnapshotNotFoundError",
            "message": "There is no snapshot 'seeded'.",
            "hint": "Take one: ./manage.py pgsnap take.",
        }
    }
    assert failed.stderr.startswith("CommandError: There is no snapshot 'seeded'.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("list --json --nonsense", "unrecognized arguments: --nonsense"),
        ("nonsense --json", "argument COMMAND: invalid choice: 'nonsense'"),
        ("take --wait soon --json", "argument --wait: 'soon' is not a number of seconds"),
    ],
)
def test_what_argparse_refuses_as_json(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json what argparse does not understand is JSON on stdout, and its words on stderr."""
    with pytest.raises(SystemExit, match="2"):
        Command().run_from_argv(["manage.py", "pgsnap", *line.split()])

    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    error = json.loads(said.out)["error"]
    assert (error["kind"], error["hint"]) == ("UsageError", "")
    assert error["message"].startswith(message)
    assert f"error: {message}" in said.err


def test_refusal_as_json(live: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json a command line that makes no sense is told as JSON, too."""
    with pytest.raises(CommandError, match="Name snapshots to delete") as caught:
        call_command("pgsnap", "delete", "--json")

    assert caught.value.returncode == 2
    assert json.loads(capsys.readouterr().out)["error"] == {
        "kind": "UsageError",
        "message": "Name snapshots to delete, or give --all.",
        "hint": "",
    }


@pytest.mark.parametrize(
    ("limits", "usage"),
    [
        (["--older-than", "7"], "'7' is not an age such as 12h, 7d or 2w"),
        (["--max-size", "-1GB"], "argument --max-size: expected one argument"),
        (["--older-than", "7y"], "'7y' is not an age such as 12h, 7d or 2w"),
        (["--older-than", "9999999999d"], "'9999999999d' is not an age"),
        (["--max-size", "1X"], "'1X' is not a size such as 500MB or 10GB"),
        (["--keep", "two"], "'two' is not a number from 0 up"),
        (["--keep", "-1"], "'-1' is not a number from 0 up"),
    ],
)
def test_limits_that_make_no_sense(
    limits: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that cannot be read is a mistake in the command line: status 2."""
    assert usage in _refused(["prune", *limits], capsys)


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("undo 0", "argument N: '0' is not a number from 1 up"),
        ("undo -1", "argument N: '-1' is not a number from 1 up"),
        ("diff --undo 0", "argument --undo: '0' is not a number from 1 up"),
        ("diff --rows -1", "argument --rows: '-1' is not a number from 0 up"),
        ("take --wait -1", "argument --wait: '-1' is not a number of seconds"),
        ("show a b", "usage: manage.py pgsnap show [-h]"),
    ],
)
def test_words_that_make_no_sense(
    words: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that nothing can have is not taken for another one, nor a word left out."""
    assert usage in _refused(words.split(), capsys)


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what argparse says of a command line that it refuses."""
    command = Command()
    command._called_from_command_line = True  # type: ignore[attr-defined]
    parser = command.create_parser("manage.py", "pgsnap")

    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)

    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        *(
            (["prune", *more], "Give --keep, --older-than or --max-size, or --templates alone.")
            for more in ([], ["--templates", "--keep", "0"])
        ),
        (["delete"], "Name snapshots to delete, or give --all."),
        (["run", "seeded"], "Name the command after --: ./manage.py pgsnap run NAME -- migrate"),
        *(
            (
                ["undo", "--drop", *more],
                "--drop drops all of them: it takes no N, --list or --database.",
            )
            for more in (["1"], ["--list"], ["--database", "default"])
        ),
    ],
)
def test_words_that_make_no_sense_together(arguments: list[str], usage: str, live: str) -> None:
    """Where something has to be named and is not, or would be ignored, that is the same."""
    with pytest.raises(CommandError) as error:
        call_command("pgsnap", *arguments)

    assert (error.value.returncode, str(error.value)) == (2, usage)


def test_prune(live: str, call: Call) -> None:
    """Pruning says what would go, and then has it go."""
    for name in ("first", "second", "third"):
        take(name, spare=False)

    would = call("pgsnap", "prune", "--keep", "1", "--dry-run").stdout
    did = call("pgsnap", "prune", "--keep", "1", "--older-than", "0h").stdout
    nothing = call("pgsnap", "prune", "--max-size", "1.5TB").stdout

    assert _plain(would) == "Would delete 'second', 'first': SIZE less.\n"
    assert _plain(did) == "Deleted 'first', 'second': SIZE less.\n"
    assert _plain(nothing) == "Deleted nothing: SIZE less.\n"
    assert [each.name for each in list_snapshots()] == ["third"]


def test_annotate(live: str, call: Call) -> None:
    """A note is changed, and taken away again."""
    take("seeded", note="old", spare=False)

    said = call("pgsnap", "annotate", "seeded", "new").stdout
    noted = get("seeded").note
    gone = call("pgsnap", "annotate", "seeded", "").stdout

    assert (said, noted) == ("Noted on 'seeded': new\n", "new")
    assert (gone, get("seeded").note) == ("Took the note of 'seeded' away.\n", "")


def test_delete_does_not_ask_when_told(live: str, manage: Manage) -> None:
    """With --no-input there is no question, on a terminal either."""
    take("seeded", spare=False)

    with on_terminal(manage, "pgsnap", "delete", "seeded", "--no-input") as terminal:
        assert terminal.end() == 0

    assert "[y/N]" not in terminal.text
    assert list_snapshots() == ()


def test_delete_where_the_input_is_closed(live: str, manage: Manage) -> None:
    """Whoever starts a command without any input is not asked."""
    take("seeded", spare=False)

    run = manage("pgsnap", "delete", "seeded", preexec_fn=lambda: os.close(0))

    assert (run.returncode, run.stderr, list_snapshots()) == (0, "", ())


def test_delete_of_an_unknown_name_asks_nothing(live: str, manage: Manage) -> None:
    """A name that does not exist is refused before any question."""
    take("seeded", spare=False)

    with on_terminal(manage, "pgsnap", "delete", "seeded", "sown") as terminal:
        assert terminal.end() == 1

    assert "[y/N]" not in terminal.text
    assert len(list_snapshots()) == 1


def test_progress_on_a_terminal(live: str, manage: Manage, server: Server) -> None:
    """A copy that takes its time shows itself, and clears up when it is done."""
    with (
        held_up(server, live) as blocker,
        on_terminal(manage, "pgsnap", "take", "seeded") as terminal,
    ):
        terminal.expect(f"Copying {live}")
        blocker.execute("ROLLBACK")
        assert terminal.end() == 0

    assert "Took 'seeded'" in terminal.text


def test_wait_on_a_terminal(live: str, manage: Manage, server: Server) -> None:
    """Whoever is waited for is shown while one waits, and may be whoever is watching."""
    with (
        in_transaction(server, live) as client,
        on_terminal(manage, "pgsnap", "take", "seeded", columns=120) as terminal,
    ):
        terminal.expect(f"Waiting up to 10 s for pid {client.info.backend_pid}: role ")
        client.execute("ROLLBACK")
        assert terminal.end() == 0

    assert "Took 'seeded'" in terminal.text


def test_json_of_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A --json that follows -- is for the command that is run, and not for ours."""
    with pytest.raises(SystemExit, match="2"):
        Command().run_from_argv(["manage.py", "pgsnap", "run", "--nonsense", "--", "x", "--json"])

    said = capsys.readouterr()
    assert said.out == ""
    assert "unrecognized arguments: --nonsense" in said.err


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["take"]])
def test_reader_that_has_seen_enough(words: list[str], live: str, manage: Manage) -> None:
    """When nobody reads on, as after `| head -1`, there is no complaint, and the work is done."""
    take("seeded", spare=False)
    command = manage.start("pgsnap", *words)
    assert command.stdout
    command.stdout.close()

    assert command.stderr
    assert command.stderr.read() == ""
    assert command.wait(60) == 0
    assert len(list_snapshots()) == (2 if words == ["take"] else 1)


def test_reader_of_both_streams_that_has_seen_enough(live: str, manage: Manage) -> None:
    """When nobody reads on, as after `2>&1 | head -0`, the work that tells of itself is done."""
    command = manage.start("pgsnap", "take", "seeded", "--verbosity", "2")
    assert command.stdout
    assert command.stderr
    command.stdout.close()
    command.stderr.close()

    assert command.wait(60) == 0
    assert [each.name for each in list_snapshots()] == ["seeded"]


@pytest.mark.parametrize("words", [["take"], ["restore"], ["list"], ["list", "--json"]])
def test_output_that_is_closed(words: list[str], live: str, manage: Manage) -> None:
    """Whoever closes the output wants to hear nothing."""
    take("seeded")
    write("Ursula")

    done = manage("pgsnap", *words, preexec_fn=lambda: os.close(1))

    assert (done.returncode, done.stderr) == (0, "")
    assert len(list_snapshots()) == (2 if words == ["take"] else 1)
    assert authors() == ([] if words == ["restore"] else ["Ursula"])


def test_output_that_cannot_be_written(live: str, manage: Manage) -> None:
    """Where the disk is full, the work is done to its end, and that nothing was printed is said."""
    MigrationRecorder(connection).record_unapplied("testapp", "0002_genres")
    connection.cursor().execute("DELETE FROM testapp_genre")
    take("old")
    full = os.open("/dev/full", os.O_WRONLY)

    done = manage("pgsnap", "restore", "--migrate", stdout=full, env={"PYTHONUNBUFFERED": "1"})
    os.close(full)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "CommandError: This cannot be printed: No space left on device. "
            "See ./manage.py pgsnap status.\n"
        ),
    )
    assert ("testapp", "0002_genres") in MigrationRecorder(connection).applied_migrations()


def test_status_and_streams(live: str, manage: Manage) -> None:
    """A failure is one message on stderr, nothing on stdout, and status 1."""
    failed = manage("pgsnap", "show", "seeded")
    misspelt = manage("pgsnap", "shwo")

    assert (failed.returncode, failed.stdout, failed.stderr) == (
        1,
        "",
        "CommandError: There is no snapshot 'seeded'.\nTake one: ./manage.py pgsnap take.\n",
    )
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert "invalid choice: 'shwo'" in misspelt.stderr


def test_traceback_on_request(live: str, manage: Manage) -> None:
    """With --traceback, after the subcommand too, the cause is shown."""
    ended = manage("pgsnap", "show", "x", "--traceback")

    assert "Traceback (most recent call last)" in ended.stderr
    assert "SnapshotNotFoundError: There is no snapshot 'x'." in ended.stderr


def test_errors_of_other_apps_do_not_stop_it(live: str, call: Call) -> None:
    """The command runs only its own checks: nobody is kept from their data by another app's."""

    def broken(**_: Any) -> list[Error]:
        return [Error("another app's", id="other.E001")]

    register(broken, "models")
    try:
        assert call("pgsnap", "list", skip_checks=False).stdout.startswith("No snapshots yet.")
        with pytest.raises(CommandError):
            call("check")
    finally:
        registry.registry.registered_checks.discard(broken)


def test_project_without_postgresql(set_alias: SetAlias, manage: Manage) -> None:
    """Where no alias is PostgreSQL that is said once, as an error, without the check's warning."""
    for alias in ("default", "other"):
        set_alias(alias, ENGINE="django.db.backends.sqlite3", NAME=":memory:")

    ended = manage("pgsnap", "list")

    assert ended.stderr == (
        "CommandError: No alias in DATABASES is PostgreSQL.\n"
        "Snapshots need ENGINE 'django.db.backends.postgresql'.\n"
    )


def test_undo_is_listed_until_it_is_used(live: str, call: Call) -> None:
    """The list ends with what undo would swap back."""
    take("seeded")
    write("Ursula")
    restore("seeded")

    assert "Undo would bring back: your own data, live until just now." in (
        call("pgsnap", "list").stdout
    )
    assert len(overview().undos) == 1


def test_replaced_states_are_listed(live: str, call: Call) -> None:
    """Each has its number, what replaced it and what it holds; a number brings one back."""
    assert call("pgsnap", "undo", "--list").stdout == "There is nothing to undo.\n"
    take("seeded")
    write("first")
    restore("seeded")
    write("second")
    restore("seeded")

    listed = call("pgsnap", "undo", "--list").stdout.splitlines()
    facts = json.loads(call("pgsnap", "undo", "--list", "--json").stdout)

    assert [line.split()[0] for line in listed] == ["N", "1", "2"]
    assert "restore of seeded" in listed[1]
    assert "'seeded', perhaps changed since" in listed[1]
    assert "your own data" in listed[2]
    assert [(each["based_on"], each["unwritten"]) for each in facts] == [
        ("seeded", False),
        (None, False),
    ]
    assert "Older states: 1, see ./manage.py pgsnap undo --list." in call("pgsnap", "list").stdout
    call("pgsnap", "undo", "2")
    assert authors() == ["first"]


def test_owner_that_was_changed(live: str, sql: RunSql, role: MakeRole, call: Call) -> None:
    """Snapshots that count no longer since the database has another owner are not hidden."""
    theirs = pg.Identifier(role("other"))
    snapshot = take("seeded", spare=False)
    copy = pg.Identifier(snapshot.members[0].database.name)
    sql(pg.SQL("ALTER DATABASE {} OWNER TO {}").format(copy, theirs))

    adopt = pg.SQL("ALTER DATABASE {} OWNER TO").format(copy).as_string(None)
    for words in ("list", "status"):
        said = call("pgsnap", words).stdout
        assert "No snapshots yet" not in said
        assert "There is no snapshot 'seeded'" in said
        assert "belongs to the role 'other'" in said
        assert adopt in said
    for command in (["show", "seeded"], ["delete", "seeded"], ["diff", "seeded"], ["diff"]):
        with pytest.raises(CommandError, match=r"no snapshot 'seeded' of '\w+' that counts"):
            call("pgsnap", *command)


def test_nothing_is_asked_once_the_snapshot_is_taken(
    live_owned: str, sql: RunSql, call: Call
) -> None:
    """A snapshot that is taken is no failure, though nobody can look at the server afterwards."""

    def shut_us_out(**_: object) -> None:
        sql("ALTER ROLE ordinary CONNECTION LIMIT 0")

    post_take.connect(shut_us_out)
    try:
        printed = call("pgsnap", "take", "seeded")
    finally:
        post_take.disconnect(shut_us_out)
        sql("ALTER ROLE ordinary CONNECTION LIMIT -1")

    assert _plain(printed.stdout) == (
        "Took 'seeded': SIZE of default in TIME.\nAll copies together occupy SIZE.\n"
    )
    assert [each.name for each in list_snapshots()] == ["seeded"]


def _plain(text: str) -> str:
    """Replace what differs from run to run."""
    text = re.sub(r"\d+(\.\d+)? (bytes|KB|MB)", "SIZE", text)
    return re.sub(r"\d+(\.\d+)? s\b", "TIME", text)


@pytest.mark.parametrize("words", [("list",), ("show", "seeded")])
def test_output_that_cannot_hold_a_note(words: tuple[str, ...], live: str, manage: Manage) -> None:
    """Letters that the output's encoding lacks are spelt out, and the rest is printed."""
    take("seeded", note="Zażółć", spare=False)

    done = manage("pgsnap", *words, env={"PYTHONIOENCODING": "ascii"})

    assert (done.returncode, done.stderr) == (0, "")
    assert "Za\\u017c\\xf3\\u0142\\u0107" in done.stdout
