"""The assertion about what code did to the database."""

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from django_pgsnap.testing.assertions import DatabaseChangesMixin, Expected
from tests.testapp.models import Author, Book

ADA: Expected = {"testapp.Author": {"changed": {"name"}}, "testapp.Book": {"removed": 2}}

check_database_changes = DatabaseChangesMixin().assertDatabaseChanges


@pytest.fixture
def ada(live: str) -> Author:
    """An author with two books, and one who is of no concern."""
    Author.objects.create(name="Bob")
    author = Author.objects.create(name="Ada")
    Book.objects.create(title="one", author=author)
    Book.objects.create(title="two", author=author)
    return author


def erase(author: Author) -> None:
    author.books.all().delete()
    author.name = "erased"
    author.save()


@pytest.mark.parametrize("is_atomic", [False, True])
def test_as_expected(ada: Author, is_atomic: bool) -> None:
    """Exactly these changes pass, inside a transaction too, and no query of the test is counted."""
    with CaptureQueriesContext(connection) as queries:
        if is_atomic:
            with transaction.atomic(), check_database_changes(ADA):
                erase(ada)
        else:
            with check_database_changes(ADA):
                erase(ada)

    assert not any("pg_class" in query["sql"] for query in queries.captured_queries)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({}, "testapp.Author: 1 changed in name, expected 0"),
        ({**ADA, "testapp.Book": {"removed": 1}}, "testapp.Book: 2 removed, expected 1"),
        (
            {**ADA, "testapp.Author": {"changed": {"name", "id"}}},
            "testapp.Author: 1 changed in name, expected changed columns id, name",
        ),
        ({**ADA, "testapp.Genre": {"added": 1}}, "testapp.Genre: 0 added, expected 1"),
        ({**ADA, "testapp.Book": {"gone": 2}}, "testapp.Book: no such kind of change: gone"),
    ],
)
def test_otherwise(ada: Author, expected: Expected, message: str) -> None:
    """What is missing, and what is too much, is named with examples."""
    with pytest.raises(AssertionError) as caught, check_database_changes(expected):
        erase(ada)

    assert message in str(caught.value)


def test_examples_say_what_changed(ada: Author) -> None:
    """The message shows old and new values of the rows that changed."""
    with pytest.raises(AssertionError) as caught, check_database_changes({}):
        erase(ada)

    assert "    changed name: 'Ada' -> 'erased'" in str(caught.value).splitlines()


def test_tables_of_one_name_in_two_schemas(ada: Author) -> None:
    """A label stands for the table that the search path finds; others have their schema's name."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA aside CREATE TABLE testapp_author (id int)")
        cursor.execute("CREATE SCHEMA other CREATE TABLE testapp_author (id int)")
        with check_database_changes({"testapp.Author": {"changed": {"name"}}}):
            Author.objects.filter(name="Ada").update(name="erased")
        with check_database_changes({"other.testapp_author": {"added": 1}}):
            cursor.execute("INSERT INTO other.testapp_author VALUES (1)")
        transaction.set_rollback(True)


def test_values_are_told_apart_as_the_server_shows_them(live: str) -> None:
    """NULL is no text, and neither tabs nor a table without columns are in the way."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bare (); CREATE TABLE notes (id int PRIMARY KEY, note text)")
        cursor.execute(r"INSERT INTO notes VALUES (1, NULL), (2, E'a\tb\n\\N')")
        with pytest.raises(AssertionError) as caught, check_database_changes({}):
            cursor.execute("INSERT INTO bare DEFAULT VALUES; UPDATE notes SET note = 'x'")
        transaction.set_rollback(True)

    assert str(caught.value).splitlines()[1:] == [
        "  bare: 1 added, expected 0",
        "    added ",
        "  notes: 2 changed in note, expected 0",
        "    changed note: 'a\\tb\\n\\\\N' -> 'x'",
        "    changed note: None -> 'x'",
    ]
