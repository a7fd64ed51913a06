"""What is read inside a live database, before it is copied."""

import pytest
from psycopg import sql as pg

from django_pgsnap.postgres import inspection
from django_pgsnap.postgres.inspection import Contents, read_contents, read_sequence_positions
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs

MIGRATIONS = """
    CREATE TABLE django_migrations (id serial, app text, name text, applied timestamptz);
    INSERT INTO django_migrations (app, name)
    VALUES ('testapp', '0002'), ('testapp', '0001'), ('auth', '0001'), ('auth', '0001')
"""


@pytest.fixture
def inside(make_database: MakeDatabase, session_as: SessionAs) -> Session:
    """A session on the live database, which names what is in it without its schema."""
    session = session_as(database=make_database("live"))
    session.execute(pg.SQL("SET search_path = public"))
    return session


def positions_after(session: Session, *statements: str) -> tuple[tuple[int, tuple[int, bool]], ...]:
    for statement in statements:
        session.execute(pg.SQL(statement))
    return tuple(read_sequence_positions(session).items())


def test_empty_database(inside: Session) -> None:
    """An empty database holds nothing."""
    contents = read_contents(inside)

    assert contents == Contents(migrations=(), unlogged=(), relations=contents.relations)


def test_relations(inside: Session) -> None:
    """A table is counted with what has a file of its own beside it."""
    before = read_contents(inside).relations

    inside.execute(pg.SQL("CREATE TABLE t (id serial PRIMARY KEY, name text)"))

    # The table, its sequence, its index, and what holds long texts, with an index.
    assert read_contents(inside).relations == before + 5


def test_migrations(inside: Session) -> None:
    """Applied migrations are told sorted, each once."""
    inside.execute(pg.SQL(MIGRATIONS))

    assert read_contents(inside).migrations == (
        ("auth", "0001"),
        ("testapp", "0001"),
        ("testapp", "0002"),
    )


def test_migrations_in_another_schema(inside: Session, sql: RunSql, session_as: SessionAs) -> None:
    """Migrations are found where the search path leads, as Django finds them."""
    sql("CREATE SCHEMA app; SET search_path = app;" + MIGRATIONS, dbname="live")
    before = read_contents(inside).migrations

    sql("ALTER DATABASE live SET search_path = nowhere, app")

    assert before == ()
    assert len(read_contents(session_as(database="live")).migrations or ()) == 3


def test_what_may_not_be_read(inside: Session, role: MakeRole, session_as: SessionAs) -> None:
    """A role that may not read a table learns nothing, and does not fail."""
    inside.execute(pg.SQL(MIGRATIONS))
    inside.execute(pg.SQL("CREATE UNLOGGED TABLE cache ()"))

    contents = read_contents(session_as(role(), database="live"))

    assert contents == Contents(migrations=None, unlogged=("cache",), relations=contents.relations)


def test_sequences_in_any_position(inside: Session) -> None:
    """Each position of a sequence, called or not, is told from all others."""
    positions = [
        positions_after(inside, "CREATE SEQUENCE odd"),
        positions_after(inside, "SELECT nextval('odd')"),
        positions_after(inside, "SELECT nextval('odd')"),
        positions_after(inside, "SELECT setval('odd', 2, false)"),
        positions_after(inside, "SELECT setval('odd', 7)"),
        positions_after(inside, 'CREATE SCHEMA "Ö %"; CREATE SEQUENCE "Ö %"."a""b"'),
    ]

    assert len(set(positions)) == len(positions)
    assert positions_after(inside, "SELECT setval('odd', 7)") == positions[-1]


def test_temporary_sequences_do_not_count(inside: Session) -> None:
    """What goes with a session is no part of what the database holds."""
    assert positions_after(inside) == positions_after(inside, "CREATE TEMPORARY SEQUENCE mine")


def test_sequence_that_was_made_anew(inside: Session) -> None:
    """Another sequence under the same name is another one."""
    before = positions_after(inside, "CREATE SEQUENCE odd")

    assert positions_after(inside, "DROP SEQUENCE odd; CREATE SEQUENCE odd") != before


def test_copy_has_the_same_positions(
    inside: Session, session: Session, session_as: SessionAs
) -> None:
    """A clone's sequences are where its source's were."""
    before = positions_after(inside, "CREATE SEQUENCE one; CREATE SEQUENCE two START 7")
    inside.close()

    session.execute(pg.SQL("CREATE DATABASE copy TEMPLATE live"))

    assert positions_after(session_as(database="copy")) == before


def test_many_sequences(inside: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences are read a part at a time, and every part counts."""
    monkeypatch.setattr(inspection, "_SEQUENCES_PER_QUERY", 2)
    before = positions_after(inside, *(f"CREATE SEQUENCE s{number}" for number in range(5)))

    assert positions_after(inside, "SELECT nextval('s0')") != before
    middle = positions_after(inside)
    assert positions_after(inside, "SELECT nextval('s4')") not in {before, middle}


def test_unlogged(inside: Session) -> None:
    """Unlogged tables are named, so that they can be found; nothing else is."""
    inside.execute(
        pg.SQL(
            'CREATE UNLOGGED TABLE "My cache" (id serial PRIMARY KEY);'
            " CREATE SCHEMA other; CREATE UNLOGGED TABLE other.cache ();"
            " CREATE TABLE logged (); CREATE TEMPORARY TABLE temporary ()"
        )
    )

    assert read_contents(inside).unlogged == ('"My cache"', "other.cache")
