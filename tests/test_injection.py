"""Odd texts wherever others can put one: none runs as SQL, steers a terminal, or breaks a list."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql as pg

from django_pgsnap import annotate, delete, get, restore, take, wording
from django_pgsnap.metadata import Record, encode
from django_pgsnap.names import copy_name, new_identity
from tests.conftest import Call, MakeLive, MakeRole, RunSql
from tests.project import point
from tests.records import copy_record
from tests.servers import Server
from tests.watching import authors, settle, write

# It is renamed by whatever of our texts runs as SQL; unlike DROP, that works in a transaction.
CANARY = "canary"
PAYLOAD = "ALTER DATABASE canary RENAME TO dead"

PIECES = [
    f"'; {PAYLOAD}; --",
    f'"; {PAYLOAD}; --',
    f"\\'; {PAYLOAD}; --",
    f"$$; {PAYLOAD}; --",
    f"*/; {PAYLOAD}; --",
    "'", '"', "`", ";", "--", "/*", "\\", "$1", ":a", "%", "%s", "%%", "%(name)s", "{}", "{0}",
    "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\u2028", "\ufeff", "\ufffe", "\x7f",
    "\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b31m", "\b\b\b",
    "[red]", "[/]", "[link=http://x]", "[bold", ":pile_of_poo:",
    "\u202e", "\u2066", "אבג", "\u0301" * 20, "👩\u200d💻", "\U000e0001", "𝕏", "x" * 300,
]  # fmt: skip
CHARACTERS = st.characters(codec="utf-8")
HOSTILE = st.lists(st.sampled_from(PIECES) | CHARACTERS, max_size=6).map("".join)
# What PostgreSQL takes: a text without NUL, and an identifier of 1 to 63 bytes.
STORABLE = HOSTILE.map(lambda text: text.replace("\0", ""))
IDENTIFIERS = (
    STORABLE.map(lambda text: text.encode()[:63].decode(errors="ignore"))
    .filter(bool)
    .filter(lambda text: not text.startswith("pg_") and text not in ("public", "none"))
)

# What rich colours a terminal with; every other sequence is somebody's text.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Screen(StringIO):
    """Takes what is printed, and says that it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture(autouse=True)
def _canary(sql: RunSql, make_database: Any) -> Iterator[None]:
    make_database(CANARY)
    yield
    assert sql("SELECT datname FROM pg_database WHERE datname IN ('canary', 'dead')") == [(CANARY,)]


@pytest.fixture
def seeded(live: str, server: Server) -> Record:
    """What is written about the copy of a snapshot "seeded"."""
    record = take("seeded", spare=False).members[0].record
    settle(server)
    return record


def look(call: Call, *arguments: str) -> str:
    """Print something on a terminal and in a pipe; return what is in the pipe.

    Neither has more lines than it should, nor anything but colours that would steer a terminal.
    """
    screen = Screen()
    printed = [_print(call, *arguments), _print(call, *arguments, stdout=screen)]
    printed.append(COLOUR.sub("", screen.getvalue()))
    for text in printed:
        for line in text.split("\n"):
            assert wording.printable(line) == line
    return printed[0]


def _print(call: Call, *arguments: str, **options: Any) -> str:
    """Return what a command prints, on both streams, and with what message it fails, if it does."""
    try:
        printed = call("pgsnap", *arguments, **options)
    except CommandError as error:
        return str(error)
    return printed.stdout + printed.stderr
