"""Restoring snapshots."""

import psycopg
import pytest
from django.conf import settings as django_settings
from django.contrib.contenttypes.models import ContentType
from django.core.management.base import CommandError
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.clones.names import record_name, spare_name
from django_pgsnap.comparison.diff import diff
from django_pgsnap.errors import DatabaseBusyError, ObstacleError, SnapshotNotFoundError
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, ListDatabases, RunSql
from tests.project import point
from tests.servers import Server
from tests.testapp.models import Author, Genre
from tests.watching import (
    PATIENCE_S,
    Background,
    Recorder,
    authors,
    in_transaction,
    oids,
    settle,
    until,
    write,
)

ODD_NAMES = [
    'Say "when"',
    "with spaces and 'quotes'",
    "UPPER",
    "Übung №1 🐘",
    "100%s %(a)s %%",
    r"back\slash; DROP",
    "ü" * 31 + "x",
    "postgres2",
]


def test_every_row_is_back(live: str) -> None:
    """What was changed, deleted, added and put into sequences since the take is as it was."""
    write("Ursula", "Stanisław")
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('testapp_invoice_number', 5000)")
    take("seeded")
    Author.objects.filter(name="Ursula").delete()
    Author.objects.update(name="redacted")
    write("Lem")
    Genre.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('testapp_invoice_number', 1)")

    snapshot = restore("seeded")

    assert snapshot.name == "seeded"
    assert authors() == ["Stanisław", "Ursula"]
    assert Genre.objects.count() == 3
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('testapp_invoice_number')")
        assert cursor.fetchone() == (5001,)


def test_schema_is_back_too(live: str, sql: RunSql) -> None:
    """A table dropped since the take is there again, one made since is gone."""
    take("seeded")
    sql("DROP TABLE testapp_book; CREATE TABLE made_since ()", dbname=live)

    restore("seeded")

    (found,) = sql(
        "SELECT to_regclass('testapp_book') IS NOT NULL, to_regclass('made_since') IS NULL",
        dbname=live,
    )
    assert found == (True, True)


def test_newest_is_the_default(live: str) -> None:
    """Without a name the snapshot last taken is restored."""
    take("first")
    write("Ursula")
    take("second")
    write("Stanisław")

    assert restore().name == "second"
    assert authors() == ["Ursula"]


def test_snapshot_outlives_its_restores(live: str) -> None:
    """A snapshot can be restored again and again, whatever is done in between."""
    write("Ursula")
    take("seeded")

    for _ in range(3):
        write("Stanisław")
        restore("seeded")
        assert authors() == ["Ursula"]


def test_spare_takes_the_name(live: str, server: Server) -> None:
    """With a spare ready a restore copies nothing: the spare itself becomes the live database."""
    identity = take("seeded").members[0].record.identity
    before = oids(settle(server))
    recorder = Recorder()

    restore("seeded", reporter=recorder)

    after = oids(settle(server))
    assert after[live] == before[spare_name(identity)]
    assert after[spare_name(identity)] != after[live]  # the next one
    assert recorder.steps == []


def test_last_look(live: str, server: Server) -> None:
    """Who asks for one looks when the last session is gone, and leaves no trace of it."""
    take("seeded", spare=False)
    recorder, seen = Recorder(), list[list[str]]()
    with in_transaction(server, live) as client:
        restoring = Background(
            lambda: restore("seeded", reporter=recorder, last_look=lambda: seen.append(authors()))
        )
        until(lambda: any(step.startswith("Waiting") for step in recorder.steps))
        seen_before_it_is_gone = list(seen)
        # In another transaction it is not idle, so it is not ended before it leaves by itself.
        client.execute("COMMIT AND CHAIN")
        client.close()
        restoring.result()

    assert (seen_before_it_is_gone, seen) == ([], [["at work"]])
    assert authors() == []
    assert recorder.notes == [
        ("Copied 'seeded', since it had no spare; the 2 snapshots last taken or restored have one.")
    ]


def test_last_look_again_after_a_visit(live: str, server: Server) -> None:
    """Who comes in between the look and the swap is waited for, and then it is looked again."""
    take("seeded", spare=False)
    visitors: list[psycopg.Connection] = []
    seen: list[list[str]] = []
    before = server.log_size_bytes

    def look() -> None:
        seen.append(authors())
        if not visitors:
            visitors.append(server.connect(live))
            visitors[0].execute("BEGIN; INSERT INTO testapp_author (name) VALUES ('visitor')")

    restoring = Background(lambda: restore("seeded", last_look=look, wait_s=PATIENCE_S))
    until(lambda: "being accessed by other users" in server.read_log(before))
    visitors[0].execute("COMMIT AND CHAIN")
    visitors[0].close()
    restoring.result()

    assert seen == [[], ["visitor"]]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_create_logical_replication_slot('late', 'pgoutput')",
        "BEGIN; LOCK testapp_author; PREPARE TRANSACTION 'late'",
    ],
    ids=["slot", "prepared"],
)
def test_attached_at_the_last_moment(live: str, sql: RunSql, statement: str) -> None:
    """What was attached after the checks is named as it would have been before, and stays."""
    snapshot = take("seeded", spare=False)

    def attach() -> None:
        sql(statement, dbname=live)

    with pytest.raises(ObstacleError, match=f"'late' of '{live}'"):
        restore("seeded", last_look=attach, wait_s=PATIENCE_S)

    assert overview().undos == ()
    assert [each.set_id for each in list_snapshots()] == [snapshot.set_id]


def test_undo_holds_what_was_replaced(live: str, server: Server) -> None:
    """The replaced database itself becomes the undo, shut."""
    take("seeded")
    before = oids(settle(server))

    restore("seeded")

    (undo,) = overview().undos
    present = {database.name: database for database in settle(server)}
    kept = present[record_name("undo", undo.members[0].record.identity)]
    assert kept.oid == before[live]
    assert (kept.allows_connections, kept.connection_limit) == (False, 0)
    assert undo.name == "seeded"


def test_oldest_state_goes(live: str, server: Server, settings: Settings) -> None:
    """No more states stay on the server than the settings say."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": 2}
    take("seeded")
    for name in ("Ursula", "Stanisław", "Lem"):
        write(name)
        restore("seeded")

    names = [each.name for each in settle(server) if each.name.startswith("pgsnap_undo_")]
    assert len(names) == len(overview().undos) == 2


@pytest.mark.parametrize("by_setting", [False, True])
def test_no_undo_where_none_is_wanted(
    by_setting: bool, live: str, server: Server, settings: Settings
) -> None:
    """With undo=False, or the setting UNDO off, what is replaced is dropped."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": not by_setting, "SPARES": False}
    take("seeded")
    write("Ursula")

    restore("seeded", undo=None if by_setting else False)

    assert overview().undos == ()
    assert len(settle(server)) == 2
    assert authors() == []


def test_without_a_spare_it_copies(live: str, server: Server, settings: Settings) -> None:
    """Where no spare is to be had a restore makes a clone of its own, and says so."""
    settings.PGSNAP = {"ENABLED": True, "SPARES": False}
    copy = take("seeded").members[0].database
    write("Ursula")
    before = oids(settle(server))
    recorder = Recorder()

    restore("seeded", reporter=recorder)

    assert recorder.steps == [f"Copying {copy.name}"]
    assert "Copied 'seeded', since PGSNAP['SPARES'] is 0." in recorder.notes
    assert authors() == []
    after = oids(settle(server))
    assert after[live] not in before.values()
    assert after[copy.name] == before[copy.name]


def test_spare_under_way_is_waited_for(live: str, server: Server, sql: RunSql) -> None:
    """A spare that another session is making is waited for, and then used."""
    copy = take("seeded", spare=False).members[0]
    spare = spare_name(copy.record.identity)
    recorder = Recorder()
    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare)])
        assert list_snapshots()[0].spare == "building"
        restoring = Background(lambda: restore("seeded", reporter=recorder))
        until(lambda: bool(recorder.steps))

        maker.execute(
            pg.SQL(
                "CREATE DATABASE {} TEMPLATE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
            ).format(pg.Identifier(spare), pg.Identifier(copy.database.name))
        )
        (made,) = sql("SELECT oid::bigint FROM pg_database WHERE datname = %s", [spare])
    restoring.result()

    assert recorder.steps == ["Waiting for the spare of 'seeded', which is being made"]
    assert (oids(settle(server))[live],) == made


def test_spare_that_never_comes_is_done_without(live: str, server: Server) -> None:
    """When the making of a spare ends without one, a restore copies after all."""
    copy = take("seeded", spare=False).members[0]
    write("Ursula")
    recorder = Recorder()
    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare_name(copy.record.identity))])
        restoring = Background(lambda: restore("seeded", reporter=recorder))
        until(lambda: bool(recorder.steps))
    restoring.result()

    assert authors() == []


def test_missing_live_database_is_made_again(live: str, server: Server, sql: RunSql) -> None:
    """A live database that was dropped comes back, without an undo since there is nothing to undo.

    The next restore finds it as any other.
    """
    write("Ursula")
    take("seeded")
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    restore("seeded")

    assert authors() == ["Ursula"]
    assert overview().undos == ()
    restore("seeded")
    assert len(overview().undos) == 1


def test_missing_live_database_keeps_an_older_undo(live: str, server: Server, sql: RunSql) -> None:
    """The undo of an earlier restore is not lost over a live database that was dropped."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    restore("seeded")

    settle(server)
    assert len(overview().undos) == 1


@pytest.mark.parametrize("live", ODD_NAMES, indirect=True)
def test_odd_names(live: str, server: Server) -> None:
    """A live database may be called anything that PostgreSQL allows."""
    write("Ursula")

    take("seeded")
    write("Stanisław")
    restore("seeded")

    assert authors() == ["Ursula"]
    assert live in oids(settle(server))


AUTHORS = "CREATE TABLE testapp_author (id bigserial PRIMARY KEY, name text)"


def test_live_database_called_postgres(docker: Server) -> None:
    """The database that maintenance sessions go to elsewhere, Docker's default, can be live too."""
    del django_settings.DATABASES["other"]
    with docker.connect() as client:
        client.execute(AUTHORS)
    write("Ursula")

    take("seeded")
    write("Stanisław")
    restore("seeded")
    assert authors() == ["Ursula"]

    undo()
    assert authors() == ["Stanisław", "Ursula"]
    assert "pgsnap" in oids(settle(docker))


def test_live_databases_called_postgres_and_pgsnap(docker: Server) -> None:
    """Maintenance sessions find a place where both of the usual ones are live, too."""
    with docker.connect() as client:
        client.execute("CREATE DATABASE pgsnap")
    for name in ("postgres", "pgsnap"):
        with docker.connect(name) as client:
            client.execute(AUTHORS)
    point("other", NAME="pgsnap", PORT=docker.port, PASSWORD=docker.password)
    write("Ursula")
    write("Octavia", alias="other")

    take("seeded")
    write("Stanisław")
    restore("seeded")
    assert (authors(), authors("other")) == (["Ursula"], ["Octavia"])

    undo()
    assert (authors(), authors("other")) == (["Stanisław", "Ursula"], ["Octavia"])
    assert "pgsnap_maintenance" in oids(settle(docker))


def test_migrate_applies_what_the_snapshot_lacks(live: str, call: Call) -> None:
    """With --migrate the migrations that the snapshot lacks are applied to what it restored."""
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("testapp", "0002_genres")
    Genre.objects.all().delete()
    take("old")
    recorder.record_applied("testapp", "0002_genres")
    write("Ursula")

    printed = call("pgsnap", "restore", "old", "--migrate")

    # Where the output goes through Django's wrapper, what is printed in two parts is two lines.
    assert "Applying testapp.0002_genres... OK" in " ".join(printed.stdout.split())
    assert authors() == []
    assert Genre.objects.count() == 3


def test_only_part_is_restored_when_asked(lives: dict[str, str]) -> None:
    """With databases=[…] the other live databases stay what they are."""
    take("both")
    write("Ursula", alias="default")
    write("Stanisław", alias="other")

    snapshot = restore("both", databases=["other"])

    assert snapshot.aliases == ("other",)
    assert (authors("default"), authors("other")) == (["Ursula"], [])


def test_incomplete_snapshot_is_refused(
    lives: dict[str, str], server: Server, sql: RunSql, call: Call
) -> None:
    """One of which a part was dropped by other means is not restored or compared unawares."""
    copies = {member.alias: member.database.name for member in take("both").members}
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(copies["other"])))
    write("Ursula")
    before = settle(server)

    with pytest.raises(ObstacleError) as caught:
        restore("both")
    with pytest.raises(CommandError) as would:
        call("pgsnap", "restore", "both", "--dry-run")

    assert str(would.value) == str(caught.value)
    assert str(caught.value) == (
        "Of the snapshot 'both' only the part of default is there.\n"
        "Choose that part (./manage.py pgsnap restore both --database default), or delete the "
        "snapshot."
    )
    assert settle(server) == before
    assert diff("both").notes == ("Of 'both' only the part of default is there.",)
    restore("both", databases=["default"])
    assert authors() == []


def test_second_alias_of_the_same_database(live: str) -> None:
    """Another alias that leads to the same database is let go, and finds the restored rows."""
    django_settings.DATABASES["reports"] = dict(connections["default"].settings_dict)
    try:
        take("seeded")
        Author.objects.using("reports").create(name="Ursula")

        assert restore("seeded").aliases == ("default",)

        assert authors("reports") == []
    finally:
        connections["reports"].close()
        del django_settings.DATABASES["reports"]


def test_content_types_are_read_afresh(live: str) -> None:
    """Django forgets the ids of content types, which may be others in the restored database."""
    take("seeded")
    old = ContentType.objects.get_for_model(Author).pk
    ContentType.objects.get_for_model(Author).delete()
    ContentType.objects.clear_cache()
    assert ContentType.objects.get_for_model(Author).pk != old

    restore("seeded")

    assert ContentType.objects.get_for_model(Author).pk == old


def test_busy_session_keeps_the_spare(live: str, server: Server) -> None:
    """A restore that a busy session stops leaves everything as it was, the spare ready."""
    take("seeded")
    write("Ursula")
    before = settle(server)

    with in_transaction(server, live), pytest.raises(DatabaseBusyError):
        restore("seeded", wait_s=0)

    assert settle(server) == before
    assert authors() == ["Ursula"]
    restore("seeded")
    assert authors() == []


def test_force_ends_a_session_that_works(live: str, server: Server) -> None:
    """With force=True a transaction under way does not stop a restore."""
    take("seeded")
    write("Ursula")

    with in_transaction(server, live):
        restore("seeded", force=True, wait_s=0)

    assert authors() == []


def test_nothing_taken_yet(live: str, databases: ListDatabases) -> None:
    """Without any snapshot the message says how to take one."""
    before = databases()

    with pytest.raises(SnapshotNotFoundError) as caught:
        restore()

    assert str(caught.value) == "There is no snapshot yet.\nTake one: ./manage.py pgsnap take."
    assert databases() == before
