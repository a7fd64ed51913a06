"""What every operation begins with: its sessions."""

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.names import new_identity, spare_name, unfinished_name
from django_pgsnap.errors import ServerUnavailableError
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.watching import Background, Recorder, is_locked, is_waiting, settle, until


def test_no_session_stays_where_another_is_refused(
    make_live: MakeLive, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """Where the server lets in only some of an operation's sessions, those are closed again."""
    user = role()
    lives = [make_live(alias, user=user) for alias in ("default", "other")]
    sql("ALTER ROLE ordinary CONNECTION LIMIT 2")

    with pytest.raises(ServerUnavailableError, match='too many connections for role "ordinary"'):
        take("seeded")

    assert [database.name for database in settle(server)] == lives


def test_as_many_sessions_as_a_copy_needs(
    make_live: MakeLive, role: MakeRole, sql: RunSql, manage: Manage
) -> None:
    """Where no slot is left, what comes after a take and a refill makes neither of them fail."""
    make_live("default", user=role())
    sql("ALTER ROLE ordinary CONNECTION LIMIT 2")
    command = ["--database", "default"]

    taken = manage("pgsnap", "take", "seeded", *command)
    refilled = manage("pgsnap", "refill", "seeded", *command)

    assert (taken.returncode, refilled.returncode) == (0, 0)
    assert taken.stderr.startswith("Warning: Taken without its list of migrations: Cannot connect")
    assert "Took 'seeded'" in taken.stdout


def test_more_to_send_off_than_sessions(
    make_live: MakeLive, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """Where the server lets in no session more, those of the operation make the spare and drop."""
    make_live("default", user=role())
    identity = take("seeded", databases=["default"]).members[0].record.identity
    settle(server)
    for _ in range(3):
        left = pg.Identifier(unfinished_name(new_identity()))
        sql(
            pg.SQL(
                "CREATE DATABASE {} OWNER ordinary ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
            ).format(left)
        )
    sql("ALTER ROLE ordinary CONNECTION LIMIT 2")
    recorder = Recorder()

    restore("seeded", databases=["default"], reporter=recorder)

    assert "too many connections for role" in recorder.warnings[0]
    names = [database.name for database in settle(server)]
    assert spare_name(identity) in names
    assert sum(name.startswith("pgsnap_new_") for name in names) == 2


def test_locks_are_taken_in_one_order(lives: dict[str, str], server: Server) -> None:
    """A project that names the same databases in another order never waits with one in hand."""
    first, second = lives["default"], lives["other"]
    assert first < second
    point("default", NAME=second)
    point("other", NAME=first)

    with server.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [lock_key(first)])
        taking = Background(lambda: take("seeded", wait_s=30, spare=False))
        until(lambda: is_waiting(server, "pgsnap take"))
        assert not is_locked(server, second)
    taking.result()
