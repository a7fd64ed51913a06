"""Renaming, pinning, annotating and deleting snapshots."""

import os
import signal
from collections.abc import Callable

import pytest
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.clones.names import spare_name, unfinished_name
from django_pgsnap.clones.records import TemplateRecord
from django_pgsnap.clones.transitions import Clone, publish_copy
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import InvalidNameError, SnapshotExistsError, SnapshotNotFoundError
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.manage import annotate, delete, pin, rename
from django_pgsnap.snapshots.queries import get, list_snapshots, overview
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import ListDatabases, SessionAs
from tests.records import template_record
from tests.servers import SUPERUSER, Server
from tests.watching import (
    Background,
    Recorder,
    authors,
    is_held,
    is_sleeping,
    oids,
    settle,
    until,
    write,
)

VERBS: dict[str, Callable[..., object]] = {
    "annotate": lambda name, **options: annotate(name, "a note", **options),
    "delete": delete,
    "pin": pin,
    "rename": lambda name, **options: rename(name, "other", **options),
    "unpin": lambda name: pin(name, pinned=False),
}


def test_rename(live: str, server: Server) -> None:
    """A snapshot is found by its new name only, with its spare; no database is renamed."""
    take("seeded", note="kept")
    before = oids(settle(server))

    renamed = rename("seeded", "release/1.0")

    assert renamed == get("release/1.0") == list_snapshots()[0]
    assert (renamed.note, renamed.spare) == ("kept", "ready")
    assert oids(settle(server)) == before
    with pytest.raises(SnapshotNotFoundError):
        get("seeded")


def test_rename_to_its_own_name(live: str) -> None:
    """Renaming a snapshot to the name that it has changes nothing, and loses nothing."""
    take("seeded", spare=False)

    rename("seeded", "seeded")

    assert [each.name for each in list_snapshots()] == ["seeded"]


def test_rename_goes_on_in_the_undo(live: str) -> None:
    """An undo says which snapshot took its place, by the name that this one has now."""
    take("seeded", spare=False)
    restore("seeded")

    rename("seeded", "sown")

    assert [undo.name for undo in overview().undos] == ["sown"]


def test_rename_to_a_name_in_use(live: str, databases: ListDatabases) -> None:
    """Another snapshot's name is refused, and both stay."""
    take("a", spare=False)
    take("b", spare=False)
    before = databases()

    with pytest.raises(SnapshotExistsError) as caught:
        rename("a", "b")

    assert str(caught.value) == (
        "There is a snapshot 'b' already.\nChoose another name, or delete that one first."
    )
    assert databases() == before


def test_rename_to_an_invalid_name(live: str, databases: ListDatabases) -> None:
    """A name that a take would refuse, rename refuses too."""
    take("seeded", spare=False)
    before = databases()

    with pytest.raises(InvalidNameError):
        rename("seeded", "no spaces")

    assert databases() == before


def test_unknown_name(live: str, databases: ListDatabases) -> None:
    """An unknown name is refused with the nearest that there is."""
    take("seeded", spare=False)
    before = databases()

    for verb in VERBS.values():
        with pytest.raises(SnapshotNotFoundError) as caught:
            verb("Seedde")
        assert str(caught.value) == "There is no snapshot 'Seedde'.\nDid you mean 'seeded'?"

    assert databases() == before


def test_pin_and_unpin(live: str) -> None:
    """Pinning and unpinning stay with the snapshot."""
    take("seeded", spare=False)

    assert (pin("seeded").pinned, get("seeded").pinned) == (True, True)
    assert (pin("seeded", pinned=False).pinned, get("seeded").pinned) == (False, False)


def test_annotate(live: str) -> None:
    """A note may be any text, and be taken away again."""
    take("seeded", note="old", spare=False)

    assert annotate("seeded", 'it\'s "new" 🐘\n2nd line; %s').note == get("seeded").note
    assert get("seeded").note == 'it\'s "new" 🐘\n2nd line; %s'
    assert annotate("seeded", "").note == ""


def test_nobody_is_disturbed(live: str, server: Server) -> None:
    """Changing what a snapshot says of itself needs nothing of the live database's sessions."""
    take("seeded", spare=False)
    with server.connect(live) as client:
        for verb in ("annotate", "pin", "unpin", "rename"):
            VERBS[verb]("seeded")

            assert client.execute("SELECT 1").fetchone() == (1,)


def test_change_of_several_databases(lives: dict[str, str]) -> None:
    """All parts of a snapshot change together."""
    take("both", spare=False)

    rename("both", "two")
    pin("two")

    assert [member.record.name for member in get("two").members] == ["two", "two"]
    assert all(member.record.pinned for member in get("two").members)


def test_delete(live: str, server: Server) -> None:
    """A deleted snapshot is gone with its spare, at once; the live database stays connected."""
    take("seeded")
    take("other", spare=False)
    settle(server)
    recorder = Recorder()
    with server.connect(live) as client:
        (gone,) = delete("seeded", reporter=recorder)

        assert client.execute("SELECT 1").fetchone() == (1,)
    assert isinstance(gone, Snapshot)
    assert gone.name == "seeded"
    assert [each.name for each in list_snapshots()] == ["other"]
    assert len(oids(settle(server))) == 2
    assert recorder.steps == ["Dropping seeded"]


@pytest.fixture
def made_of_seeded(live: str, session_as: SessionAs, server: Server) -> TemplateRecord:
    """A template, with its spare, made of the snapshot that was called "seeded" at that time."""
    copy = take("seeded", spare=False).members[0].record
    settle(server)
    template = template_record(source=live, snapshot=copy.identity, name="seeded")
    rename("seeded", "sown")
    unfinished = unfinished_name(template.identity)
    with session_as() as session:
        for name in (unfinished, spare_name(template.identity)):
            clone = Clone(source=copy.database, name=name, owner=SUPERUSER, strategy="wal_log")
            session.execute(clone.statement)
        session.execute(publish_copy(unfinished, template))
    return template


def test_delete_takes_templates_of_tests_along(
    made_of_seeded: TemplateRecord, server: Server
) -> None:
    """A template made of a snapshot holds its data, and goes with it, whatever it is called now."""
    delete("sown")

    left = oids(settle(server))
    assert not {made_of_seeded.database, spare_name(made_of_seeded.identity)} & left.keys()


def test_delete_while_a_test_run_uses_a_template(
    made_of_seeded: TemplateRecord, session_as: SessionAs, server: Server
) -> None:
    """A template in use is named, and dropped by the next operation after that run."""
    name = made_of_seeded.database
    heard = Recorder()

    with session_as() as run:
        run.rows(pg.SQL("SELECT pg_advisory_lock_shared(%s)"), [lock_key(name)])
        delete("sown", reporter=heard)
        assert diagnose().problems == ()
    settle(server)

    (warning,) = heard.warnings
    assert warning == (
        f"The template '{name}', made of 'seeded', is in use by a test run. "
        "The next operation after that run drops it."
    )
    assert [each.kind for each in diagnose().problems] == ["template-without-snapshot"]
    take("next")
    assert name not in oids(settle(server))


def test_delete_several(lives: dict[str, str], server: Server) -> None:
    """Several are deleted at once, in all their databases; a name said twice counts once."""
    for name in ("a", "b", "c"):
        take(name)

    gone = delete("a", "c", "a")

    assert [each.name for each in gone] == ["a", "c"]
    assert [each.name for each in list_snapshots()] == ["b"]
    settle(server)
    assert overview().occupied_bytes >= sum(m.record.size_bytes for m in get("b").members)


def test_delete_with_one_unknown_name(live: str, server: Server) -> None:
    """If one of the names is unknown none is deleted."""
    take("seeded")
    before = settle(server)

    with pytest.raises(SnapshotNotFoundError):
        delete("seeded", "nope")

    assert settle(server) == before


def test_delete_leaves_the_undo(live: str) -> None:
    """The undo belongs to no snapshot."""
    take("seeded")
    write("Ursula")
    restore("seeded")

    delete("seeded")

    assert len(overview().undos) == 1


def test_delete_stops_the_making_of_a_spare(live: str, server: Server) -> None:
    """A snapshot whose spare is just being made can be deleted all the same."""
    copy = take("seeded", spare=False).members[0]
    spare = spare_name(copy.record.identity)
    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare)])
        busy = Background(lambda: maker.execute("SELECT pg_sleep(60)"))
        until(lambda: is_sleeping(server))
        deleting = Background(lambda: delete("seeded"))
        busy.join(30)
        assert not busy.is_alive()
    deleting.result()

    assert list_snapshots() == ()
    assert oids(settle(server)).keys() == {live}


@pytest.mark.parametrize("verb", ["rename", "pin", "annotate"])
def test_spare_that_is_being_made_is_waited_for(
    verb: str, live: str, server: Server, settings: Settings, checkpointer: int
) -> None:
    """While the server copies a copy, it cannot be changed; that lasts longer than WAIT_S."""
    copy = take("seeded", spare=False, strategy="wal_log").members[0]
    settings.PGSNAP = {"ENABLED": True, "WAIT_S": 0.05}
    spare = spare_name(copy.record.identity)
    heard = Recorder()
    create = pg.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
        pg.Identifier(spare), pg.Identifier(copy.database.name)
    )
    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(spare)])
        making = Background(lambda: maker.execute(create))
        until(lambda: is_held(server, copy.database.name))
        changing = Background(lambda: VERBS[verb]("seeded", reporter=heard))
        until(lambda: bool(heard.steps))
        changing.join(0.2)
        assert changing.is_alive()
        os.kill(checkpointer, signal.SIGCONT)
        making.result()
    changing.result()
    assert heard.steps == ["Waiting for the spare of 'seeded', which is being made"]


def test_deleted_name_is_free(live: str) -> None:
    """The name of a deleted snapshot can be given again."""
    take("seeded")
    delete("seeded")
    write("Ursula")

    take("seeded")
    write("Stanisław")
    restore("seeded")

    assert authors() == ["Ursula"]


def test_half_dropped_copy_is_removed_later(live: str, server: Server) -> None:
    """A copy whose DROP was interrupted is no snapshot, and the next operation removes it."""
    copy = take("seeded", spare=False).members[0].database.name
    with server.connect() as connection:
        connection.execute(
            pg.SQL("UPDATE pg_database SET datconnlimit = -2 WHERE datname = {}").format(
                pg.Literal(copy)
            )
        )
    assert list_snapshots() == ()

    take("other", spare=False)

    assert copy not in oids(settle(server))
