"""A snapshot is one whole, whichever part of it a settings file names.

One settings file names two databases, another one only the first of them: another branch, or
another project that shares a database with this one.
"""

from collections.abc import Callable
from contextlib import suppress

import pytest
from psycopg import sql as pg

from django_pgsnap.errors import (
    MissingRightError,
    NothingToUndoError,
    ObstacleError,
    PgsnapError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from django_pgsnap.snapshots.manage import annotate, delete, pin, prune, rename
from django_pgsnap.snapshots.purge import purge
from django_pgsnap.snapshots.queries import get, list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, MakeLive, MakeRole, RunSql
from tests.histories.looking import only, published_sets, split_sets
from tests.servers import Server
from tests.watching import Recorder, authors, settle, write

HOUSEKEEPING: dict[str, Callable[[], object]] = {
    "delete": lambda: delete("m"),
    "rename": lambda: rename("m", "n"),
    "annotate": lambda: annotate("m", "another note"),
    "pin": lambda: pin("m"),
    "prune": lambda: prune(keep=0),
    "purge": purge,
    "take --replace": lambda: take("m", replace=True),
}


@pytest.mark.parametrize("verb", HOUSEKEEPING)
def test_part_is_never_changed_alone(verb: str, lives: dict[str, str], server: Server) -> None:
    """Where the settings name one of two databases, both parts are changed, or none is."""
    take("m")

    with only("default"), suppress(PgsnapError):
        HOUSEKEEPING[verb]()

    settle(server)
    assert split_sets(server) == []


@pytest.fixture
def two_roles(make_live: MakeLive, role: MakeRole) -> dict[str, str]:
    """Two live databases on one server, each with an ordinary role of its own."""
    return {alias: make_live(alias, user=role(alias)) for alias in ("default", "other")}


@pytest.mark.parametrize("verb", HOUSEKEEPING)
def test_part_of_another_role(verb: str, two_roles: dict[str, str], server: Server) -> None:
    """Where the other part is another role's to change, nothing is, and the role is named."""
    take("m")
    before = published_sets(server)

    with only("default"), suppress(MissingRightError, SnapshotExistsError):
        HOUSEKEEPING[verb]()

    settle(server)
    assert published_sets(server) == before


@pytest.fixture
def owned_apart(lives: dict[str, str], role: MakeRole, sql: RunSql) -> dict[str, str]:
    """Two live databases of a superuser's project that belong to a role each."""
    for alias, name in lives.items():
        hand_over(sql, name, role(alias))
    return lives


def hand_over(sql: RunSql, database: str, owner: str) -> None:
    sql(pg.SQL("ALTER DATABASE {} OWNER TO {}").format(*map(pg.Identifier, (database, owner))))


@pytest.mark.parametrize("verb", ["delete", "prune", "purge"])
def test_part_of_another_owner_goes_too(
    verb: str, owned_apart: dict[str, str], server: Server
) -> None:
    """What a superuser deletes is dropped, whoever it belongs to, its spare too."""
    take("m")
    settle(server)

    with only("default"):
        HOUSEKEEPING[verb]()

    assert [each.name for each in settle(server)] == sorted(owned_apart.values())


@pytest.fixture
def handed_over(owned_apart: dict[str, str], role: MakeRole, sql: RunSql) -> list[str]:
    """Live databases with a snapshot and a replaced state, of which the second has a new owner."""
    take("m")
    for alias in owned_apart:
        write("WORK", alias=alias)
    restore("m")
    hand_over(sql, owned_apart["other"], role("heir"))
    return sorted(owned_apart.values())


@pytest.mark.parametrize("verb", ["delete", "pin", "prune", "purge"])
def test_part_of_the_former_owner(verb: str, handed_over: list[str], server: Server) -> None:
    """It is changed with the others by who may do that."""
    HOUSEKEEPING[verb]()

    left = [each.name for each in settle(server) if "undo" not in each.name]
    assert split_sets(server) == []
    assert verb == "pin" or left == handed_over


def test_part_of_the_former_owner_is_adopted(handed_over: list[str], sql: RunSql) -> None:
    """It does not become live before that, and the errors give the statements."""
    for verb, error in (
        (undo, NothingToUndoError),
        (lambda: restore("m"), SnapshotNotFoundError),
    ):
        with pytest.raises(error, match="belongs to the role 'other'") as caught:
            verb()
        sql(caught.value.hint.removeprefix("If you know it to be yours, run: "))
        verb()

    assert authors("default") == authors("other") == []


def test_state_of_the_former_owner_is_not_denied(
    handed_over: list[str], role: MakeRole, sql: RunSql
) -> None:
    """Where nothing of what is kept counts, undo says so rather than that nothing is kept."""
    hand_over(sql, handed_over[0], "heir")
    hand_over(sql, handed_over[1], "heir")

    with pytest.raises(NothingToUndoError, match="There is a replaced state of"):
        undo()


def test_two_roles_are_undone_together(two_roles: dict[str, str]) -> None:
    """What roles of one server have restored together is one state."""
    take("m")
    for alias in two_roles:
        write("WORK", alias=alias)
    restore("m")
    assert [each.completeness for each in overview().undos] == ["complete"]

    with only("default"), pytest.raises(ObstacleError):
        undo()
    undo()

    assert authors("default") == authors("other") == ["WORK"]


@pytest.mark.parametrize("verb", ["delete", "rename", "annotate", "pin"])
def test_other_server_out_of_reach(
    verb: str, two_servers: Server, server: Server, live_pair: dict[str, str]
) -> None:
    """Where the other part is on a server that the settings do not name, the verb refuses."""
    taken = take("m")
    before = published_sets(server, two_servers)

    with only("default"), pytest.raises(PgsnapError) as caught:
        HOUSEKEEPING[verb]()

    assert live_pair["other"] in str(caught.value)
    assert "other" in str(caught.value)
    assert published_sets(server, two_servers) == before
    assert list_snapshots()[0].set_id == taken.set_id


def test_purge_leaves_what_is_out_of_reach(
    two_servers: Server, server: Server, live_pair: dict[str, str]
) -> None:
    """Neither a snapshot nor a replaced state loses the part that the settings do name."""
    take("m")
    for alias in live_pair:
        write("WORK", alias=alias)
    restore("m")
    recorder = Recorder()

    with only("default"):
        assert purge(reporter=recorder) == []

    assert [live_pair["other"] in each for each in recorder.warnings] == [True, True]
    assert split_sets(server, two_servers) == []
    undo()
    assert authors("default") == authors("other") == ["WORK"]


def test_undo_of_two_databases(lives: dict[str, str]) -> None:
    """What was restored together is undone together, or undo refuses."""
    take("m")
    for alias in lives:
        write("WORK", alias=alias)
    restore("m")

    with only("default"), suppress(PgsnapError):
        undo()

    assert authors("default") == authors("other")


def test_replacing_after_a_rename(lives: dict[str, str], server: Server) -> None:
    """Replacing a snapshot never takes a part of another one."""
    take("y")
    with only("default"), suppress(PgsnapError):
        rename("y", "x")

    with suppress(PgsnapError):
        take("x", replace=True)

    settle(server)
    assert split_sets(server) == []


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "y",
    ],
)
def test_show_and_take_agree(name: str, lives: dict[str, str]) -> None:
    """A name is either that of a snapshot or free."""
    take("y")
    with only("default"), suppress(PgsnapError):
        rename("y", "x")

    is_there, is_free = True, True
    try:
        get(name)
    except SnapshotNotFoundError:
        is_there = False
    try:
        take(name)
    except PgsnapError:
        is_free = False

    assert is_there is not is_free


def test_part_outside_the_settings_is_not_lost(lives: dict[str, str]) -> None:
    """A restore under the smaller settings names the database outside, and advises no delete."""
    take("m")

    with only("default"), pytest.raises(PgsnapError) as caught:
        restore("m")

    assert lives["other"] in str(caught.value)
    assert "delete" not in str(caught.value)


def test_list_tells_of_parts_outside(lives: dict[str, str], call: Call) -> None:
    """A list under the smaller settings says that it sees a part."""
    take("m")
    with only("default"):
        part = call("pgsnap", "list").stdout
        there = list_snapshots()

        take("whole")
        whole = call("pgsnap", "list").stdout

    assert there
    (line,) = (line for line in part.splitlines() if " m " in f" {line} ")
    (complete,) = (line for line in whole.splitlines() if "whole" in line)
    assert line.replace("m", "whole", 1).split() != complete.split()
    assert "other" in part


@pytest.mark.parametrize("verb", ["delete", "rename", "annotate", "pin"])
def test_part_within_reach_is_changed_with_it(
    verb: str, lives: dict[str, str], server: Server
) -> None:
    """What is on the same server belongs to it, though the settings do not name its database."""
    taken = take("m")

    with only("default"):
        HOUSEKEEPING[verb]()

    settle(server)
    parts = published_sets(server).get(taken.set_id, [])
    assert [(each.name, each.note, each.pinned) for each in parts] == {
        "delete": [],
        "rename": [("n", "", False)] * 2,
        "annotate": [("m", "another note", False)] * 2,
        "pin": [("m", "", True)] * 2,
    }[verb]


def test_three_states(lives: dict[str, str], sql: RunSql, server: Server) -> None:
    """A snapshot is complete, or partly outside of the settings, or has lost a part."""
    taken = take("m", spare=False)
    with only("default"):
        (seen,) = list_snapshots()
    name = next(each.database.name for each in taken.members if each.alias == "other")
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(name)))
    with only("default"):
        (left,) = list_snapshots()

    assert taken.completeness == "complete"
    assert (seen.completeness, [part.database for part in seen.elsewhere]) == (
        "partly outside",
        [lives["other"]],
    )
    assert (left.completeness, left.elsewhere) == ("part lost", ())


def test_newest_is_the_newest_whole(lives: dict[str, str]) -> None:
    """Without a name the newest is meant, though it has parts that are not asked for."""
    with only("default"):
        take("one")
    take("both")

    with only("default"), pytest.raises(ObstacleError, match="'both' also holds"):
        restore()

    assert restore(databases=["default"]).name == "both"


def test_undo_names_what_is_outside(lives: dict[str, str]) -> None:
    """An undo that cannot bring back all of a state says what is missing, and changes nothing."""
    take("m")
    for alias in lives:
        write("WORK", alias=alias)
    restore("m")

    with only("default"), pytest.raises(ObstacleError) as caught:
        undo()
    with pytest.raises(ObstacleError):
        undo(databases=["default"])

    assert lives["other"] in str(caught.value)
    undo()
    assert authors("default") == authors("other") == ["WORK"]


def test_prune_leaves_what_is_out_of_reach(two_servers: Server, live_pair: dict[str, str]) -> None:
    """Pruning does not touch a snapshot of which a part is on a server that is not asked."""
    taken = take("m")

    with only("default"):
        assert prune(keep=0) == []
    assert [each.set_id for each in list_snapshots()] == [taken.set_id]
    assert [each.name for each in prune(keep=0)] == ["m"]


def test_state_out_of_reach_stays(lives: dict[str, str]) -> None:
    """However many states newer settings keep, one that they name only a part of stays whole."""
    take("both")
    for alias in lives:
        write("WORK", alias=alias)
    restore("both")
    with only("default"):
        take("one")
        for name in ("one", "two", "three", "four"):
            write(name)
            restore("one")

    assert overview().undos[-1].aliases == ("default", "other")
    assert len(overview().undos) == 4
