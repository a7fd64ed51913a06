"""What any role of the server can read about our databases: nothing but what is meant to be."""

import json
import re
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from psycopg import sql as pg

from django_pgsnap.clones.records import Record
from django_pgsnap.snapshots.take import take
from django_pgsnap.testing.databases.facts import Facts
from tests.conftest import MakeRole, RunSql, SessionAs
from tests.project import point
from tests.security.every_kind import make_one_of_each
from tests.servers import SUPERUSER, Server
from tests.suites.wanted import COUNTERS
from tests.watching import settle

# Times, sizes and counts; names of databases, aliases and snapshots; versions; and of code the
# branch, the commit and the migrations. The README says that all roles can read these.
COMMON = {"pgsnap", "kind", *(field.name for field in fields(Record))}
ALLOWED = {
    "copy": COMMON
    | {"note", "pinned", "migrations", "knows_migrations", "clone_rate", "file_copy_rate"}
    | {"git_branch", "git_commit", "git_dirty"},
    "undo": COMMON
    | {"by_undo", "based_on", "clone_of", "copy_of", "statistics_epoch", "successor_oid"}
    | {"successor_clone_of", "successor_copy_of", "successor_based_on", "successor_since"}
    | {"successor_sessions", "successor_transactions", "successor_rows"},
    "template": COMMON | {"snapshot", "used_at", "used_by", "recording"},
    "run": COMMON | {"kept"},
    "test": {"pgsnap_test", "database", "source", "complete", "kept", "recording"},
}
EXPECTED_COMMON = {
    *("identity", "set_id", "members", "name", "alias", "source", "taken_at", "size_bytes"),
    *("strategy", "seconds", "django", "postgresql", "comment", "connection_limit", "parts"),
}

# What a recording holds: who could read it could try what was in the file.
FILE, DIGEST = "fixtures/pins.json", "0123456789abcdef0123"
FACTS = Facts(
    digests={("file", FILE): DIGEST, ("setting", "PIN_LENGTH"): DIGEST}, counters=COUNTERS
)

# What is no longer than that can be in random text by chance: the name of a host, or a port.
SHORT = 12


def look(sql: RunSql) -> dict[str, str]:
    """Return the comments on databases, as an onlooker reads them."""
    rows = sql(
        "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database"
        " WHERE NOT datistemplate AND datname <> 'postgres'",
        user="onlooker",
    )
    return {name: comment for name, comment in rows if comment}


def leaks(server: Server) -> list[str]:
    """Return pieces of text that would tell where things are on these machines."""
    places = [Path.cwd(), Path.home(), Path(__file__).parent, server.root, server.data_dir]
    hosts = ["127.0.0.1", "localhost", socket.gethostname(), str(server.port)]
    return [*map(str, places), *hosts, str(django_settings.SECRET_KEY), FILE, DIGEST, "PIN_LENGTH"]


def find_leaks(comment: str, *servers: Server) -> list[str]:
    """Return what a comment tells of where things are: short ones as words, and not if sealed."""
    plain = json.dumps({**json.loads(comment), "recording": ""})
    return [
        leak
        for server in servers
        for leak in leaks(server)
        if (leak in comment if len(leak) > SHORT else re.search(rf"\b{re.escape(leak)}\b", plain))
    ]


def texts(value: Any) -> list[str]:
    """Return all texts in what JSON says, keys too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


def test_one_of_each(
    live: str, role: MakeRole, sql: RunSql, server: Server, session_as: SessionAs
) -> None:
    """Each kind says what it may, and nothing of paths, hosts and files."""
    role("onlooker", options="")
    point("default", HOST=str(server.root))
    sql(pg.SQL("COMMENT ON DATABASE {} IS 'ours'").format(pg.Identifier(live)))

    make_one_of_each(live, server, session_as, FACTS)

    read = look(sql)
    assert read.pop(live) == "ours"
    said = [json.loads(comment) for comment in read.values()]
    kinds = [each.get("kind", "test") for each in said]
    assert sorted(kinds) == ["copy", "run", "template", "template", "test", "undo"]
    for kind, each in zip(kinds, said, strict=True):
        assert each.keys() == ALLOWED[kind]
        each.pop("recording", None)
        for name_or_number in ("git_branch", "statistics_epoch"):
            each.pop(name_or_number, None)
        assert [text for text in texts(each) if "/" in text] == []
    assert {name: found for name, each in read.items() if (found := find_leaks(each, server))} == {}


def test_what_all_have() -> None:
    """A new field is decided on here before it is written where all can read it."""
    assert {field.name for field in fields(Record)} == EXPECTED_COMMON


def test_several_servers(
    live_pair: dict[str, str], two_servers: Server, server: Server, role: MakeRole, sql: RunSql
) -> None:
    """A part on another server is known by what the server calls itself, and not by its address."""
    role("onlooker", options="")

    take("seeded", spare=False)
    settle(server)

    (comment,) = look(sql).values()
    parts = json.loads(comment)["parts"]
    assert [part[:2] for part in parts] == [list(each) for each in live_pair.items()]
    assert all(part[2].isdigit() and type(part[3]) is int for part in parts)
    assert find_leaks(comment, server, two_servers) == []


def test_maintenance_database(live: str, role: MakeRole, sql: RunSql, server: Server) -> None:
    """The small database that we work from says what it is for."""
    role("onlooker", options="")
    point("default", NAME="postgres")

    take("seeded", spare=False)
    settle(server)

    assert look(sql)["pgsnap"] == "Where django_pgsnap connects while it replaces other databases."
    (owner,) = sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'pgsnap'")
    assert owner == (SUPERUSER,)
