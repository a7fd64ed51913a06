"""Undo and redo, and which replaced states are kept."""

from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from django.db import connection, connections
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.clones.names import spare_name
from django_pgsnap.clones.records import MAX_FOREIGN_CHARACTERS, encode_record
from django_pgsnap.clones.transitions import rewrite_comment
from django_pgsnap.errors import DatabaseBusyError, NothingToUndoError
from django_pgsnap.snapshots import undo_history
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ListDatabases, RunSql
from tests.servers import Server
from tests.watching import Recorder, authors, in_transaction, oids, settle, write

# Each changes the live database in another way than by a committed row of a model.
CHANGES = {
    "a row that was rolled back": "BEGIN; INSERT INTO testapp_author (name) VALUES ('x'); ROLLBACK",
    "a sequence": "SELECT nextval('testapp_invoice_number')",
    "a sequence put back without being called": "SELECT setval('testapp_invoice_number', 1, false)",
    "a table emptied at once": "TRUNCATE testapp_author CASCADE",
    "a new table": "CREATE TABLE made_since ()",
    "a large object": "SELECT lo_from_bytea(0, 'x')",
}


def test_undo_and_redo(live: str) -> None:
    """Undo brings back what the restore replaced, undo again what the undo replaced, and so on."""
    write("Ursula")
    take("seeded")
    write("Stanisław")
    restore("seeded")

    seen = []
    for _ in range(4):
        assert undo().name == "seeded"
        seen.append(authors())

    assert seen == [["Stanisław", "Ursula"], ["Ursula"]] * 2


def test_undo_only_renames(live: str, server: Server) -> None:
    """Undo and redo swap two databases that both stay, and no other is made or dropped."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    before = settle(server)

    undo()
    write("Stanisław")
    undo()

    after = settle(server)
    assert sorted(oids(after).values()) == sorted(oids(before).values())
    assert oids(after)[live] == oids(before)[live]


def test_undo_keeps_what_was_written_since_the_restore(live: str) -> None:
    """What is written between restore and undo is not lost: redo has it."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    write("written since")

    undo()
    assert authors() == ["Ursula"]

    undo()
    assert authors() == ["written since"]


def test_nothing_to_undo(live: str, databases: ListDatabases) -> None:
    """Before any restore there is nothing to undo, which the message says."""
    take("seeded", spare=False)
    before = databases()

    with pytest.raises(NothingToUndoError) as caught:
        undo()

    assert str(caught.value) == (
        f"There is nothing to undo: no restore of {live!r} has left a replaced state.\n"
        "See ./manage.py pgsnap list for snapshots to restore."
    )
    assert databases() == before


def test_copy_that_nobody_used_is_not_kept(live: str, server: Server) -> None:
    """Restoring again at once does not put a plain copy of the snapshot before the work."""
    take("seeded")
    write("an hour of work")
    restore("seeded")

    restore("seeded")

    assert len(overview().undos) == 1
    settle(server)
    undo()
    assert authors() == ["an hour of work"]


def test_work_is_kept_over_many_restores(live: str) -> None:
    """However often an unused state is restored over, the work before stays one undo away."""
    take("empty")
    write("Ursula")
    take("full")
    write("an hour of work")

    for name in ("empty", "full", "empty", "empty"):
        restore(name)
    undo()

    assert authors() == ["Ursula", "an hour of work"]


def test_clone_that_somebody_was_on_is_no_plain_copy(
    live: str, sql: RunSql, server: Server
) -> None:
    """What came in from a spare that was opened and written is kept when it is replaced."""
    (member,) = take("seeded").members
    settle(server)
    spare = spare_name(member.record.identity)
    shut = "ALTER DATABASE {} ALLOW_CONNECTIONS {} CONNECTION LIMIT {}"
    name = pg.Identifier(spare)
    sql(pg.SQL(shut).format(name, pg.SQL("true"), pg.Literal(-1)))
    sql("INSERT INTO testapp_author (name) VALUES ('odd')", dbname=spare)
    settle(server)
    sql(pg.SQL(shut).format(name, pg.SQL("false"), pg.Literal(0)))
    write("an hour of work")
    restore("seeded")

    restore("seeded")

    undo()
    assert authors() == ["odd"]


def test_state_that_was_only_read_is_kept(live: str) -> None:
    """Where somebody was, nothing is for sure: the state is kept, and told to be unwritten."""
    take("seeded")
    write("an hour of work")
    restore("seeded")
    assert authors() == []
    connection.close()

    restore("seeded")

    read, work = overview().undos
    assert (read.is_unwritten, read.based_on) == (True, "seeded")
    assert (work.is_unwritten, work.based_on) == (False, "")
    undo(2)
    assert authors() == ["an hour of work"]


def test_newest_state_stays(live: str, settings: Settings) -> None:
    """What was live a moment ago is the next to come back, though nobody has written it."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": 1}
    take("seeded")
    write("an hour of work")
    restore("seeded")
    assert authors() == []
    connection.close()

    restore("seeded")

    assert [state.is_unwritten for state in overview().undos] == [True]


def test_state_that_was_written_becomes_the_undo(live: str) -> None:
    """A single row written since the last restore makes that state the undo."""
    take("seeded")
    write("an hour of work")
    restore("seeded")
    write("a minute of work")

    restore("seeded")
    undo()

    assert authors() == ["a minute of work"]


def test_any_change_counts(live: str, sql: RunSql, server: Server) -> None:
    """Whatever was changed since the last restore, in doubt too, that state becomes the undo."""
    take("seeded")
    write("an hour of work")
    restore("seeded")

    for kind, change in CHANGES.items():
        sql(change, dbname=live)
        before = oids(settle(server))

        restore("seeded")

        kept = overview().undos[0]
        assert (kind, kept.members[0].database.oid) == (kind, before[live])


def test_restart_of_the_server_is_a_doubt(live: str, server: Server) -> None:
    """After a crash the server's counters begin anew, so the state counts as written."""
    take("seeded")
    write("an hour of work")
    restore("seeded")
    write("a minute of work")
    settle(server)
    server.crash()
    server.start()

    restore("seeded")
    undo()

    assert authors() == ["a minute of work"]


def test_states_are_kept_newest_first(live: str) -> None:
    """Each restore puts what was live in front, and the number that the settings name stays."""
    take("seeded")
    for name in "abcd":
        write(name)
        restore("seeded")

    assert [state.is_unwritten for state in overview().undos] == [False] * 3

    seen = []
    for number in (3, 3, 3):
        undo(number)
        seen.append(authors())
    assert seen == [["b"], ["c"], ["d"]]


def test_undo_of_an_older_state_can_be_undone(live: str) -> None:
    """What an undo replaces is the newest state, whichever it brought back."""
    take("seeded")
    for name in "ab":
        write(name)
        restore("seeded")
    write("now")

    undo(2)
    assert authors() == ["a"]

    undo()
    assert authors() == ["now"]


def test_state_is_found_by_its_set_id(live: str) -> None:
    """Whatever was restored meanwhile, a set id means the same state, or none."""
    take("seeded", spare=False)
    write("Lem")
    restore("seeded")
    (state,) = overview().undos
    write("Ursula")
    restore("seeded")

    undo(set_id=state.set_id)

    assert authors() == ["Lem"]
    with pytest.raises(NothingToUndoError, match="There is no replaced state '0123'"):
        undo(set_id="0123")


@pytest.mark.parametrize("number", [2, 0])
def test_number_that_is_not_there(number: int, live: str) -> None:
    """A number beyond what is kept changes nothing, and the message says how many there are."""
    take("seeded")
    write("a")
    restore("seeded")

    with pytest.raises(NothingToUndoError, match=f"no replaced state {number}; kept: 1."):
        undo(number)

    assert authors() == []


def test_state_that_was_only_read_goes_first(live: str, settings: Settings) -> None:
    """Where more states are kept than wanted, one without a write in it goes before work."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": 2}
    take("seeded")
    write("first")
    restore("seeded")
    assert authors() == []  # and so it is no plain copy any more
    connection.close()
    restore("seeded")
    write("second")

    restore("seeded")

    undo(2)
    assert authors() == ["first"]


def test_limit_of_space(live: str, settings: Settings) -> None:
    """What is beyond the space for replaced states goes, which is said; the newest stays."""
    settings.PGSNAP = {"ENABLED": True, "UNDO_MAX_BYTES": 1}
    recorder = Recorder()
    take("seeded")
    write("first")
    restore("seeded", reporter=recorder)
    quiet = list(recorder.notes)
    write("second")

    restore("seeded", reporter=recorder)

    (kept,) = overview().undos
    assert not any("replaced states" in note for note in quiet)
    assert any(
        note.startswith("Replaced states let go: 1 of 2, which would") for note in recorder.notes
    )
    assert not kept.is_unwritten
    undo()
    assert authors() == ["second"]


def test_state_that_lost_a_part_goes_in_its_turn(
    lives: dict[str, str], sql: RunSql, settings: Settings
) -> None:
    """What is left of a state of which a part was dropped is not kept for ever."""
    settings.PGSNAP = {"ENABLED": True, "UNDO": 2}
    take("both")
    write("first")
    restore("both")
    (first,) = overview().undos
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(first.members[1].database.name)))

    for name in ("second", "third"):
        write(name)
        restore("both")

    assert [each.completeness for each in overview().undos] == ["complete"] * 2


def test_replaced_states_that_cannot_be_sorted_out(
    live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that has swapped is no failure, and the next one lets go of what is too much."""

    def fail(*_: object) -> None:
        raise psycopg.OperationalError("the connection is lost")

    recorder = Recorder()
    take("seeded")
    write("work")
    restore("seeded")
    with monkeypatch.context() as patch:
        patch.setattr(undo_history, "read_counters", fail)
        restore("seeded", reporter=recorder)

    (warning,) = recorder.warnings
    assert warning == (
        "Done, but more replaced states are kept than need be: the connection is lost. "
        "The next restore makes up for it."
    )
    assert len(overview().undos) == 2
    undo(2)
    assert authors() == ["work"]


def test_replaced_state_that_cannot_be_noted(live: str, sql: RunSql) -> None:
    """A restore that has swapped is no failure, though a comment has no room for what it notes."""
    recorder = Recorder()
    take("seeded")
    restore("seeded")
    (member,) = overview().undos[0].members
    room = MAX_FOREIGN_CHARACTERS - len(encode_record(member.record))
    # There is room for the name of the snapshot, not for the identity of its copy beside it.
    comment = pg.Literal("x" * (room - len(member.record.identity)))
    sql(pg.SQL("COMMENT ON DATABASE {} IS {}").format(pg.Identifier(live), comment))
    assert authors() == []

    restore("seeded", reporter=recorder)

    (warning,) = recorder.warnings
    assert warning.startswith("Done, but more replaced states are kept than need be: What there is")
    assert len(overview().undos) == 2


def test_clock_that_was_turned_back(live: str, sql: RunSql) -> None:
    """A state is in front of those kept before it, whatever the clock says."""
    take("seeded")
    write("first")
    restore("seeded")
    (first,) = overview().undos
    future = replace(first.members[0].record, taken_at=first.taken_at + timedelta(days=1))
    sql(rewrite_comment(future))
    write("second")

    restore("seeded")

    undo()
    assert authors() == ["second"]


def test_without_an_undo_the_older_one_stays(live: str) -> None:
    """A restore that keeps no undo leaves that of an earlier restore alone."""
    take("seeded")
    write("an hour of work")
    restore("seeded")
    write("not worth keeping")

    restore("seeded", undo=False)
    undo()

    assert authors() == ["an hour of work"]


def test_undo_where_the_setting_wants_none(live: str, settings: Settings) -> None:
    """An undo itself can always be undone, whatever the setting says of restores."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    settings.PGSNAP = {"ENABLED": True, "UNDO": False}

    undo()
    undo()

    assert authors() == []


def test_undo_of_several_databases(lives: dict[str, str]) -> None:
    """All databases of a restore are swapped back together."""
    take("both")
    for alias in lives:
        write(f"in {alias}", alias=alias)
    restore("both")

    assert undo().aliases == ("default", "other")

    assert [authors(alias) for alias in lives] == [["in default"], ["in other"]]


def test_undo_survives_its_snapshot(live: str) -> None:
    """The undo needs nothing of the snapshot, which may be gone."""
    take("seeded")
    write("Ursula")
    restore("seeded")

    delete("seeded")
    undo()

    assert authors() == ["Ursula"]


def test_undo_when_the_live_database_is_missing(live: str, server: Server, sql: RunSql) -> None:
    """The undo takes the place of a live database that was dropped."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    settle(server)
    connections.close_all()
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    undo()

    assert authors() == ["Ursula"]
    assert overview().undos == ()


def test_busy_session_stops_an_undo(live: str, server: Server) -> None:
    """An undo that a busy session stops leaves everything as it was."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    before = settle(server)

    with in_transaction(server, live), pytest.raises(DatabaseBusyError):
        undo(wait_s=0)

    assert settle(server) == before
    undo(force=True)
    assert authors() == ["Ursula"]
