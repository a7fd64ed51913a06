"""Databases of others that say they are parts of our snapshots and states: no set has them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.names import new_identity
from django_pgsnap.clones.records import Part, Record, encode_record
from django_pgsnap.comparison.diff import diff
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ObstacleError
from django_pgsnap.snapshots.manage import annotate, delete, pin, prune, refill, rename
from django_pgsnap.snapshots.purge import purge
from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.histories.looking import only
from tests.security.conftest import MALLORY, Attacker, victim
from tests.servers import SUPERUSER, Server
from tests.watching import authors, oids, settle, write

THEIRS = "theirs"


@pytest.fixture(params=["superuser", "ordinary"])
def victim_live(request: pytest.FixtureRequest, make_live: MakeLive, role: MakeRole) -> str:
    """The first live database of a project that has two, as superuser or as their owner."""
    user = SUPERUSER if request.param == "superuser" else role()
    make_live("other", user=user)
    return make_live("default", user=user)


@pytest.fixture
def theirs(attacker: Attacker) -> Attacker:
    """The attacker, who also has a live database of her own."""
    attacker.forge(THEIRS, owner=MALLORY)
    return attacker


def forge_parts(attacker: Attacker, original: Record, source: str = THEIRS) -> set[str]:
    """Make copies of the attacker's own live database that call themselves parts of a set.

    They name the parts that the original names, or themselves beside these, or none.
    """
    ((oid,),) = attacker.sql("SELECT oid FROM pg_roles WHERE rolname = 'mallory'")
    more = Part("other", source, original.parts[0].system, oid)
    fakes = [
        replace(
            original,
            identity=new_identity(),
            source=source,
            alias="other",
            members=members,
            parts=parts,
            taken_at=original.taken_at + timedelta(days=365 * later),
        )
        for members in (1, 2, 3)
        for parts, later in (
            (original.parts, -1),
            ((*original.parts, more), 1),
            ((original.parts[0], more), 0),
            ((), 0),
        )
    ]
    return {
        attacker.forge(fake.database, owner=MALLORY, comment=encode_record(fake)) for fake in fakes
    }


def incomplete() -> list[str]:
    """Return the snapshots that have lost a part, by the doctor's account."""
    return [each.object for each in diagnose().problems if each.kind == "incomplete"]


def drop_part(taken: Snapshot, sql: RunSql, alias: str = "other") -> None:
    """Have a set lose a part."""
    (lost,) = (each.database.name for each in taken.members if each.alias == alias)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(lost)))


def test_verbs(victim_live: str, theirs: Attacker, server: Server) -> None:
    """All verbs work on snapshots and states that others claim to have a part of."""
    write("Ursula")
    taken = take("seeded", databases=["default"], spare=False)
    forged = forge_parts(theirs, taken.members[0].record)

    with only("default"):
        assert [each.completeness for each in overview().snapshots] == ["complete"]
        write("Stanisław")
        assert diff("seeded").tables
        with open_throwaway("seeded") as names:
            assert names.keys() == {"default"}
        assert rename("seeded", "sown").elsewhere == ()
        assert pin("sown", pinned=False).elsewhere == ()
        assert annotate("sown", "a note").elsewhere == ()
        take("sown", replace=True, spare=False)
        (again,) = overview().snapshots
        forged |= forge_parts(theirs, again.members[0].record)
        write("Chinua")
        restore("sown")
        (state,) = overview().undos
        forged |= forge_parts(theirs, state.members[0].record)
        undo()
        assert authors() == ["Chinua", "Stanisław", "Ursula"]
        refill("sown")
        delete("sown")
        taken = take("last", spare=False)
        forged |= forge_parts(theirs, taken.members[0].record)
        assert [each.name for each in prune(keep=0)] == ["last"]
        purge()

    left = settle(server)
    assert forged <= oids(left).keys()
    assert not [each for each in left if each.owner == victim() and each.comment]


def test_lost_part(victim_live: str, theirs: Attacker, sql: RunSql, server: Server) -> None:
    """A part that is lost is not replaced by what says that it is one, and verbs say so."""
    taken = take("seeded", spare=False)
    drop_part(taken, sql)
    forged = forge_parts(theirs, taken.members[0].record)

    assert incomplete() == ["seeded"]
    for kept in (("default", "other"), ("default",)):
        with only(*kept):
            (found,) = overview().snapshots
            assert (found.completeness, found.elsewhere) == ("part lost", ())
            with pytest.raises(ObstacleError, match="only the part of default is there"):
                restore("seeded")
    delete("seeded")

    left = oids(settle(server)).keys()
    assert forged <= left
    assert taken.members[0].database.name not in left


def test_lost_part_and_live_database(
    victim_live: str, attacker: Attacker, sql: RunSql, server: Server
) -> None:
    """Nor by who makes a live database of the name that the lost part was of."""
    taken = take("seeded", spare=False)
    (lost,) = (each.record for each in taken.members if each.alias == "other")
    drop_part(taken, sql)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(lost.source)))
    attacker.forge(lost.source, owner=MALLORY)
    attacker.forge(lost.database, owner=MALLORY, comment=encode_record(lost))
    forged = {lost.database, *forge_parts(attacker, taken.members[0].record, lost.source)}

    with only("default"):
        (found,) = overview().snapshots
        assert (found.completeness, found.elsewhere) == ("part lost", ())
        delete("seeded")

    assert forged <= oids(settle(server)).keys()


def test_history(victim_live: str, theirs: Attacker, server: Server) -> None:
    """States that others claim to have a part of go like all others when newer ones come."""
    take("seeded", databases=["default"], spare=False)
    with only("default"):
        for name in ("one", "two", "three", "four", "five"):
            write(name)
            restore("seeded")
            forge_parts(theirs, overview().undos[0].members[0].record)

        assert len(overview().undos) == 3
    settle(server)
