"""Texts for people: values in their words, and what is safe to print."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_pgsnap.messages import format_age, format_ago, format_seconds, format_size, printable


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (8 * 1024**2, "8.0 MB"), (3 * 1024**4, "3.0 TB")],
)
def test_size(size_bytes: int, text: str) -> None:
    """A size has a unit that suits it, behind a plain space."""
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("ago", "age", "sentence"),
    [
        (timedelta(), "now", "just now"),
        (timedelta(seconds=59), "now", "just now"),
        (timedelta(minutes=1), "1 minute", "1 minute ago"),
        (timedelta(hours=3, minutes=20), "3 hours", "3 hours ago"),
        (timedelta(days=800), "2 years", "2 years ago"),
        (timedelta(days=-1), "now", "just now"),
    ],
)
def test_age(ago: timedelta, age: str, sentence: str) -> None:
    """An age has one unit; less than a minute, and another machine's future, are now."""
    moment = datetime.now(UTC) - ago

    assert (format_age(moment), format_ago(moment)) == (age, sentence)


def test_age_of_the_oldest_moment() -> None:
    """The first moment there is has an age, too."""
    assert format_age(datetime.min.replace(tzinfo=UTC)).endswith(" years")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00 s"), (1.234, "1.23 s"), (10.0, "10 s"), (99.6, "100 s")]
)
def test_seconds(value: float, text: str) -> None:
    """Short durations have hundredths, long ones have not."""
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("before the import", "before the import"),
        ("two\nlines\tand\r", "two lines and "),
        ("\x1b[2Jgone", "�[2Jgone"),
        ("\x9b31mred", "�31mred"),
        ("evil\u202etxt", "evil�txt"),
        ("👩\u200d💻 नि\u200cया", "👩\u200d💻 नि\u200cया"),
        ("a\u2028b\u2029c", "a�b�c"),
        ("caf\udce9", "caf�"),
    ],
)
def test_printable(text: str, printed: str) -> None:
    """What would steer a terminal is replaced; joiners, which emoji are made with, are not."""
    assert printable(text) == printed


@given(st.text(st.characters()))
@example("\x85\x1c")
def test_printable_is_one_line(text: str) -> None:
    """Whatever a text holds, it is printed on one line, in any encoding of Unicode."""
    printed = printable(text)

    assert len(printed) == len(text)
    assert len(printed.splitlines()) <= 1
    assert printed.encode().decode() == printed
