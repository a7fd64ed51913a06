"""An erased person: in no database but those that we name, and after a purge in none."""

import json
from typing import Any

import pytest

from django_pgsnap.clones.for_tests import run_lock_key
from django_pgsnap.clones.names import copy_name
from django_pgsnap.clones.records import TemplateRecord, decode_record, encode_record
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.purge import list_managed_databases, purge
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from tests.conftest import Call, MakeRole, RunSql, SessionAs
from tests.security.conftest import Attacker
from tests.security.every_kind import make_one_of_each
from tests.servers import Server
from tests.suites.wanted import FACTS
from tests.testapp.models import Author
from tests.watching import Recorder, oids, settle, write

PERSON = "Ursula Kroeber of Berkeley"


def databases_with(person: str, server: Server) -> set[str]:
    """Return the databases in whose files a name is found."""
    present = settle(server)
    with server.connect() as connection:
        connection.execute("CHECKPOINT")
    return {
        database.name
        for database in present
        if any(
            person.encode() in file.read_bytes()
            for file in (server.data_dir / "base" / str(database.oid)).iterdir()
            if file.is_file()
        )
    }


def facts(call: Call, verb: str) -> dict[str, Any]:
    """Return what a command prints as JSON."""
    found: dict[str, Any] = json.loads(call("pgsnap", verb, "--json").stdout)
    return found


@pytest.fixture
def spread(live: str, server: Server, session_as: SessionAs, sql: RunSql) -> str:
    """The live database from which a person was erased who is in one database of each kind."""
    write(PERSON)
    assert databases_with(PERSON, server) == {live}
    make_one_of_each(live, server, session_as, FACTS)
    Author.objects.filter(name=PERSON).delete()
    sql("VACUUM (FULL) testapp_author", dbname=live)
    return live


def test_list_status_and_doctor_name_where_a_person_is_left(
    spread: str, call: Call, server: Server
) -> None:
    """What delete leaves is named by list and status, and counted by the doctor, kind by kind."""
    before = databases_with(PERSON, server)
    call("pgsnap", "delete", "seeded")
    left = databases_with(PERSON, server)

    named = {}
    for verb in ("list", "status"):
        said = facts(call, verb)
        named[verb] = {each["name"] for each in said["beside"]} | {
            member["database"] for undo in said["undos"] for member in undo["members"]
        }
    usage = {each["kind"]: each["databases"] for each in facts(call, "doctor")["usage"]}
    text = "\n".join(call("pgsnap", verb).stdout for verb in ("list", "status"))

    # The copy, its spare and the template made of it are gone.
    assert len(before) == 7
    assert len(left) == 4
    assert named == {"list": left, "status": left}
    assert {kind: usage[kind] for kind in ("copy", "spare", "undo", "template")} == {
        "copy": 0,
        "spare": 0,
        "undo": 1,
        "template": 1,
    }
    assert (usage["run"], usage["test"]) == (1, 1)
    for name in ("Test templates: 1, ", "Clones of pgsnap run: 1, ", "Test databases: 1, "):
        assert text.count(name) == 2


def test_purge_leaves_nobody(spread: str, server: Server) -> None:
    """After a purge an erased person is in no database, and nothing of ours is left."""
    assert len(databases_with(PERSON, server)) == 7

    purge()

    assert databases_with(PERSON, server) == set()
    assert list_managed_databases() == []
    assert [each.name for each in settle(server)] == [spread]


def test_what_is_in_use_stays_and_is_named(spread: str, role: MakeRole, server: Server) -> None:
    """A test database and a clone that are in use stay, and a later purge takes them."""
    (clone,) = (each.name for each in list_managed_databases({"run"}))
    heard = Recorder()
    with server.connect(user=role("another")) as holder:
        for lock in (clone, run_lock_key(f"test_{spread}")):
            holder.execute("SELECT pg_advisory_lock(%s)", [lock_key(lock)])
        purge(reporter=heard)
    left = databases_with(PERSON, server)

    purge()

    assert left == {clone, f"test_{spread}"}
    for name in left:
        (said,) = (each for each in heard.warnings if f"Not dropped: '{name}', which is in" in each)
        assert "may hold the lock without working" in said
    assert databases_with(PERSON, server) == set()


def test_clone_whose_drop_was_interrupted(live: str, sql: RunSql, server: Server) -> None:
    """A clone for a command that was half dropped goes as well, with the next or with a purge."""
    take("seeded", spare=False)
    with open_throwaway("seeded", keep=True) as kept:
        pass
    sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", [kept["default"]])

    assert [each.name for each in list_managed_databases({"run"})] == [kept["default"]]
    purge({"run"})

    assert kept["default"] not in oids(settle(server))


def test_kept_clone_stays(live: str, server: Server) -> None:
    """A clone that was to be kept is not taken for one that a killed command left."""
    take("seeded", spare=False)
    with open_throwaway("seeded", keep=True) as kept:
        pass
    with open_throwaway("seeded") as gone:
        pass

    present = oids(settle(server))
    assert set(kept.values()) <= present.keys()
    assert not set(gone.values()) & present.keys()


@pytest.mark.parametrize("victim_live", ["superuser"], indirect=True)
def test_name_of_the_copy_is_taken(
    victim_live: str, attacker: Attacker, server: Server, session_as: SessionAs
) -> None:
    """A template does not outlive its snapshot because another role has the copy's name."""
    write(PERSON)
    copy = make_one_of_each(victim_live, server, session_as, FACTS)
    (template,) = (
        each.name
        for each in settle(server)
        if isinstance(record := decode_record(each.comment), TemplateRecord) and record.snapshot
    )
    with server.connect() as run:
        run.execute("SELECT pg_advisory_lock_shared(%s)", [lock_key(template)])
        delete("seeded")
    left = oids(settle(server))
    attacker.forge(copy_name(copy.identity), comment=encode_record(copy))

    diagnose(fix=True)

    assert template in left
    assert template not in oids(settle(server))
