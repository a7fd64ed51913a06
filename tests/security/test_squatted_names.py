"""Databases of others under names of ours: none stands in our way, is used, or is dropped."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import psycopg
import pytest
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.clones.names import new_identity, spare_name
from django_pgsnap.comparison.diff import diff
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ObstacleError, OperationRunningError, PgsnapError
from django_pgsnap.postgres import server as maintenance
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.manage import delete, refill, rename
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeDatabase
from tests.security.conftest import MALLORY, OPEN, SHUT, Attacker, victim
from tests.servers import SUPERUSER, Server
from tests.watching import Recorder, authors, oids, settle, write

# What an operation makes or renames begins with one of these; an identity follows, and those of
# published databases can be read by everybody.
PREFIXES = ("", "undo_", "spare_", "template_", "run_", "new_", "drop_")
NAMES = [f"pgsnap_{prefix}{{}}" for prefix in PREFIXES]


def squat(attacker: Attacker, server: Server, options: str) -> set[str]:
    """Take every name that follows from what can be read, and return those that were free."""
    present = settle(server)
    identities = {each.name[-16:] for each in present if each.name.startswith("pgsnap_")}
    identities |= {
        member.record.set_id
        for part in (*overview().snapshots, *overview().undos)
        for member in part.members
    }
    free = {name.format(identity) for identity in identities for name in NAMES} - oids(
        present
    ).keys()
    return {
        attacker.forge(name, owner=owner, options=options)
        for name, owner in zip(sorted(free), itertools.cycle(attacker.owners), strict=False)
    }


@pytest.mark.parametrize("options", [SHUT, OPEN], ids=["shut", "open"])
def test_every_name_that_can_be_told(
    options: str, victim_live: str, attacker: Attacker, server: Server
) -> None:
    """All verbs succeed while every name of ours that could be told beforehand is taken."""
    write("Ursula")
    take("first", spare=False)
    taken = squat(attacker, server, options)
    write("Stanisław")
    restore("first")
    assert authors() == ["Ursula"]
    taken |= squat(attacker, server, options)
    undo()
    assert authors() == ["Stanisław", "Ursula"]
    take("second", spare=False)
    taken |= squat(attacker, server, options)
    take("second", replace=True)
    taken |= squat(attacker, server, options)
    restore("first")
    assert authors() == ["Ursula"]
    delete("first", "second")

    left = settle(server)
    assert taken <= oids(left).keys()
    assert {each.name for each in left if each.owner == victim()} == {
        victim_live,
        *(undo.members[0].database.name for undo in overview().undos),
    }


def test_name_of_the_spare(attacker: Attacker, server: Server) -> None:
    """Where the name of a spare is taken, and it is asked for, it is said by what and whose."""
    copy = take("seeded", spare=False).members[0].record
    settle(server)
    spare = attacker.forge(spare_name(copy.identity))

    with pytest.raises(PgsnapError) as caught:
        refill("seeded")

    assert f"{spare!r}" in str(caught.value)
    assert f"{attacker.owners[0]!r}" in str(caught.value)


def test_doctor_reports_them(attacker: Attacker) -> None:
    """The doctor names each database of another role under one of our names, and its owner."""
    taken = {
        attacker.forge(name.format(new_identity()), owner=owner): owner
        for name in NAMES
        for owner in attacker.owners
    }

    found = {each.object: each.cause for each in diagnose().problems}

    assert taken.keys() <= found.keys()
    assert all(f"{owner!r}" in found[name] for name, owner in taken.items())


@pytest.mark.parametrize("options", [SHUT, OPEN], ids=["shut", "open"])
def test_unpublished_names_are_not_swept(options: str, attacker: Attacker, server: Server) -> None:
    """What is called like a leftover of ours stays; also where a superuser could drop it."""
    made = {
        attacker.forge(name.format(new_identity()), owner=owner, options=options)
        for name in NAMES
        for owner in attacker.owners
    }

    take("seeded")
    restore("seeded")
    take("seeded", replace=True)
    delete("seeded")
    diagnose(fix=True)

    assert made <= oids(settle(server)).keys()


def test_open_database_of_ours_is_not_swept(
    victim_live: str, make_database: MakeDatabase, server: Server
) -> None:
    """Nor does a database of our own go by its name alone: a leftover is shut."""
    made = {make_database(name.format(new_identity()), owner=victim()) for name in NAMES}

    take("seeded")
    restore("seeded")
    delete("seeded")

    assert made <= oids(settle(server)).keys()


@pytest.mark.parametrize("options", [SHUT, OPEN], ids=["shut", "open"])
@pytest.mark.parametrize(
    "ended_by", [lambda: delete("first"), lambda: take("second")], ids=["delete", "take"]
)
def test_spare_of_somebody(
    options: str, ended_by: Callable[[], object], attacker: Attacker, server: Server
) -> None:
    """A database of another role that is called like a copy's spare is neither used nor dropped."""
    write("Ursula")
    copy = take("first", spare=False).members[0].record
    settle(server)
    foreign = attacker.forge(spare_name(copy.identity), options=options)
    oid = oids(settle(server))[foreign]
    write("Stanisław")

    restore("first")
    assert authors() == ["Ursula"]
    ended_by()

    assert oids(settle(server))[foreign] == oid


@pytest.fixture
def held(attacker: Attacker, server: Server) -> Iterator[psycopg.Connection]:
    """A session of the attacker's, in which she keeps the locks that she takes."""
    with server.connect(user=MALLORY) as connection:
        yield connection


def test_lock_of_the_live_database(
    victim_live: str, held: psycopg.Connection, settings: Settings
) -> None:
    """Who holds the lock of a live database is named, and that she may be at no work at all."""
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0.1}
    held.execute("SELECT pg_advisory_lock(%s)", [lock_key(victim_live)])

    with pytest.raises(OperationRunningError) as caught:
        take("seeded")

    assert "role 'mallory', which may hold the lock without working" in str(caught.value)


def test_lock_of_a_spare(
    attacker: Attacker, held: psycopg.Connection, settings: Settings, server: Server
) -> None:
    """Who holds the lock of a spare, and makes none, is waited for no longer than for others."""
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0.1}
    write("Ursula")
    copy = take("seeded", spare=False).members[0].record
    held.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare_name(copy.identity))])
    write("Stanisław")
    heard = Recorder()

    restore("seeded", reporter=heard)
    rename("seeded", "sown")
    delete("sown")

    assert authors() == ["Ursula"]
    (waiting,) = (step for step in heard.steps if "the spare of 'seeded'" in step)
    assert "role 'mallory', which may hold the lock without working" in waiting


def test_copy_that_is_open_for_a_moment(
    attacker: Attacker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who slips into a copy while it is opened for a diff is named, and ended if we may."""
    write("Ursula")
    copy = take("seeded", spare=False).members[0].database.name
    settle(server)
    attacker.sql(pg.SQL("GRANT CONNECT ON DATABASE {} TO mallory").format(pg.Identifier(copy)))
    slipped_in: list[psycopg.Connection] = []

    def open_session(
        here: maintenance.Server, database: str, purpose: str, *settings: Mapping[str, str]
    ) -> Session:
        session = session_on(here, database, purpose, *settings)
        if database == copy:
            attacker.sql(pg.SQL("ALTER DATABASE {} CONNECTION LIMIT 2").format(pg.Identifier(copy)))
            slipped_in.append(server.connect(copy, MALLORY, application_name="pgsnap diff"))
        return session

    session_on = maintenance.Server.session_on
    monkeypatch.setattr(maintenance.Server, "session_on", open_session)

    with pytest.raises(ObstacleError) as caught:
        diff("seeded")

    assert "mallory" in caught.value.message
    (session,) = slipped_in
    with session:
        may_end_her = victim() == SUPERUSER
        with pytest.raises(psycopg.errors.AdminShutdown) if may_end_her else nullcontext():
            session.execute("SELECT 1")
