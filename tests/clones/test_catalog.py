"""The catalog: which databases of a server are ours, and what each of them is."""

from collections.abc import Callable
from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql as pg

from django_pgsnap.clones.catalog import Database, load_catalog
from django_pgsnap.clones.names import copy_name, spare_name, to_drop_name, unfinished_name
from django_pgsnap.clones.records import Record, encode_record
from django_pgsnap.clones.transitions import comment_on_database, rewrite_comment
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs
from tests.records import IDENTITY, copy_record, make_copy, undo_record

OTHER_IDENTITY = "00112233445566ff"
COPY = copy_name(IDENTITY)
SPARE = spare_name(IDENTITY)

Shut = Callable[..., str]


@pytest.fixture
def live(make_database: MakeDatabase) -> str:
    return make_database("live")


@pytest.fixture
def shut(make_database: MakeDatabase, sql: RunSql) -> Shut:
    """Makes a database as ours are: shut, perhaps with a comment, perhaps half dropped."""

    def make(
        name: str, *, owner: str = "postgres", comment: str | None = None, valid: bool = True
    ) -> str:
        make_database(name, owner=owner)
        command = "ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
        sql(pg.SQL(command).format(pg.Identifier(name)))
        sql(comment_on_database(name, comment))
        if not valid:
            sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", [name])
        return name

    return make


def copies(session: Session, *sources: str) -> list[str]:
    return [each.name for each in load_catalog(session).copies(sources or None)]


def leftovers(session: Session, sources: tuple[str, ...] = ("live",)) -> list[str]:
    return [each.name for each in load_catalog(session).leftovers(sources, {"live"})]


def test_live_database(live: str, session: Session, sql: RunSql) -> None:
    """A live database is an ordinary row, without a record."""
    (oid,) = sql("SELECT oid::bigint FROM pg_database WHERE datname = 'live'")[0]
    present = load_catalog(session)

    assert present.databases["live"] == Database(
        oid=oid,
        name="live",
        owner="postgres",
        owner_oid=10,
        trusted=True,
        is_shut=False,
        is_valid=True,
        record=None,
    )
    assert "live" in present.databases
    assert present.databases.get("nowhere") is None
    assert "nowhere" not in present.databases


def test_published(live: str, session: Session) -> None:
    """A copy and an undo are told by their comments, those of a live database by its name."""
    copy, undo = copy_record(), undo_record(identity=OTHER_IDENTITY)
    make_copy(session, copy)
    make_copy(session, undo)

    present = load_catalog(session)

    assert [each.record for each in present.copies()] == [copy]
    assert [each.record for each in present.undos()] == [undo]
    assert [each.record for each in present.copies(["live"])] == [copy]
    assert present.copies(["other"]) == []
    assert present.undos(["other"]) == []
    assert present.untrusted() == []
    assert present.databases[COPY].is_shut


texts = st.text(max_size=20)


@settings(max_examples=20)
@given(
    record=st.builds(
        copy_record,
        note=texts,
        git_branch=texts,
        comment=st.none() | texts,
        taken_at=st.datetimes(timezones=st.just(UTC)),
        migrations=st.sets(st.tuples(texts, texts)).map(lambda keys: tuple(sorted(keys))),
        seconds=st.floats(0, 1e9),
        size_bytes=st.integers(0, 2**63 - 1),
    )
)
def test_record_survives_the_server(record: Record, session: Session, shut: Shut) -> None:
    """Whatever is written into a comment is read back from the server as it was."""
    if COPY not in load_catalog(session).databases:
        shut(COPY)

    session.execute(rewrite_comment(record))

    assert load_catalog(session).databases[COPY].record == record


def test_comment_on_another_database(live: str, session: Session, shut: Shut) -> None:
    """A comment that pg_dump carried to another database makes it no copy."""
    make_copy(session, copy_record())
    shut("restored_elsewhere", comment=encode_record(copy_record()))
    shut(copy_name(OTHER_IDENTITY), comment=encode_record(copy_record()))

    assert copies(session) == [COPY]
    assert load_catalog(session).untrusted() == []
    assert leftovers(session) == []


def test_imitation(
    role: MakeRole, session_as: SessionAs, session: Session, make_database: MakeDatabase, shut: Shut
) -> None:
    """A database that another role made to look exactly like a copy is none, and is told."""
    make_database("live", owner=role())
    shut(COPY, owner=role("mallory"), comment=encode_record(copy_record()))

    for each in (session_as("ordinary"), session):
        assert copies(each) == []
        assert [database.name for database in load_catalog(each).untrusted()] == [COPY]
    assert copies(session_as("mallory")) == [COPY]


def test_role_that_we_are_a_member_of(
    role: MakeRole, session_as: SessionAs, make_database: MakeDatabase, shut: Shut, sql: RunSql
) -> None:
    """What belongs to a group that our role inherits from is not ours: who may put us into it?"""
    make_database("live", owner=role())
    shut(COPY, owner=role("team"), comment=encode_record(copy_record()))

    sql("GRANT team TO ordinary")

    assert copies(session_as("ordinary")) == []


def test_owner_of_the_live_database(
    role: MakeRole, session: Session, session_as: SessionAs, make_database: MakeDatabase, shut: Shut
) -> None:
    """Copies that belong to the live database's owner count for everybody who looks."""
    make_database("live", owner=role())
    shut(COPY, owner="ordinary", comment=encode_record(copy_record()))

    assert copies(session) == copies(session_as(role("colleague"))) == [COPY]


def test_live_database_is_gone(
    role: MakeRole, session: Session, session_as: SessionAs, shut: Shut
) -> None:
    """Where nobody is left to compare with, each role is shown its own, a superuser too."""
    shut(COPY, owner=role(), comment=encode_record(copy_record()))

    assert copies(session_as("ordinary")) == [COPY]
    assert copies(session) == copies(session_as(role("colleague"))) == []
    assert [each.name for each in load_catalog(session).untrusted()] == [COPY]


def test_half_dropped_copy(live: str, session: Session, shut: Shut) -> None:
    """A copy whose DROP was interrupted is no copy, but a leftover."""
    shut(COPY, comment=encode_record(copy_record()), valid=False)

    assert copies(session) == []
    assert leftovers(session) == [COPY]


def test_half_dropped_database_of_somebody(live: str, session: Session, shut: Shut) -> None:
    """What is half dropped and was never ours is left alone, even with a comment like ours."""
    shut("app", valid=False)
    shut("restored_elsewhere", comment=encode_record(copy_record()), valid=False)

    assert leftovers(session) == []


def test_spare(live: str, session: Session, shut: Shut) -> None:
    """A shut database with a spare's name is the spare of the copy with its identity."""
    make_copy(session, copy_record())
    shut(SPARE)

    present = load_catalog(session)

    assert present.spares.get(IDENTITY) == present.databases[SPARE]
    assert list(present.spares.values()) == [present.databases[SPARE]]
    assert present.spares.get(OTHER_IDENTITY) is None
    assert leftovers(session) == []


@pytest.mark.parametrize(
    "spoil",
    [
        "ALTER DATABASE {} ALLOW_CONNECTIONS true",
        "ALTER DATABASE {} CONNECTION LIMIT -1",
        "ALTER DATABASE {} OWNER TO mallory",
    ],
)
def test_spare_that_somebody_touched(
    spoil: str, role: MakeRole, live: str, session: Session, shut: Shut
) -> None:
    """A spare that clients could have come into, or somebody else's, is not used, nor dropped."""
    role("mallory")
    make_copy(session, copy_record())
    shut(SPARE)

    session.execute(pg.SQL(spoil).format(pg.Identifier(SPARE)))

    present = load_catalog(session)
    assert present.spares.get(IDENTITY) is None
    assert list(present.spares.values()) == []
    assert leftovers(session) == []


def test_half_dropped_spare(live: str, session: Session, shut: Shut) -> None:
    """A spare whose DROP was interrupted is not used, and a leftover."""
    make_copy(session, copy_record())
    shut(SPARE, valid=False)

    assert load_catalog(session).spares.get(IDENTITY) is None
    assert leftovers(session) == [SPARE]


def test_spare_without_its_copy(live: str, session: Session, shut: Shut) -> None:
    """A spare whose copy is gone is a leftover."""
    shut(SPARE)

    assert load_catalog(session).spares.get(IDENTITY) is None
    assert leftovers(session) == [SPARE]


@pytest.mark.parametrize("namer", [unfinished_name, to_drop_name])
def test_unpublished(namer: Callable[[str], str], live: str, session: Session, shut: Shut) -> None:
    """What is unfinished or to be dropped is a leftover, half dropped or not."""
    expected = [shut(namer(IDENTITY)), shut(namer(OTHER_IDENTITY), valid=False)]

    assert leftovers(session) == expected


@pytest.mark.parametrize(
    "name",
    [
        "pgsnap",
        "pgsnap_notes",
        "pgsnap_new_notes",
        f"pgsnap_new_{IDENTITY}x",
        f"pgsnap_new_{IDENTITY.upper()}",
        f"my_pgsnap_drop_{IDENTITY}",
        COPY,
    ],
)
def test_only_exact_names_are_leftovers(name: str, live: str, session: Session, shut: Shut) -> None:
    """A database that is merely called something similar is nobody's to drop."""
    shut(name)

    assert leftovers(session) == []


def test_open_database_is_no_leftover(
    live: str, session: Session, make_database: MakeDatabase, shut: Shut, sql: RunSql
) -> None:
    """What somebody can connect to is not dropped, whatever it is called."""
    make_database(unfinished_name(IDENTITY))
    half = shut(unfinished_name(OTHER_IDENTITY))
    sql(pg.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(pg.Identifier(half)))

    assert leftovers(session) == []


def test_live_database_is_no_leftover(session: Session, shut: Shut) -> None:
    """What DATABASES names is not dropped, whatever it is called."""
    name = shut(to_drop_name(IDENTITY))

    assert load_catalog(session).leftovers([], {name}) == []


def test_leftover_of_another_role(
    role: MakeRole, session: Session, session_as: SessionAs, make_database: MakeDatabase, shut: Shut
) -> None:
    """What belongs to another role is a leftover only if the live database does, too."""
    make_database("live", owner=role())
    ours = shut(to_drop_name(IDENTITY), owner="ordinary")
    theirs = shut(to_drop_name(OTHER_IDENTITY), owner=role("mallory"))

    assert leftovers(session) == leftovers(session_as("ordinary")) == [ours]
    assert leftovers(session, ()) == []
    assert leftovers(session_as("mallory"), ("nowhere",)) == [theirs]
