"""Others who change or copy a live database meanwhile: they are waited for, or named."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.project import point
from tests.servers import Server
from tests.watching import Background, authors, settle, until, write

# What a colleague may have begun on the live database, and not committed: each time another one.
CHANGES = {
    "setting": [f"ALTER DATABASE {{}} SET work_mem TO '{n}MB'" for n in (5, 6)],
    "role's setting": [
        f"ALTER ROLE postgres IN DATABASE {{}} SET work_mem TO '{n}MB'" for n in (5, 6)
    ],
    "grant": [
        f"GRANT CREATE ON DATABASE {{}} TO {role}" for role in ("pg_monitor", "pg_read_all_stats")
    ],
    "revoke": [f"REVOKE {right} ON DATABASE {{}} FROM PUBLIC" for right in ("CONNECT", "TEMP")],
    "comment": [f"COMMENT ON DATABASE {{}} IS '{word}'" for word in ("mine", "still mine")],
    "limit": [f"ALTER DATABASE {{}} CONNECTION LIMIT {n}" for n in (40, 41)],
}

VERBS: dict[str, Callable[..., object]] = {
    "take": lambda **options: take("again", spare=False, **options),
    "restore": lambda **options: restore("seeded", **options),
    "undo": undo,
}

# Waits for a lock, or looks again and again whether it is free.
WAITS = """
    SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgsnap %'
       AND (wait_event_type = 'Lock' OR query LIKE 'SELECT NOT EXISTS%pg_db_role_setting%'
            OR query LIKE 'SELECT EXISTS%ShareLock%')
"""


@pytest.fixture
def seeded(live: str, server: Server) -> str:
    """A live database with a snapshot and an undo."""
    write("Ursula")
    take("seeded")
    write("Stanisław")
    restore("seeded")
    settle(server)
    return live


@contextmanager
def changing(server: Server, database: str, *changes: str) -> Iterator[psycopg.Connection]:
    """Keep changes of a database uncommitted, from another database."""
    with closing(server.connect(application_name="colleague")) as colleague:
        colleague.execute("BEGIN")
        for change in changes:
            colleague.execute(pg.SQL(change).format(pg.Identifier(database)))
        yield colleague


def properties(sql: RunSql, database: str) -> object:
    """Return what is set up for a database."""
    return sql(
        "SELECT datconnlimit, datacl::text, shobj_description(d.oid, 'pg_database'),"
        " setrole::regrole::text, setconfig"
        " FROM pg_database d LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid"
        " WHERE datname = %s",
        [database],
    )


def refuse_in_time(verb: str, server: Server, colleague: psycopg.Connection) -> None:
    """See that a verb which may not wait for long names whom it waits for, and changes nothing."""
    before = settle(server)
    with pytest.raises(DatabaseBusyError) as caught:
        VERBS[verb](wait_s=0.1)
    named = f"\n  pid {colleague.info.backend_pid}, role 'postgres', 'colleague', for "
    assert named in str(caught.value)
    assert settle(server) == before


@pytest.mark.parametrize("change", CHANGES)
def test_uncommitted_change(change: str, seeded: str, server: Server, sql: RunSql) -> None:
    """Who has not committed a change of the live database is waited for, and then it counts.

    Who does not commit in time is named, and nothing has changed.
    """
    for verb, statement in zip(("restore", "undo"), CHANGES[change], strict=True):
        before = properties(sql, seeded)
        with changing(server, seeded, statement) as colleague:
            refuse_in_time(verb, server, colleague)

            working = Background(VERBS[verb])
            until(lambda: bool(sql(WAITS)))
            colleague.execute("COMMIT")
            changed = properties(sql, seeded)
            working.result()

        assert (verb, properties(sql, seeded)) == (verb, changed)
        assert changed != before


def test_uncommitted_change_under_strict_isolation(
    seeded: str, server: Server, sql: RunSql
) -> None:
    """It counts, too, where the settings have transactions see only what was there before them."""
    strict = {"options": "-c default_transaction_isolation=repeatable\\ read"}
    point("default", OPTIONS=strict)

    with changing(server, seeded, CHANGES["grant"][0]) as colleague:
        working = Background(VERBS["restore"])
        until(lambda: bool(sql(WAITS)))
        colleague.execute("COMMIT")
        changed = properties(sql, seeded)
        working.result()

    assert properties(sql, seeded) == changed


@pytest.mark.parametrize("change", CHANGES)
def test_take_during_a_change(change: str, seeded: str, server: Server, sql: RunSql) -> None:
    """A take waits where the server has it wait; the change stays on the live database anyway."""
    with changing(server, seeded, CHANGES[change][0]) as colleague:
        working = Background(VERBS["take"])
        until(lambda: bool(sql(WAITS)) or not working.is_alive())
        colleague.execute("COMMIT")
        changed = properties(sql, seeded)
        working.result()

    assert properties(sql, seeded) == changed
    assert len(list_snapshots()) == 2


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.timeout(60)
def test_copy_of_somebody_else(
    verb: str, seeded: str, checkpointer: int, server: Server, sql: RunSql
) -> None:
    """While somebody copies the live database, a command waits, or names who does."""
    statement = pg.SQL("CREATE DATABASE theirs TEMPLATE {} STRATEGY file_copy").format(
        pg.Identifier(seeded)
    )
    with closing(server.connect(application_name="colleague")) as colleague:
        copying = Background(lambda: colleague.execute(statement))
        until(lambda: bool(sql("SELECT 1 FROM pg_locks WHERE mode = 'ShareLock'")))
        refuse_in_time(verb, server, colleague)

        working = Background(VERBS[verb])
        until(lambda: bool(sql(WAITS)))
        os.kill(checkpointer, signal.SIGCONT)
        copying.result()
        working.result()

    assert authors() == (["Stanisław", "Ursula"] if verb == "undo" else ["Ursula"])


def test_delete_does_not_mind(seeded: str, server: Server) -> None:
    """What somebody changes about the live database does not keep a snapshot from going."""
    with changing(server, seeded, *(first for first, _ in CHANGES.values())):
        delete("seeded")

    assert list_snapshots() == ()


def test_without_a_wait(seeded: str, server: Server) -> None:
    """Who does not want to wait does not wait for ever."""
    with changing(server, seeded, CHANGES["comment"][0]), pytest.raises(DatabaseBusyError):
        restore("seeded", wait_s=0)
