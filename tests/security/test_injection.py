"""Odd texts wherever others can put one: none runs as SQL, steers a terminal, or breaks a list."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from io import StringIO
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.db import connections
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.clones.names import is_valid_name
from django_pgsnap.clones.records import Record, encode_record
from django_pgsnap.management.output import Output
from django_pgsnap.messages import printable
from django_pgsnap.snapshots.manage import annotate
from django_pgsnap.snapshots.queries import get
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import KnownMigrations
from tests.conftest import TEMPLATE, MakeDatabase, RunSql
from tests.records import copy_record
from tests.servers import Server
from tests.state import remove_leftovers
from tests.watching import authors, in_transaction, settle, write

# Whatever of our texts runs as SQL renames it; unlike DROP, that works in a transaction.
CANARY = "canary"
PAYLOAD = "ALTER DATABASE canary RENAME TO dead"

PIECES = [
    *(f"{end}; {PAYLOAD}; --" for end in ("'", '"', "\\'", "$$", "*/", "\n")),
    *("'", '"', "`", ";", "--", "/*", "\\", "$1", ":a", "%", "%s", "%%", "%(name)s", "{}", "{0}"),
    *("\n", "\r\n", "\t", "\x0b", "\x1c", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe"),
    *("\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b31m", "\b\b\b"),
    *("[red]", "[/]", "[link=http://x]", "[bold", ":pile_of_poo:"),
    *(
        "\u202e",
        "\u2066",
        "אבג",
        "e" + "\u0301" * 9,
        "👩\u200d💻",
        "\U000e0001",
        "\U0001d54f",
        "x" * 99,
    ),
]
HOSTILE = st.lists(
    st.sampled_from(PIECES) | st.characters(codec="utf-8"), min_size=1, max_size=4
).map("".join)
# PostgreSQL has no room for NUL, and for 63 bytes in an identifier.
STORABLE = HOSTILE.map(lambda text: text.replace("\0", "")).filter(bool)
IDENTIFIERS = STORABLE.map(lambda text: text.encode()[:63].decode(errors="ignore"))
ROLES = IDENTIFIERS.filter(lambda text: not text.startswith("pg_"))
SNAPSHOT_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", fullmatch=True)
HUGE = 2**63 - 1

# What rich colours a terminal with. Every other sequence comes from somebody's text.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Screen(StringIO):
    """Keeps what is printed, and says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def _canary(sql: RunSql, make_database: MakeDatabase) -> Iterator[None]:
    make_database(CANARY)
    yield
    assert sql("SELECT datname FROM pg_database WHERE datname IN ('canary', 'dead')") == [(CANARY,)]


@pytest.fixture
def seeded(live: str, server: Server) -> Record:
    """What is written down about the copy of the snapshot "seeded"."""
    record = take("seeded", spare=False).members[0].record
    settle(server)
    return record


def look(*arguments: str) -> str:
    """Have a command print in a pipe, as JSON and on a terminal, and return what is in the pipe.

    Whoever reads it sees lines of plain text.
    """
    screen = Screen()
    _print(screen, *arguments)
    printed = [_print(StringIO(), *arguments), COLOUR.sub("", screen.getvalue())]
    if arguments[0] in ("list", "show", "doctor"):
        printed.append(_print(StringIO(), *arguments, "--json"))
    for text in printed:
        for line in text.split("\n"):
            assert printable(line) == line
    return printed[0]


def _print(stream: StringIO, *arguments: str) -> str:
    """Return what a command prints, and with what message it fails, if it does."""
    try:
        call_command("pgsnap", *arguments, stdout=stream, stderr=stream)
    except CommandError as error:
        stream.write(str(error))
    return stream.getvalue()


def squeezed(text: str) -> str:
    """Return a text without the blanks by which it is laid out."""
    return "".join(text.split())


@settings(max_examples=10)
@given(note=HOSTILE)
@example(note="\0")
@example(note="x" * 10_000)
def test_notes(note: str, seeded: Record) -> None:
    """A note is stored as it is, and printed as plain text, with nothing in it that does anything.

    What it looks like to the library that draws tables, markup for instance, is printed too.
    """
    annotate("seeded", note)

    listed = look("list")
    shown = look("show", "seeded")

    assert get("seeded").note == note
    if len(note) < 400:  # what does not fit on a line is folded
        assert squeezed(printable(note)) in squeezed(listed)
        assert squeezed(printable(note)) in squeezed(shown)


@settings(max_examples=10)
@given(name=HOSTILE.filter(lambda text: not is_valid_name(text) and not text.startswith("-")))
@example(name="")
@example(name="x" * 100_000)
def test_names(name: str, seeded: Record, sql: RunSql) -> None:
    """What cannot be a snapshot's name is answered with a message, whatever is to be done to it."""
    before = sql("SELECT oid, datname FROM pg_database")

    said = [
        look("take", name),
        look("rename", "seeded", name),
        *(look(verb, name) for verb in ("restore", "show", "pin", "refill")),
        look("rename", name, "sown"),
        look("delete", name, "--no-input"),
    ]

    assert [each.split(maxsplit=4)[:3] for each in said] == [
        *[["A", "snapshot", "cannot"]] * 2,
        *[["There", "is", "no"]] * 6,
    ]
    assert sql("SELECT oid, datname FROM pg_database") == before


@settings(max_examples=8)
@given(
    record=st.builds(
        copy_record,
        set_id=st.just("0" * 16),
        members=st.integers(1, HUGE),
        name=SNAPSHOT_NAMES,
        taken_at=st.datetimes(timezones=st.just(UTC)),
        size_bytes=st.integers(0, HUGE),
        pinned=st.booleans(),
        seconds=st.floats(0, 2**63, exclude_max=True),
        migrations=st.lists(st.tuples(HOSTILE, HOSTILE), max_size=3).map(tuple),
        connection_limit=st.integers(-1, HUGE),
        **dict.fromkeys(
            ["alias", "note", "strategy", "git_branch", "git_commit", "django", "postgresql"],
            HOSTILE,
        ),
    )
)
def test_records(record: Record, seeded: Record, sql: RunSql) -> None:
    """Whatever is written down about a copy of ours, it can be listed, shown and diagnosed."""
    record = replace(record, identity=seeded.identity, source=seeded.source)
    sql(
        pg.SQL("COMMENT ON DATABASE {} IS {}").format(
            pg.Identifier(record.database), pg.Literal(encode_record(record))
        )
    )

    for arguments in (["list"], ["list", "--all"], ["doctor"]):
        look(*arguments)
    assert record.name in look("show", record.name)


@settings(max_examples=3)
@given(name=IDENTIFIERS, owner=ROLES, value=STORABLE, comment=STORABLE)
@example(name="%s", owner='"', value="{}", comment="'")
@example(name="'\\\"; --", owner="\x1b[2J", value=f"'; {PAYLOAD}; --", comment="\n")
def test_databases_and_roles(
    name: str, owner: str, value: str, comment: str, request: pytest.FixtureRequest
) -> None:
    """A live database, the role as which we come, and what is set for both may be anything."""
    server: Server = request.getfixturevalue("server")
    sql: RunSql = request.getfixturevalue("sql")
    remove_leftovers(server, keep_databases={TEMPLATE, CANARY})
    django_settings.DATABASES.pop("other", None)
    make_live(request, sql, name, owner)
    for statement in (
        "ALTER DATABASE {name} SET search_path TO public, {value}",
        "ALTER ROLE {owner} IN DATABASE {name} SET search_path TO public, {value}, {comment}",
        "COMMENT ON DATABASE {name} IS {comment}",
    ):
        sql(
            pg.SQL(statement).format(
                name=pg.Identifier(name), owner=pg.Identifier(owner), value=value, comment=comment
            )
        )
    before = properties(sql, name)

    with in_transaction(server, name, owner):
        assert "Other sessions are using" in look("take", "seeded", "--wait", "0.05")
    look("take", "seeded")
    write("Ursula")
    look("restore", "seeded")

    assert authors() == []
    connections.close_all()
    assert properties(sql, name) == before
    for arguments in (["list"], ["list", "--all"], ["show", "seeded"], ["doctor"], ["undo"]):
        look(*arguments)
    look("delete", "seeded", "--no-input")


def test_branch(live: str, tmp_path: Path, settings: Settings) -> None:
    """A branch of the project's code may be called anything that git allows."""
    branch = "a'b\"c;$(touch.x)%s{0}]\N{RIGHT-TO-LEFT OVERRIDE}\N{LINE SEPARATOR}🐘"
    subprocess.run(["git", "init", "--quiet", f"--initial-branch={branch}", tmp_path], check=True)
    settings.BASE_DIR = tmp_path

    look("take", "seeded")

    assert get("seeded").git_branch == branch
    assert printable(branch) in look("list")
    look("show", "seeded")


def test_alias(seeded: Record) -> None:
    """An alias that looks like the drawing library's markup is shown as it is."""
    snapshot = get("seeded")
    odd = replace(snapshot, members=(replace(snapshot.members[0], alias="[red]"),))
    screen = Screen()

    out = Output(OutputWrapper(screen), colour=False)
    out.print_snapshot(odd, KnownMigrations().drift(odd.migrations))

    assert "Alias [red] " in screen.getvalue()


def make_live(request: pytest.FixtureRequest, sql: RunSql, name: str, owner: str) -> None:
    """Make a live database of that name, and its owner, unless the server forbids the names."""
    try:
        request.getfixturevalue("role")(owner)
        request.getfixturevalue("make_live")(name=name, user=owner)
    except psycopg.errors.Error:
        reject()


def properties(sql: RunSql, database: str) -> object:
    """Return what was set for a database, and who may do what with it."""
    return sql(
        "SELECT pg_get_userbyid(datdba), shobj_description(d.oid, 'pg_database'),"
        " array_agg(setrole::text || setconfig::text ORDER BY setrole)"
        " FROM pg_database d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid"
        " WHERE datname = %s GROUP BY d.oid",
        [database],
    )
