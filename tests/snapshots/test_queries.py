"""What there is: of this project, and of the whole server."""

from dataclasses import replace

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.records import encode_record
from django_pgsnap.errors import NothingToUndoError, SnapshotNotFoundError
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.manage import delete, rename
from django_pgsnap.snapshots.queries import get, list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot, group_members
from tests.conftest import Call, MakeLive, MakeRole, RunSql
from tests.project import point
from tests.servers import Server
from tests.watching import authors, oids, settle, write


def test_nothing_yet(live: str) -> None:
    """Before anything is taken there is nothing."""
    found = overview()

    assert (found.snapshots, found.undos, found.occupied_bytes) == ((), (), 0)


def test_all_that_is_occupied(live: str, server: Server) -> None:
    """What is occupied counts copies, their spares, and the undo."""
    size = take("seeded").size_bytes
    settle(server)
    assert overview().occupied_bytes == 2 * size

    take("other", spare=False)
    write("Ursula")
    restore("seeded")
    settle(server)

    kept = overview()
    assert kept.occupied_bytes == 3 * size + kept.undos[0].size_bytes


def test_get_without_a_name(live: str) -> None:
    """Without a name it is the newest."""
    take("first", spare=False)
    newest = take("second", spare=False)

    assert get() == newest
    assert get("first").name == "first"


def test_listing_disturbs_nobody(live: str, server: Server) -> None:
    """Looking needs no lock and ends no session, and works while another operation runs."""
    take("seeded", spare=False)
    with server.connect(live) as client, server.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_key(live)])

        assert [each.name for each in list_snapshots()] == ["seeded"]

        assert client.execute("SELECT 1").fetchone() == (1,)


def test_two_projects_on_one_server(live: str, make_live: MakeLive) -> None:
    """Each project sees its own snapshots, also where both have one of the same name."""
    write("of the first")
    first = take("seeded")
    second_live = make_live()
    write("of the second")
    second = take("seeded")
    write("since")

    restore("seeded")

    assert authors() == ["of the second"]
    assert len(list_snapshots()) == 1
    assert get("seeded").set_id == second.set_id
    assert {each.set_id for each in list_snapshots(everyone=True)} == {first.set_id, second.set_id}
    point("default", NAME=live)
    assert authors() == ["of the first"]
    assert get("seeded").set_id == first.set_id
    assert second_live != live


def test_other_projects_are_left_alone(live: str, make_live: MakeLive, server: Server) -> None:
    """Nothing that one project does touches another's databases, its spare and undo neither."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    before = oids(settle(server))
    make_live()
    take("mine")

    with pytest.raises(SnapshotNotFoundError):
        restore("seeded")
    with pytest.raises(SnapshotNotFoundError):
        delete("seeded")
    with pytest.raises(SnapshotNotFoundError):
        rename("seeded", "stolen")
    with pytest.raises(NothingToUndoError):
        undo()
    write("Stanisław")
    restore("mine")
    take("mine", replace=True)
    delete("mine")

    assert before.items() <= oids(settle(server)).items()
    point("default", NAME=live)
    undo()
    assert authors() == ["Ursula"]


def test_names_are_counted_by_project(live: str, make_live: MakeLive) -> None:
    """The names snap1, snap2, … begin anew in each project."""
    take(spare=False)
    make_live()

    assert take(spare=False).name == "snap1"


def test_list_all(live: str, make_live: MakeLive, call: Call) -> None:
    """The command lists this project's, and with --all the server's with their databases' names."""
    take("first", spare=False)
    second = make_live()
    take("second", spare=False)

    mine = call("pgsnap", "list").stdout
    everyones = call("pgsnap", "list", "--all").stdout

    assert ("second" in mine, "first" in mine) == (True, False)
    rows = {line.split()[0]: line for line in everyones.splitlines()[1:3]}
    assert rows.keys() == {"first", "second"}
    assert live in rows["first"]
    assert second in rows["second"]


def test_databases_narrow_the_list(lives: dict[str, str]) -> None:
    """With databases=[…] only their parts are seen."""
    take("both", spare=False)
    take("one", databases=["other"], spare=False)

    assert [each.name for each in list_snapshots(databases=["default"])] == ["both"]
    assert [each.name for each in list_snapshots(databases=["other"])] == ["one", "both"]
    assert not get("both", databases=["default"]).is_complete
    assert get("both").is_complete


def test_imitated_comment_counts_for_nothing(
    live: str, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """A database of another role is no snapshot, whatever its comment says."""
    record = take("seeded", spare=False).members[0].record
    imitation = replace(record, identity="0" * 16, set_id="1" * 16, name="fake")
    fake = pg.Identifier(imitation.database)
    sql(
        pg.SQL("CREATE DATABASE {} OWNER {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0").format(
            fake, pg.Identifier(role("stranger"))
        )
    )
    sql(pg.SQL("COMMENT ON DATABASE {} IS {}").format(fake, pg.Literal(encode_record(imitation))))

    assert [each.name for each in list_snapshots()] == ["seeded"]
    assert [each.name for each in list_snapshots(everyone=True)] == ["seeded"]
    with pytest.raises(SnapshotNotFoundError):
        delete("fake")
    take("other", spare=False)
    assert imitation.database in oids(settle(server))


def test_part_that_was_dropped_by_other_means(lives: dict[str, str], sql: RunSql) -> None:
    """A snapshot that has lost a part is listed as what it is: incomplete."""
    lost = take("both", spare=False).members[1].database.name
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(lost)))

    (snapshot,) = list_snapshots()

    assert not snapshot.is_complete
    assert snapshot.aliases == ("default",)


def test_two_of_one_name(lives: dict[str, str], sql: RunSql) -> None:
    """Of two snapshots of one name the newest complete one is meant."""
    older, newer, newest = (take(name, spare=False) for name in ("older", "newer", "newest"))
    for member in (*newer.members, *newest.members):
        record = replace(member.record, name="older")
        comment = pg.SQL("COMMENT ON DATABASE {} IS {}")
        sql(comment.format(pg.Identifier(record.database), pg.Literal(encode_record(record))))
    assert get("older").set_id == newest.set_id

    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(newest.members[0].database.name)))

    assert get("older").set_id == newer.set_id != older.set_id


def test_parts_are_in_order(lives: dict[str, str]) -> None:
    """The parts of a snapshot are in the order of their aliases, whichever copy was first."""
    snapshot = take("both", spare=False)

    (found,) = group_members(Snapshot, snapshot.members[::-1], [], [])

    assert found.aliases == ("default", "other")
