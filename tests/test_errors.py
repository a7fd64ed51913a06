"""Errors: what they say, and what can be caught."""

import pytest

from django_pgsnap import errors
from django_pgsnap.errors import CopyFailedError, DatabaseBusyError, PgsnapError

CLASSES = [each for each in vars(errors).values() if isinstance(each, type)]


def test_says_cause_and_remedy() -> None:
    """An error reads as its message, then its hint on a line of its own."""
    error = DatabaseBusyError("Somebody is there.", hint="Ask them to go.")

    assert str(error) == "Somebody is there.\nAsk them to go."


def test_says_the_cause_alone() -> None:
    """Without a hint there is no second line."""
    assert str(CopyFailedError("The disk is full.")) == "The disk is full."


@pytest.mark.parametrize("error", CLASSES)
def test_is_caught_as_one(error: type[Exception]) -> None:
    """Whoever catches `PgsnapError` catches all of them, and each says what it stands for."""
    assert issubclass(error, PgsnapError)
    assert error.__doc__
