"""The statements that move a database of ours from one stage to the next."""

import pytest
from psycopg import sql as pg

from django_pgsnap.clones import transitions
from django_pgsnap.clones.names import to_drop_name
from django_pgsnap.clones.records import Record
from django_pgsnap.clones.transitions import (
    comment_on_database,
    join_statements,
    open_database,
    rename_database,
    rewrite_comment,
    shut_database,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import ListDatabases, MakeDatabase
from tests.records import IDENTITY, copy_record, make_copy, undo_record
from tests.state import Database

ODD_NAMES = [
    'we"ird',
    "it's",
    "sp ace",
    "UPPER",
    "Übung №1",
    "100%",
    "%s %(x)s {}",
    "back\\slash",
    "; DROP DATABASE postgres; --",
    "ü" * 31 + "x",
    "$$ $1",
]


def only(databases: ListDatabases) -> Database:
    (database,) = databases()
    return database


def test_together(session: Session, make_database: MakeDatabase, databases: ListDatabases) -> None:
    """Statements that are sent together are one message."""
    make_database("live")

    message = join_statements(
        [comment_on_database("live", "one"), comment_on_database("live", "two")]
    )

    assert message.as_string(None).count(";") == 1
    session.execute(message)
    assert only(databases).comment == "two"


def test_publish(session: Session, make_database: MakeDatabase, databases: ListDatabases) -> None:
    """A finished clone gets its final name and its comment."""
    record = copy_record()
    make_database("live")

    make_copy(session, record)

    assert [(each.name, each.comment is None) for each in databases()] == [
        ("live", True),
        (record.database, False),
    ]


@pytest.mark.parametrize("record", [copy_record(), undo_record()], ids=["copy", "undo"])
def test_retire(
    record: Record, session: Session, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What nobody needs loses name and comment, and is a copy no longer."""
    make_database("live")
    make_copy(session, record)

    session.execute(transitions.unpublish(record))

    assert [(database.name, database.comment) for database in databases()] == [
        ("live", None),
        (to_drop_name(IDENTITY), None),
    ]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_live_and_back(
    name: str, session: Session, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """A database takes a live one's name and properties, and gives them up again."""
    make_database("incoming")
    session.execute(pg.SQL("ALTER DATABASE incoming ALLOW_CONNECTIONS false CONNECTION LIMIT 0"))

    session.execute(open_database("incoming", name, name, limit=7, is_template=True))
    opened = only(databases)
    session.execute(
        join_statements([rename_database(name, "outgoing"), shut_database("outgoing", None)])
    )
    shut = only(databases)

    assert (opened.name, opened.comment, opened.oid) == (name, name, shut.oid)
    assert (opened.allows_connections, opened.connection_limit, opened.is_template) == (
        True,
        7,
        True,
    )
    assert (shut.name, shut.comment) == ("outgoing", None)
    assert (shut.allows_connections, shut.connection_limit, shut.is_template) == (False, 0, False)


def test_recomment(session: Session, make_database: MakeDatabase, databases: ListDatabases) -> None:
    """What changed about a copy is written down in its place."""
    make_database("live")
    make_copy(session, copy_record())

    session.execute(rewrite_comment(copy_record(note='it\'s 100% \\ "new"')))

    comment = databases()[-1].comment
    assert comment is not None
    assert 'it\'s 100% \\\\ \\"new\\"' in comment
