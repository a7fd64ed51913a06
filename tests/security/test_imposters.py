"""Databases of others that look like ours: none is restored, listed as ours, or dropped."""

from collections.abc import Callable
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
from django_pgsnap.clones.records import MAX_CHARACTERS, Record, encode_record
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ConfigurationError, ObstacleError, SnapshotNotFoundError
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.undo import undo
from tests.conftest import MakeRole, RunSql
from tests.records import CHANGES, comment_with, copy_record
from tests.servers import SUPERUSER, Server
from tests.watching import authors, oids, settle, write

MALLORY = "mallory"

# A name that the sweep would know, and what can be wrong with it: open, or somebody else's.
UNPUBLISHED = ["pgsnap_new_{}", "pgsnap_drop_{}", "pgsnap_spare_{}"]
SHUT = "ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
OPEN = ""

PARAMETERS = {"invalid": -2, "longest": MAX_CHARACTERS}

Make = Callable[..., str]


@pytest.fixture
def make(sql: RunSql, role: MakeRole) -> Make:
    """Makes a database, shut unless told otherwise, with a comment; usually another role's."""
    role(MALLORY)

    def make(
        name: str, *, owner: str = MALLORY, options: str = SHUT, comment: str | None = None
    ) -> str:
        command = pg.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} " + options)
        sql(command.format(pg.Identifier(name), pg.Identifier(owner)))
        sql(pg.SQL("COMMENT ON DATABASE {} IS {}").format(pg.Identifier(name), comment))
        return name

    return make


def imitation(original: Record, **changes: object) -> Record:
    """Return what says the same as a real record, of another database, taken in the future."""
    future = datetime.now(UTC) + timedelta(days=365)
    return replace(original, identity=new_identity(), taken_at=future, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=["superuser", "ordinary"])
def project(request: pytest.FixtureRequest) -> str:
    """The name of a live database, in a project that connects as superuser, or as its owner."""
    return str(request.getfixturevalue("live" if request.param == "superuser" else "live_owned"))


@pytest.mark.parametrize("same_set", [True, False])
def test_imitated_copy_is_none(same_set: bool, project: str, make: Make, server: Server) -> None:
    """A comment like that of a snapshot's copy makes none of a database of another role.

    A restore without a name takes the newest snapshot, which the imitation claims to be. Its set
    id may even be that of the real one, so that it would become part of it.
    """
    write("Ursula")
    real = take("seeded").members[0].record
    changes = {} if same_set else {"set_id": new_identity(), "name": "newest"}
    fake = imitation(real, **changes)
    make(fake.database, comment=encode_record(fake))
    write("Stanisław")

    assert [(each.name, len(each.members)) for each in list_snapshots()] == [("seeded", 1)]
    assert restore().name == "seeded"
    assert authors() == ["Ursula"]

    if not same_set:
        with pytest.raises(SnapshotNotFoundError):
            delete("newest")
    take("seeded", replace=True)
    delete("seeded")
    assert fake.database in oids(settle(server))


def test_imitated_undo_is_none(project: str, make: Make, server: Server) -> None:
    """What undo swaps back is what a restore replaced, not what says so of itself."""
    write("Ursula")
    take("seeded")
    write("Stanisław")
    restore("seeded")
    (real,) = overview().undos
    fake = imitation(real.members[0].record, set_id=new_identity())
    make(fake.database, comment=encode_record(fake))

    undo()

    assert authors() == ["Stanisław", "Ursula"]
    restore("seeded")
    assert fake.database in oids(settle(server))


@pytest.mark.parametrize(("owner", "options"), [(MALLORY, SHUT), (MALLORY, OPEN), (None, OPEN)])
def test_foreign_database_is_not_swept(
    owner: str | None, options: str, project: str, make: Make, server: Server
) -> None:
    """Unless a leftover is shut, and belongs to us, it stays, whatever it is called.

    That goes for a superuser too, who could drop it.
    """
    owner = owner or django_settings.DATABASES["default"]["USER"]
    made = {make(name.format(new_identity()), owner=owner, options=options) for name in UNPUBLISHED}

    take("seeded")
    restore("seeded")
    take("seeded", replace=True)
    delete("seeded")

    assert made <= oids(settle(server)).keys()


@pytest.mark.parametrize("options", [SHUT, OPEN], ids=["shut", "open"])
@pytest.mark.parametrize(
    "ended_by", [lambda: delete("first"), lambda: take("second")], ids=["delete", "take"]
)
def test_foreign_spare_is_not_dropped(
    options: str,
    ended_by: Callable[[], object],
    live: str,
    make: Make,
    server: Server,
) -> None:
    """A database of another role that is called like a copy's spare is neither used nor dropped."""
    write("Ursula")
    copy = take("first", spare=False).members[0].record
    foreign = make(spare_name(copy.identity), options=options)
    oid = oids(settle(server))[foreign]
    write("Stanisław")

    restore("first")
    assert authors() == ["Ursula"]
    ended_by()

    assert oids(settle(server))[foreign] == oid


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
                f"DATABASES names '{named}', which holds a snapshot, a spare or an undo."
            )
    finally:
        del connections["reports"], django_settings.DATABASES["reports"]

    assert settle(server) == present


def test_imitation_of_a_missing_database(
    live: str, role: MakeRole, make: Make, sql: RunSql, server: Server
) -> None:
    """Where the live database is gone, a superuser is told that several roles claim its copies.

    Once the database is there again, its owner says which of them count.
    """
    role("app")
    sql(pg.SQL("ALTER DATABASE {} OWNER TO app").format(pg.Identifier(live)))
    write("Ursula")
    real = take("seeded").members[0].record
    fake = imitation(real, set_id=new_identity(), name="newest")
    make(fake.database, comment=encode_record(fake))
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    with pytest.raises(ObstacleError) as caught:
        restore()

    claims = sorted([(real.database, "app"), (fake.database, MALLORY)], key=lambda each: each[1])
    assert str(caught.value) == (
        f"The database '{live}' is gone, and several roles have what looks like copies of it: "
        f"{', '.join(f'{name!r} of {owner!r}' for name, owner in claims)}.\n"
        f'Say whose count: CREATE DATABASE "{live}" OWNER …; then try again.'
    )
    sql(pg.SQL("CREATE DATABASE {} OWNER app").format(pg.Identifier(live)))
    assert restore().name == "seeded"
    assert authors() == ["Ursula"]


@pytest.mark.parametrize("user", [SUPERUSER, "ordinary"])
def test_copies_of_one_owner_bring_a_missing_database_back(
    user: str, role: MakeRole, live: str, sql: RunSql, server: Server
) -> None:
    """Where all copies of a missing database have one owner, a superuser restores them."""
    if user != SUPERUSER:
        role(user)
    sql(pg.SQL("ALTER DATABASE {} OWNER TO {}").format(pg.Identifier(live), pg.Identifier(user)))
    write("Ursula")
    take("seeded")
    settle(server)
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    restore()

    assert authors() == ["Ursula"]


def test_bent_comments(live: str, make: Make, sql: RunSql, server: Server) -> None:
    """Whatever another role writes into a comment like ours: it is none, and breaks nothing."""
    write("Ursula")
    take("seeded", spare=False)
    fake = make(copy_record().database)

    @settings(max_examples=40)
    @given(comment=CHANGES.map(lambda changes: comment_with(**changes)))
    @example(comment=comment_with())
    @example(comment=comment_with(kind="undo"))
    @example(comment=comment_with(pgsnap=2))
    @example(comment=comment_with(note="x" * 1024**2))
    @example(comment='{"pgsnap":1,"migrations":' + '{"a":' * 100_000)
    def check(comment: str) -> None:
        ours = comment.replace('"source": "live"', f'"source": "{live}"')
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


def test_huge_comment_is_left_on_the_server(session: Session, make: Make) -> None:
    """A comment that is too long to be one of ours is not even fetched."""
    fake = copy_record()
    make(fake.database, comment=encode_record(fake) + " " * 4 * 1024**2)

    found = load_catalog(session)
    (fetched,) = (
        row[6] for row in session.rows(catalog._DATABASES, PARAMETERS) if row[1] == fake.database
    )

    assert found[fake.database].record is None
    assert fetched is None
