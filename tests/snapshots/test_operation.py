"""What every operation begins with: its sessions. And what its reporter may do to it."""

import itertools
from collections.abc import Callable

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.names import new_identity, spare_name, unfinished_name
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ServerUnavailableError
from django_pgsnap.postgres.advisory_locks import lock_if_free, lock_key
from django_pgsnap.postgres.session import Session
from django_pgsnap.reporting import Reporter
from django_pgsnap.snapshots.manage import delete, pin, prune, refill
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.state import databases
from tests.watching import Background, Recorder, is_locked, oids, settle, until, write


class StoppedError(Exception):
    """What a reporter raises to end an operation."""


class Stopper(Reporter):
    """Ends an operation at its first, second, … step, as somebody does who presses Cancel."""

    def __init__(self, at: int) -> None:
        """Count down from there."""
        self._left = at

    def step(self, message: str) -> None:
        """Raise if it is that step."""
        self._left -= 1
        if not self._left:
            raise StoppedError(message)


# In this order each has something to do.
OPERATIONS: dict[str, Callable[[Reporter], object]] = {
    "restore": lambda out: restore("seeded", reporter=out),
    "undo": lambda out: undo(reporter=out),
    "take": lambda out: take("seeded", replace=True, spare=False, reporter=out),
    "refill": lambda out: refill("seeded", reporter=out),
    "delete": lambda out: delete("seeded", reporter=out),
    "prune": lambda out: prune(keep=0, reporter=out),
}


def test_reporter_that_ends_an_operation(
    two_servers: Server, server: Server, live_pair: dict[str, str]
) -> None:
    """At whichever step an operation on two servers is ended, everything is as it was."""

    def state() -> object:
        there = [oids(databases(each)) for each in (server, two_servers)]
        sets = (*overview().snapshots, *overview().undos)
        live = [present[name] for present, name in zip(there, live_pair.values(), strict=True)]
        return [(each.set_id, each.aliases) for each in sets], live

    ended = []
    for name in ("pruned", "seeded"):
        take(name, spare=False)
    for verb, operate in OPERATIONS.items():
        before = state()
        for step in itertools.count(1):
            try:
                operate(Stopper(step))
                break
            except StoppedError:
                assert (verb, state()) == (verb, before)
                ended.append(verb)

    assert ended == ["restore", "take", "refill", "delete", "prune"]


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
    make_live: MakeLive, role: MakeRole, sql: RunSql, manage: Manage, server: Server
) -> None:
    """Where no slot is left, what comes after a take and a refill makes neither of them fail."""
    make_live("default", user=role())
    sql("ALTER ROLE ordinary CONNECTION LIMIT 2")
    command = ["--database", "default"]

    taken = manage("pgsnap", "take", "seeded", *command)
    settle(server)
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


def test_copy_that_was_left_open(live: str, sql: RunSql, server: Server, session: Session) -> None:
    """What a killed diff has left open to clients is shut by the next operation, or the doctor.

    A diff that is about to come in holds the lock of its name.
    """
    write("Ursula")
    copy = take("seeded", spare=False).members[0].database.name
    restore("seeded")
    opened = {copy, overview().undos[0].members[0].database.name}

    def open_and(command: Callable[[], object]) -> set[str]:
        for name in opened:
            sql(pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(pg.Identifier(name)))
        command()
        return {each.name for each in databases(server) if each.allows_connections} & opened

    assert open_and(lambda: pin("seeded")) == set()
    assert open_and(lambda: diagnose(fix=True)) == set()
    with lock_if_free(session, *opened):
        assert open_and(lambda: pin("seeded")) == opened


def test_open_copy_that_is_being_altered(live: str, sql: RunSql, server: Server) -> None:
    """Where a copy cannot be shut, operations that do not need it work all the same."""
    copy = take("seeded", spare=False).members[0].database.name
    alter = pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(pg.Identifier(copy))
    sql(alter)

    with server.connect() as other, other.transaction():
        other.execute(alter)
        take("another", spare=False, wait_s=0)

    assert [each.name for each in overview().snapshots] == ["another", "seeded"]


def test_locks_are_taken_in_one_order(lives: dict[str, str], server: Server) -> None:
    """A project that names the same databases in another order never waits with one in hand."""
    first, second = lives["default"], lives["other"]
    assert first < second
    point("default", NAME=second)
    point("other", NAME=first)

    with server.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [lock_key(first)])
        recorder = Recorder()
        taking = Background(lambda: take("seeded", wait_s=30, spare=False, reporter=recorder))
        until(lambda: bool(recorder.steps))
        assert not is_locked(server, second)
    taking.result()
