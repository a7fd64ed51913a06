"""Bad input gets a clear error, and nothing is lost.

Each test goes through the command, holds the whole message against what it shall be, and sees that
databases (with their oids and comments) and rows are as they were. Which names there are is in
`test_names`, what stands in the way of a copy or a swap in `test_preconditions`, and what an
ordinary role may not do in `test_ordinary_role`.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError
from django.db import connections, transaction
from psycopg import sql as pg

from django_pgsnap.clones.names import spare_name
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.watching import authors, in_transaction, oids, settle, timeless, write

VERBS = (["take"], ["restore"], ["undo"])

SENSELESS: list[tuple[list[str], str]] = [
    ([], "the following arguments are required: COMMAND"),
    (["tkae"], "invalid choice: 'tkae'"),
    (["take", "--wait", "soon"], "argument --wait: 'soon' is not a number of seconds"),
    (["take", "--wait", "-1"], "argument --wait: '-1' is not a number of seconds"),
    (["take", "--wait", "nan"], "argument --wait: 'nan' is not a number of seconds"),
    (["take", "--strategy", "magic"], "argument --strategy: invalid choice: 'magic'"),
    (["take", "a", "b"], "unrecognized arguments: b"),
    (["delete"], "Name snapshots to delete, or give --all."),
    (["rename", "a"], "the following arguments are required: new"),
    (["restore", "--replace"], "unrecognized arguments: --replace"),
]


def test_unknown_name(live: str, server: Server, call: Call) -> None:
    """An unknown name is answered with the nearest names that there are."""
    for name in ("seeded", "seeded2", "other"):
        take(name, spare=False)

    with nothing_changes(server):
        assert refused(call, "restore", "sedeed") == (
            "There is no snapshot 'sedeed'.\nDid you mean 'seeded' or 'seeded2'?"
        )
        assert refused(call, "show", "zzz") == (
            "There is no snapshot 'zzz'.\nThere are: other, seeded2, seeded."
        )


def test_name_in_use(live: str, server: Server, call: Call) -> None:
    """An existing name needs --replace, which the message says."""
    take("seeded", spare=False)

    with nothing_changes(server):
        assert refused(call, "take", "seeded") == (
            "There is a snapshot 'seeded' already, taken just now.\n"
            "Choose another name, or take its place with --replace."
        )


def test_invalid_name(live: str, server: Server, call: Call) -> None:
    """A name that is none is refused by a message of one line and a hint of one."""
    names = ("no spaces", "line\nbreak")
    with nothing_changes(server):
        messages = [refused(call, "take", "--", name) for name in names]

    for name, message in zip(names, messages, strict=True):
        rule, _, _ = message.partition(" For example: ")
        assert rule == (
            f"A snapshot cannot be called {name!r}.\n"
            "Use 1-100 letters (A-Z, a-z), digits, '.', '_', '-' or '/', starting with a letter or "
            "digit."
        )


def test_unknown_alias(live: str, server: Server, call: Call) -> None:
    """An alias that is not in DATABASES is refused, and the known ones are named."""
    with nothing_changes(server):
        assert refused(call, "take", "--database", "defualt") == (
            "There is no alias 'defualt' in DATABASES.\nKnown: default."
        )


def test_alias_that_is_not_postgresql(lives: dict[str, str], manage: Manage) -> None:
    """A named alias on SQLite is refused; unnamed it is passed over."""
    django_settings.DATABASES["other"].update(ENGINE="django.db.backends.sqlite3", NAME=":memory:")

    named = manage("pgsnap", "take", "--database", "other")
    unnamed = manage("pgsnap", "take", "--json")

    assert (named.returncode, named.stderr) == (
        1,
        (
            "CommandError: The alias 'other' is SQLite, not PostgreSQL.\n"
            "Choose others with --database or PGSNAP['DATABASES'].\n"
        ),
    )
    assert unnamed.returncode == 0
    assert '"alias": "default"' in unnamed.stdout


def test_server_down(live: str, server: Server, call: Call) -> None:
    """A server that is down is named with its address, and what to do."""
    take("seeded", spare=False)
    before = settle(server)
    connections.close_all()
    server.stop()
    try:
        messages = [refused(call, *words) for words in (["take"], ["restore"], ["list"])]
    finally:
        server.start()

    for message in messages:
        lines = message.splitlines()
        assert lines[0].startswith(
            f"Cannot connect to database 'postgres' of the server at 127.0.0.1:{server.port} "
            "as postgres: "
        )
        assert lines[-1] == (
            "Start the server, or correct HOST and PORT of the alias in DATABASES."
        )
        assert "Connection refused" in message
    assert settle(server) == before


def test_wrong_password(live: str, server: Server, call: Call) -> None:
    """A wrong password is said to be one, and is not repeated in the message."""
    with nothing_changes(server):
        password = django_settings.DATABASES["default"]["PASSWORD"]
        point("default", PASSWORD="wrong-secret")
        message = refused(call, "take")
        point("default", PASSWORD=password)

    assert message.splitlines()[-1] == "Check USER and PASSWORD of the alias in DATABASES."
    assert 'password authentication failed for user "postgres"' in message
    assert "wrong-secret" not in message


def test_missing_database(live: str, server: Server, call: Call) -> None:
    """A live database that does not exist cannot be taken; the message says how to get it."""
    take("seeded", spare=False)
    before = settle(server)
    point("default", NAME="not there")

    message = refused(call, "take")

    assert message == (
        "The database 'not there' of the alias 'default' does not exist on the server at "
        f"127.0.0.1:{server.port} as postgres.\n"
        "Create it (createdb, then manage.py migrate), or restore a snapshot of it."
    )
    assert settle(server) == before


@pytest.fixture
def replaced(live: str) -> str:
    """The name of a live database with a snapshot and an undo, so that each verb has its object."""
    take("seeded")
    restore("seeded")
    return live


def test_busy_session(replaced: str, server: Server, call: Call) -> None:
    """A session that works is named with its pid, role, program and state."""
    with nothing_changes(server), in_transaction(server, replaced) as client:
        pid = client.info.backend_pid
        (message,) = {timeless(refused(call, *words, "--wait", "0")) for words in VERBS}

    assert message == (
        f"Other sessions are using {replaced!r}, after a wait of 0 s:\n"
        f"  pid {pid}: role 'postgres' (psql), idle in transaction for 0 s\n"
        "Finish or close them, wait longer with --wait, or end them with --force."
    )


def test_inside_atomic(replaced: str, server: Server, call: Call) -> None:
    """Inside atomic an operation is refused, and the transaction is not broken by that."""
    with nothing_changes(server):
        with transaction.atomic():
            (message,) = {refused(call, *words) for words in VERBS}
            assert authors() == []
        connections.close_all()

    assert message == (
        "This thread is inside transaction.atomic on 'default', which a snapshot operation would "
        "break.\n"
        "Call it outside; in tests use TransactionTestCase, or pytest's "
        "@pytest.mark.django_db(transaction=True)."
    )


def test_inside_a_coroutine(replaced: str, server: Server, call: Call) -> None:
    """Where Django refuses to be called, so do we, before anything happens."""

    async def refused_there() -> list[str]:
        return [refused(call, *words) for words in (*VERBS, ["delete", "seeded"])]

    with nothing_changes(server):
        messages = asyncio.run(refused_there())

    for message in messages:
        assert "You cannot call this from an async context" in message
        assert message.endswith("\nCall it by sync_to_async, or in a thread.")


def test_another_operation(replaced: str, server: Server, call: Call) -> None:
    """While another operation runs, its session is named, and the statement that ends it."""
    with (
        nothing_changes(server),
        server.connect(application_name="a take of somebody") as holder,
    ):
        pid = holder.info.backend_pid
        holder.execute("SELECT pg_advisory_lock(%s)", [lock_key(replaced)])
        (message,) = {timeless(refused(call, *words, "--wait", "0")) for words in VERBS}

    assert message == (
        f"Another snapshot operation is at work on the database {replaced!r}: "
        f"pid {pid}, role 'postgres', 'a take of somebody', for 0 s.\n"
        "Wait for it, give more time with --wait, or end it with SELECT pg_terminate_backend(pid)."
    )


def test_what_cannot_follow_a_swap(replaced: str, server: Server, call: Call) -> None:
    """What is attached to the live database is named, with the statement that takes it away."""
    settle(server)
    with server.connect(replaced) as client:
        client.execute("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")

    with nothing_changes(server):
        (message,) = {refused(call, *words) for words in VERBS}

    assert message == (
        f"A copy or a restore would break the logical replication slot 'feed' of {replaced!r}.\n"
        "First, run SELECT pg_drop_replication_slot('feed')."
    )


def test_collation_of_the_live_database(live: str, server: Server, sql: RunSql, call: Call) -> None:
    """A live database that the server refuses to copy is not touched."""
    sql("UPDATE pg_database SET datcollversion = '0' WHERE datname = %s", [live])

    with nothing_changes(server):
        message = refused(call, "take")

    assert message.startswith(f"The database {live!r} was built with collation version 0")


def test_collation_of_a_copy(live: str, server: Server, sql: RunSql, call: Call) -> None:
    """A copy whose collation has changed comes back by its spare; after that it is refused."""
    copy = take("seeded").members[0]
    settle(server)
    sql("UPDATE pg_database SET datcollversion = '0' WHERE datname = %s", [copy.database.name])
    write("Ursula")

    restore("seeded")

    assert authors() == []
    assert spare_name(copy.record.identity) not in oids(settle(server))
    with nothing_changes(server):
        for words in (["restore"], ["refill"]):
            assert refused(call, *words).startswith(
                f"The database {copy.database.name!r} was built with collation version 0"
            )


@pytest.mark.parametrize("strategy", ["wal_log", "file_copy"])
def test_full_disk(
    strategy: str, live_on_a_small_disk: str, small_disk: Path, server: Server, call: Call
) -> None:
    """When the disk is full the message says so, and no file of the unfinished copy stays."""
    with full(small_disk), nothing_changes(server):
        used = shutil.disk_usage(small_disk).used
        message = refused(call, "take", "--strategy", strategy)
        left = shutil.disk_usage(small_disk).used - used

    first, hint = message.splitlines()
    assert first.startswith("The server's disk is full: no room for another ")
    assert first.endswith(f" bytes to copy {live_on_a_small_disk!r}. Nothing has changed.")
    assert hint == (
        "Delete snapshots that you do not need (./manage.py pgsnap delete), or keep no "
        "spares (PGSNAP['SPARES'] = 0)."
    )
    assert left < 100_000


def test_restore_to_a_full_disk(
    live_on_a_small_disk: str, small_disk: Path, server: Server, call: Call
) -> None:
    """A restore that finds no room for its clone leaves the live database alone."""
    copy = take("seeded", spare=False).members[0].database.name
    write("Ursula")

    with full(small_disk), nothing_changes(server):
        message = refused(call, "restore", "seeded")

    assert f" bytes to copy {copy!r}. Nothing has changed." in message
    restore("seeded", undo=False)
    assert authors() == []


def test_command_line_that_makes_no_sense(live: str, server: Server, call: Call) -> None:
    """What the command line does not take is refused by name, before anything happens."""
    with nothing_changes(server):
        for words, complaint in SENSELESS:
            assert complaint in refused(call, *words)


def test_switched_off(live: str, server: Server, call: Call) -> None:
    """Where the app is switched off every verb that does something says so, and what to do."""
    take("seeded", spare=False)
    django_settings.PGSNAP["ENABLED"] = False
    try:
        with nothing_changes(server):
            messages = {
                refused(call, *words)
                for words in (
                    ["take"],
                    ["restore"],
                    ["undo"],
                    ["rename", "seeded", "sown"],
                    ["pin", "seeded"],
                    ["unpin", "seeded"],
                    ["delete", "seeded"],
                    ["refill"],
                )
            }
    finally:
        django_settings.PGSNAP["ENABLED"] = True

    assert messages == {
        (
            "Snapshots are switched off here, since PGSNAP['ENABLED'] is off.\n"
            "Set PGSNAP = {'ENABLED': True} in the settings of a system whose data may be replaced."
        )
    }


def refused(call: Call, *words: str) -> str:
    """Run the command, which must fail, and return its message."""
    with pytest.raises(CommandError) as caught:
        call("pgsnap", *words)
    return str(caught.value)


@contextmanager
def nothing_changes(server: Server) -> Iterator[None]:
    """Hold that databases and rows are the same after as before."""
    before = authors(), settle(server)
    yield
    assert (authors(), settle(server)) == before


@contextmanager
def full(place: Path) -> Iterator[None]:
    """Leave no more than a megabyte of a disk."""
    filler = place / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(place).free - 1_000_000))
    yield
    filler.unlink()


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """The directory of a disk of 40 MB, in memory; only root may make one."""
    place = server.root / "small"
    place.mkdir()
    owner = server.data_dir.stat()
    options = f"size=40m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(command, check=False, capture_output=True)
    if not mounted or mounted.returncode:
        place.rmdir()
        pytest.skip("may not mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


@pytest.fixture
def live_on_a_small_disk(live: str, small_disk: Path, server: Server, sql: RunSql) -> Iterator[str]:
    """The name of a live database that is on a small disk, as its copies will be."""
    sql(pg.SQL("CREATE TABLESPACE small LOCATION {}").format(pg.Literal(str(small_disk))))
    sql(pg.SQL("ALTER DATABASE {} SET TABLESPACE small").format(pg.Identifier(live)))
    yield live
    connections.close_all()
    for database in settle(server):
        sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(database.name)))
    sql("DROP TABLESPACE small")
