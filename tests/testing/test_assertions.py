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
