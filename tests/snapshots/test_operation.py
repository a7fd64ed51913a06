"""What every operation begins with: its sessions."""

import pytest

from django_pgsnap.errors import ServerUnavailableError
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.watching import Background, is_locked, is_waiting, settle, until


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
