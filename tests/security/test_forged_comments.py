"""Databases of others that say they are ours: none is restored, listed as ours, used or dropped."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.db import connections
from hypothesis import example, given, settings
from psycopg import sql as pg

from django_pgsnap.clones import catalog
from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.names import new_identity, spare_name
from django_pgsnap.clones.records import (
    MAX_CHARACTERS,
    MAX_FOREIGN_CHARACTERS,
    Record,
    decode_record,
    encode_record,
)
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ConfigurationError, PgsnapError, SnapshotNotFoundError
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ROLE_PASSWORD, MakeRole, RunSql
from tests.records import CHANGES, comment_with, copy_record
from tests.security.conftest import MALLORY, Attacker, victim
from tests.servers import SUPERUSER, Server
from tests.suites.project import Project
from tests.watching import authors, oids, settle, write

PARAMETERS = {"invalid": -2, "longest": MAX_CHARACTERS, "foreign": MAX_FOREIGN_CHARACTERS}


def imitation(original: Record, **changes: object) -> Record:
    """Return what says the same as a real record, of another database, taken in the future."""
    future = datetime.now(UTC) + timedelta(days=365)
    return replace(original, identity=new_identity(), taken_at=future, **changes)  # type: ignore[arg-type]


def forge_for_each_owner(attacker: Attacker, original: Record, **changes: object) -> set[str]:
    """Imitate a database under every relation to the victim, and return the imitations' names."""
    fakes = [(imitation(original, **changes), owner) for owner in attacker.owners]
    return {
        attacker.forge(fake.database, owner=owner, comment=encode_record(fake))
        for fake, owner in fakes
    }


@pytest.mark.parametrize("same_set", [True, False])
def test_copy(same_set: bool, attacker: Attacker, server: Server) -> None:
    """A comment like that of a snapshot's copy makes none of a database of another role.

    A restore without a name takes the newest snapshot, which the imitation claims to be. Its set
    id may even be that of the real one, so that it would become part of it.
    """
    write("Ursula")
    real = take("seeded").members[0].record
    changes = {} if same_set else {"set_id": new_identity(), "name": "newest"}
    forged = forge_for_each_owner(attacker, real, **changes)
    write("Stanisław")

    assert [(each.name, len(each.members)) for each in list_snapshots()] == [("seeded", 1)]
    assert restore().name == "seeded"
    assert authors() == ["Ursula"]

    if not same_set:
        with pytest.raises(SnapshotNotFoundError) as caught:
            delete("newest")
        assert any(f"the role '{owner}'" in str(caught.value) for owner in attacker.owners)
    take("seeded", replace=True)
    delete("seeded")
    assert forged <= oids(settle(server)).keys()


def test_undo(attacker: Attacker, server: Server) -> None:
    """What undo swaps back is what a restore replaced, not what says so of itself."""
    write("Ursula")
    take("seeded")
    write("Stanisław")
    restore("seeded")
    (real,) = overview().undos
    forged = forge_for_each_owner(attacker, real.members[0].record, set_id=new_identity())

    undo()

    assert authors() == ["Stanisław", "Ursula"]
    restore("seeded")
    assert forged <= oids(settle(server)).keys()


def test_live_database_is_gone(
    victim_live: str, attacker: Attacker, sql: RunSql, server: Server
) -> None:
    """Where the live database is missing, our own role's copies count, however new others are."""
    write("Ursula")
    real = take("seeded").members[0].record
    for name in ("seeded", "newest"):
        forge_for_each_owner(attacker, real, set_id=new_identity(), name=name)
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(victim_live)))

    assert [each.name for each in list_snapshots()] == ["seeded"]
    with pytest.raises(SnapshotNotFoundError):
        restore("newest")
    restore()

    assert authors() == ["Ursula"]
    (found,) = (each for each in settle(server) if each.name == victim_live)
    assert found.owner == victim()


def test_live_database_is_gone_and_only_others_have_copies(
    live: str, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """Nobody can tell a superuser whether another role's copy is what it says, but themselves.

    So it is named, with the statement by which they adopt it.
    """
    role()
    sql(pg.SQL("ALTER DATABASE {} OWNER TO ordinary").format(pg.Identifier(live)))
    write("Ursula")
    copy = take("seeded", spare=False).members[0].database.name
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    assert list_snapshots() == ()
    with pytest.raises(SnapshotNotFoundError) as caught:
        restore()

    assert caught.value.message == (
        f"There is no snapshot 'seeded' of '{live}' that counts: the database '{copy}' says it is "
        "one, but belongs to the role 'ordinary', and the live database is gone, whose owner would "
        "count."
    )
    adopt = f'CREATE DATABASE "{live}" OWNER "ordinary";'
    assert caught.value.hint == f"If you know it to be yours, run: {adopt}"
    sql(adopt)
    restore()
    assert authors() == ["Ursula"]
    (found,) = (each for each in settle(server) if each.name == live)
    assert found.owner == "ordinary"


@pytest.mark.parametrize("victim_live", ["superuser"], indirect=True)
def test_same_name_by_the_live_databases_owner(
    victim_live: str, attacker: Attacker, sql: RunSql, server: Server
) -> None:
    """Of two snapshots of one name, ours and the live database's owner's, none is chosen."""
    sql(pg.SQL("ALTER DATABASE {} OWNER TO mallory").format(pg.Identifier(victim_live)))
    write("Ursula")
    theirs = take("seeded", spare=False).members[0].record
    ours = replace(theirs, identity=new_identity(), set_id=new_identity())
    settle(server)
    sql(pg.SQL("CREATE DATABASE {} TEMPLATE template0").format(pg.Identifier(ours.database)))
    sql(
        pg.SQL("COMMENT ON DATABASE {} IS {}").format(
            pg.Identifier(ours.database), encode_record(ours)
        )
    )

    for verb in (restore, delete):
        with pytest.raises(PgsnapError) as caught:
            verb("seeded")
        assert f"'{ours.database}' of 'postgres'" in caught.value.message
        assert f"'{theirs.database}' of 'mallory'" in caught.value.message


@pytest.fixture
def suite(victim_live: str, project: Project) -> Project:
    """A project whose tests run as superuser, or as an ordinary role, and have done so once."""
    if victim() != SUPERUSER:
        access = {"USER": victim(), "PASSWORD": ROLE_PASSWORD}
        project.settings["DATABASES"]["default"].update(access)
    assert project.test() == ["first"]
    return project


def template_of(server: Server) -> Record:
    """Return what is written down about the template that the suite's run has left."""
    (record,) = (each for each in map(decode_record, comments(server)) if each)
    assert record.kind == "template"
    return record


def comments(server: Server) -> list[str | None]:
    """Return the comments of all databases, once the server has done what it was sent off to do."""
    return [database.comment for database in settle(server)]


def test_spare_of_a_template(
    suite: Project, attacker: Attacker, sql: RunSql, server: Server
) -> None:
    """A test run takes no database of others for its template's spare, nor drops it."""
    spare = spare_name(template_of(server).identity)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(spare)))
    attacker.forge(spare)
    oid = oids(settle(server))[spare]

    assert suite.test() == []

    assert oids(settle(server))[spare] == oid


@pytest.mark.parametrize("later", [True, False])
def test_template(
    later: bool, suite: Project, attacker: Attacker, sql: RunSql, server: Server
) -> None:
    """A test run clones no template of others, neither as it is nor to migrate it further."""
    real = template_of(server)
    for name in (real.database, spare_name(real.identity)):
        sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(name)))
    attacker.forge(real.database, comment=encode_record(real))
    oid = oids(settle(server))[real.database]
    if later:
        suite.add_data("0003_more", "second", before="0002_data")
        suite.expect("first", "second")

    assert suite.test() == ["first", "second"][: 1 + later]

    assert oids(settle(server))[real.database] == oid


def test_copy_of_a_project_of_theirs(attacker: Attacker, server: Server) -> None:
    """What a copy of another role's own database says of speeds decides nothing about ours."""
    write("Ursula")
    real = take("seeded", spare=False).members[0].record
    attacker.forge("theirs", owner=MALLORY)
    fake = imitation(real, set_id=new_identity(), source="theirs", clone_rate=1e15)
    attacker.forge(fake.database, owner=MALLORY, comment=encode_record(fake))

    again = take("again", spare=False).members[0].record

    assert again.clone_rate == real.clone_rate != 1e15


@pytest.mark.parametrize("kind", ["copy", "spare", "undo"])
def test_database_in_use_as_an_alias(kind: str, live: str, server: Server) -> None:
    """What DATABASES names is never renamed or dropped, though it is a copy, spare or undo."""
    take("seeded")
    settle(server)
    restore("seeded")
    present = settle(server)
    prefix = {"copy": "pgsnap_", "spare": "pgsnap_spare_", "undo": "pgsnap_undo_"}[kind]
    (named,) = (each.name for each in present if each.name[:-16] == prefix)
    django_settings.DATABASES["reports"] = {**django_settings.DATABASES["default"], "NAME": named}
    try:
        for operation in (
            lambda: delete("seeded"),
            lambda: take("seeded", replace=True, databases=["default"]),
            lambda: restore("seeded", databases=["default"]),
            lambda: undo(databases=["default"]),
        ):
            with pytest.raises(ConfigurationError) as caught:
                operation()
            assert caught.value.message == (
                f"DATABASES names '{named}', which holds a snapshot, a spare or a replaced state."
            )
    finally:
        del connections["reports"], django_settings.DATABASES["reports"]

    assert settle(server) == present


def test_bent_comments(victim_live: str, attacker: Attacker, sql: RunSql, server: Server) -> None:
    """Whatever another role writes into a comment like ours: it is none, and breaks nothing."""
    write("Ursula")
    take("seeded", spare=False)
    fake = attacker.forge(copy_record().database, owner=MALLORY)

    @settings(max_examples=40)
    @given(comment=CHANGES.map(lambda changes: comment_with(**changes)))
    @example(comment=comment_with())
    @example(comment=comment_with(kind="undo"))
    @example(comment=comment_with(pgsnap=2))
    @example(comment=comment_with(note="x" * 1024**2))
    @example(comment='{"pgsnap":1,"migrations":' + '{"a":' * 100_000)
    def check(comment: str) -> None:
        ours = comment.replace('"source": "live"', f'"source": "{victim_live}"')
        sql(pg.SQL("COMMENT ON DATABASE {} IS {}").format(pg.Identifier(fake), ours))

        seen = overview(everyone=True)
        assert ([each.name for each in seen.snapshots], seen.undos) == (["seeded"], ())
        assert {each.object for each in diagnose().problems} <= {fake}

    check()
    restore("seeded")
    undo()
    take("seeded", replace=True)
    delete("seeded")
    assert fake in oids(settle(server))


@pytest.mark.parametrize("victim_live", ["superuser"], indirect=True)
def test_huge_comment_is_left_on_the_server(session: Session, attacker: Attacker) -> None:
    """A comment that is too long to be one of ours is not even fetched."""
    fake = copy_record()
    attacker.forge(fake.database, comment=encode_record(fake) + " " * MAX_FOREIGN_CHARACTERS)

    found = load_catalog(session)
    (fetched,) = (
        row[-1] for row in session.rows(catalog._DATABASES, PARAMETERS) if row[1] == fake.database
    )

    assert found.databases[fake.database].record is None
    assert fetched is None
