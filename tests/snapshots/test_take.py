"""Taking snapshots."""

from datetime import UTC, datetime, timedelta
from functools import partial

import django
import psycopg
import pytest
from django.db import connection
from pytest_django import Settings

from django_pgsnap.clones import strategy as strategies
from django_pgsnap.clones.names import spare_name, unfinished_name
from django_pgsnap.clones.records import Strategy, decode_record
from django_pgsnap.clones.strategy import quicker_strategy
from django_pgsnap.errors import (
    ConfigurationError,
    DatabaseBusyError,
    ObstacleError,
    SnapshotExistsError,
)
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, ListDatabases, MakeRole, RunSql
from tests.servers import Server
from tests.watching import (
    Background,
    Recorder,
    authors,
    held_up,
    in_transaction,
    is_locked,
    is_sleeping,
    oids,
    settle,
    until,
    write,
)


def test_half_dropped_database(live: str, sql: RunSql) -> None:
    """A live database on which a DROP was interrupted is named, with what to do about it."""
    take("seeded", spare=False)
    connection.close()
    sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", [live])

    for command in (take, restore):
        with pytest.raises(ObstacleError) as caught:
            command("again" if command is take else "seeded")
        assert str(caught.value) == (
            f"A DROP DATABASE of {live!r} was interrupted: part of it is gone, and nobody can "
            "connect to it any more.\n"
            f'Drop it (DROP DATABASE "{live}";), then restore a snapshot, or create it anew.'
        )


def test_migrations_that_may_not_be_read(
    live_owned: str, sql: RunSql, role: MakeRole, call: Call
) -> None:
    """Not to know the migrations is something else than that there are none."""
    sql(
        "ALTER TABLE django_migrations OWNER TO postgres;"
        " REVOKE ALL ON django_migrations FROM ordinary",
        dbname=live_owned,
    )

    snapshot = take("seeded", spare=False)

    assert snapshot.migrations is None
    assert list_snapshots() == (snapshot,)
    listed = call("pgsnap", "list").stdout
    assert "not known" in listed
    assert "behind" not in listed


def test_snapshot_knows_what_it_is(live: str, server: Server) -> None:
    """What take returns says what was taken, when, from where, and with which migrations."""
    began = datetime.now(UTC)

    snapshot = take("seeded", note="before the erasure", pin=True)

    (member,) = snapshot.members
    assert (snapshot.name, snapshot.note, snapshot.pinned) == (
        "seeded",
        "before the erasure",
        True,
    )
    assert snapshot.aliases == ("default",)
    assert snapshot.is_complete
    assert began <= snapshot.taken_at <= datetime.now(UTC)
    assert timedelta(seconds=snapshot.seconds) < datetime.now(UTC) - began
    assert snapshot.size_bytes == member.record.size_bytes > 1_000_000
    assert ("testapp", "0002_genres") in (snapshot.migrations or ())
    assert (member.record.source, member.alias) == (live, "default")
    assert member.record.django == django.get_version()
    assert server.version.startswith(member.record.postgresql)


def test_copy_is_shut_and_says_so_itself(live: str, server: Server) -> None:
    """The copy takes no connection, is no template for others, and its comment is the record."""
    snapshot = take("seeded", spare=False)

    (copy,) = (database for database in settle(server) if database.name != live)
    assert copy.name == snapshot.members[0].database.name
    assert (copy.allows_connections, copy.connection_limit, copy.is_template) == (False, 0, False)
    assert decode_record(copy.comment) == snapshot.members[0].record


def test_live_database_stays_what_it_was(live: str, databases: ListDatabases) -> None:
    """A take leaves the live database itself alone: same oid, same rows, open."""
    write("Ursula")
    (before,) = databases()

    take("seeded", spare=False)

    assert before in databases()
    assert authors() == ["Ursula"]


def test_names_are_counted_on(live: str) -> None:
    """Without a name the first free of snap1, snap2, … is chosen."""
    taken = [take(spare=False).name, take(spare=False).name, take("snap4", spare=False).name]

    assert taken == ["snap1", "snap2", "snap4"]
    assert take(spare=False).name == "snap3"
    assert take(spare=False).name == "snap5"


def test_newest_comes_first(live: str) -> None:
    """Snapshots are listed newest first."""
    for name in ("b", "a", "c"):
        take(name, spare=False)

    assert [snapshot.name for snapshot in list_snapshots()] == ["c", "a", "b"]


def test_spare_is_made_meanwhile(live: str, server: Server) -> None:
    """After a take the server makes the spare by itself, shut and without a comment."""
    snapshot = take("seeded")

    present = {database.name: database for database in settle(server)}
    spare = present[f"pgsnap_spare_{snapshot.members[0].record.identity}"]
    assert (spare.allows_connections, spare.connection_limit, spare.comment) == (False, 0, None)
    assert list_snapshots()[0].spare == "ready"


@pytest.mark.parametrize(
    ("pgsnap", "spared"),
    [
        ({}, ["third", "first"]),
        ({"SPARES": 1}, ["third"]),
        ({"SPARES": 3}, ["third", "second", "first"]),
    ],
)
def test_last_used_snapshots_have_spares(
    pgsnap: dict[str, int], spared: list[str], live: str, server: Server, settings: Settings
) -> None:
    """Those last taken or restored keep their spares; the spares of others make way."""
    settings.PGSNAP = {"ENABLED": True, **pgsnap}
    for work in (partial(take, "first"), partial(take, "second"), partial(restore, "first")):
        work()
        settle(server)

    take("third")

    settle(server)
    assert [each.name for each in list_snapshots() if each.spare == "ready"] == spared


def test_switching_between_two_snapshots_copies_nothing(live: str, server: Server) -> None:
    """With the default both have spares, each time anew."""
    for name in ("one", "other"):
        take(name)
        settle(server)
    recorder = Recorder()

    for name in ("one", "other", "one", "other"):
        restore(name, reporter=recorder)
        settle(server)

    assert recorder.steps == []


@pytest.mark.parametrize("pgsnap", [{"SPARES": False}, {"SPARE_MAX_BYTES": 1_000_000}])
def test_settings_that_want_no_spare(
    pgsnap: dict[str, object], live: str, server: Server, settings: Settings
) -> None:
    """No spare is made where the settings say so, nor of a database above their limit."""
    settings.PGSNAP = {"ENABLED": True} | pgsnap

    take("seeded", strategy="file_copy")

    settle(server)
    assert list_snapshots()[0].spare == "none"


def test_take_that_wants_no_spare_leaves_the_others(live: str, server: Server) -> None:
    """With spare=False none is made, and that of another snapshot stays."""
    take("first")
    settle(server)

    take("second", spare=False)

    settle(server)
    assert {each.name: each.spare for each in list_snapshots()} == {
        "first": "ready",
        "second": "none",
    }


@pytest.mark.parametrize(
    "strategy", ["wal_log", "file_copy", pytest.param("clone", marks=pytest.mark.pg(">= 18"))]
)
def test_every_strategy_copies(strategy: Strategy, live: str) -> None:
    """Each strategy gives a copy that can be restored; clone falls back where it is refused."""
    write("Ursula")

    snapshot = take("seeded", strategy=strategy)
    write("Stanisław")
    restore("seeded")

    assert authors() == ["Ursula"]
    used = snapshot.members[0].record.strategy
    assert used == strategy or (strategy, used) == ("clone", "file_copy")


@pytest.mark.pg(">= 18")
def test_strategy_by_experience(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system shares no blocks, the other way is tried once, then it is known."""
    monkeypatch.setattr(strategies, "WAL_LOG_MAX_BYTES", 0)
    monkeypatch.setattr(strategies, "_TELLING_BYTES", 1)

    first, second, third = (take(name).members[0].record for name in ("first", "second", "third"))

    assert first.clone_rate in (1.0, first.bytes_per_s)
    assert second.strategy == "file_copy"
    assert (second.clone_rate, second.file_copy_rate) == (first.clone_rate, second.bytes_per_s)
    assert third.strategy == quicker_strategy(second)


@pytest.mark.pg("< 18")
def test_strategy_that_the_server_lacks(
    live: str, server: Server, databases: ListDatabases
) -> None:
    """A strategy that came with PostgreSQL 18 is refused before, by a message that says so."""
    before = databases()

    with pytest.raises(ConfigurationError) as caught:
        take("seeded", strategy="clone")

    assert str(caught.value) == (
        f"PostgreSQL {server.version} has no strategy clone on this platform.\n"
        "Use file_copy, or upgrade to 18 or later."
    )
    assert databases() == before


def test_replace_takes_the_place(live: str, server: Server) -> None:
    """With replace=True the old snapshot, and its spare, make way for the new one."""
    old = take("seeded")
    write("Ursula")

    new = take("seeded", replace=True)

    names = {database.name for database in settle(server)}
    identity = new.members[0].record.identity
    assert names == {live, f"pgsnap_{identity}", f"pgsnap_spare_{identity}"}
    assert [each.set_id for each in list_snapshots()] == [new.set_id] != [old.set_id]
    write("Stanisław")
    restore("seeded")
    assert authors() == ["Ursula"]


def test_replace_of_nothing_is_a_take(live: str) -> None:
    """With replace=True there need not be a snapshot of that name."""
    assert take("seeded", replace=True, spare=False).name == "seeded"


def test_failed_replacement_keeps_the_old(live: str, server: Server) -> None:
    """When a replacement fails, the snapshot it was to replace is still there, spare included."""
    take("seeded")
    before = settle(server)

    with in_transaction(server, live), pytest.raises(DatabaseBusyError):
        take("seeded", replace=True, wait_s=0)

    assert settle(server) == before
    assert list_snapshots()[0].spare == "ready"


def test_replacing_is_one_transaction(live: str, server: Server) -> None:
    """Where the old snapshot cannot go, the new one does not appear, and its clone is gone."""
    old = take("seeded", spare=False)

    with held_up(server, old.members[0].database.name), pytest.raises(DatabaseBusyError):
        take("seeded", replace=True, spare=False, wait_s=0.5)

    assert [each.set_id for each in list_snapshots()] == [old.set_id]
    assert len(settle(server)) == 2  # the live database and the old copy


def test_replacing_stops_the_making_of_a_spare(live: str, server: Server) -> None:
    """A snapshot whose spare is just being made can be replaced all the same."""
    old = take("seeded", spare=False)
    with server.connect() as maker:
        spare = spare_name(old.members[0].record.identity)
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare)])
        making = Background(lambda: maker.execute("SELECT pg_sleep(60)"))
        until(lambda: is_sleeping(server))
        replacing = Background(lambda: take("seeded", replace=True, spare=False))
        with pytest.raises(psycopg.errors.QueryCanceled):
            making.result()
    replacing.result()

    assert [each.set_id for each in list_snapshots()] != [old.set_id]


def test_replacing_part_of_a_snapshot_is_refused(
    lives: dict[str, str], databases: ListDatabases
) -> None:
    """A snapshot of two databases is not replaced by one of a single one."""
    take("both", spare=False)
    before = databases()

    with pytest.raises(SnapshotExistsError) as caught:
        take("both", databases=["default"], replace=True)

    assert str(caught.value) == (
        "The snapshot 'both' also holds other, which would be lost.\n"
        "Take all its databases, or choose another name."
    )
    assert databases() == before


def test_idle_sessions_are_ended_and_counted(live: str, server: Server) -> None:
    """Sessions that idle on the live database are ended, and the user is told how many."""
    recorder = Recorder()
    with server.connect(live) as first, server.connect(live) as second:
        until(lambda: _idle(server, live) == 2)

        take("seeded", reporter=recorder)

        assert recorder.notes == ["Ended 2 sessions on the live database."]
        assert not _is_alive(server, first.info.backend_pid)
        assert not _is_alive(server, second.info.backend_pid)


def test_session_that_works_is_waited_for(live: str, server: Server) -> None:
    """A transaction under way may finish, and is part of the snapshot."""
    with in_transaction(server, live) as client:
        taking = Background(lambda: take("seeded", wait_s=30))
        until(lambda: is_locked(server, live))

        client.execute("COMMIT")
        taking.result()

    restore("seeded")
    assert authors() == ["at work"]


def test_force_ends_a_session_that_works(live: str, server: Server) -> None:
    """With force=True a transaction under way is ended at once, and lost."""
    with in_transaction(server, live) as client:
        take("seeded", wait_s=0, force=True)

        assert not _is_alive(server, client.info.backend_pid)
    assert authors() == []


def test_django_is_connected_again_by_itself(live: str) -> None:
    """Django's own connection is let go for the take, and the next query opens another."""
    write("Ursula")
    connection.ensure_connection()

    take("seeded")

    assert authors() == ["Ursula"]


def test_unlogged_tables_are_warned_of(live: str, sql: RunSql) -> None:
    """Unlogged tables are copied, with a warning that a crash empties them."""
    sql("CREATE UNLOGGED TABLE cache AS SELECT 1 AS one", dbname=live)
    recorder = Recorder()

    take("seeded", reporter=recorder)

    assert recorder.warnings == [
        f"Unlogged tables of {live!r} come back empty if the server crashes after the take: cache."
    ]
    sql("DROP TABLE cache", dbname=live)
    restore("seeded")
    assert sql("SELECT one FROM cache", dbname=live) == [(1,)]


def test_leftover_of_an_interrupted_take_is_removed(live: str, server: Server, sql: RunSql) -> None:
    """An unfinished clone that nobody works on goes with the next take; others' databases stay."""
    sql("CREATE DATABASE pgsnap_new_0123456789abcdef ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
    sql("CREATE DATABASE pgsnap_new_fedcba9876543210")
    sql("CREATE DATABASE pgsnap_new_mine ALLOW_CONNECTIONS false CONNECTION LIMIT 0")

    take("seeded", spare=False)

    names = oids(settle(server))
    assert "pgsnap_new_0123456789abcdef" not in names
    assert {"pgsnap_new_fedcba9876543210", "pgsnap_new_mine"} <= names.keys()


def test_many_leftovers_need_few_sessions(
    live: str, server: Server, sql: RunSql, checkpointer: int
) -> None:
    """Twenty leftovers are dropped from a handful of sessions, the others next time."""
    for number in range(20):
        name = unfinished_name(f"{number:016x}")
        sql(f"CREATE DATABASE {name} ALLOW_CONNECTIONS false CONNECTION LIMIT 0")

    take("seeded", spare=False, strategy="wal_log")

    # Some may be about to begin, and those that were not needed about to end.
    sessions = (
        "SELECT query LIKE 'DROP DATABASE%' FROM pg_stat_activity"
        " WHERE application_name LIKE 'pgsnap %'"
    )
    until(lambda: set(sql(sessions)) == {(True,)})
    assert len(sql(sessions)) <= 8


def test_obstacle_found_before_anybody_is_disturbed(live: str, server: Server, sql: RunSql) -> None:
    """A take that cannot work ends no session."""
    sql("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')", dbname=live)
    with server.connect(live) as client:
        with pytest.raises(ObstacleError):
            take("seeded")

        assert client.execute("SELECT 1").fetchone() == (1,)


def _idle(server: Server, database: str) -> int:
    with server.connect() as watcher:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state = 'idle'"
        row = watcher.execute(query, [database]).fetchone()
    return int(row[0]) if row else 0


def _is_alive(server: Server, pid: int) -> bool:
    with server.connect() as watcher:
        query = "SELECT FROM pg_stat_activity WHERE pid = %s"
        return watcher.execute(query, [pid]).fetchone() is not None
