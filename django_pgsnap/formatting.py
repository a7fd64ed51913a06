"""Values in people's words: sizes, ages, and texts that are safe to print."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from django.template.defaultfilters import filesizeformat
from django.utils.timesince import timesince


def format_size(size_bytes: int) -> str:
    """Return a size as people write it: ``8.0 MB``."""
    return filesizeformat(size_bytes).replace("\xa0", " ")


def format_age(moment: datetime) -> str:
    """Return how long ago a moment was, roughly: ``5 minutes``."""
    if moment >= datetime.now(UTC):  # another machine's clock
        return "now"
    text = timesince(moment, depth=1).replace("\xa0", " ")
    return "now" if text.startswith("0 ") else text


def format_ago(moment: datetime) -> str:
    """Return how long ago a moment was, as part of a sentence: ``5 minutes ago``."""
    text = format_age(moment)
    return "just now" if text == "now" else f"{text} ago"


def format_seconds(value: float) -> str:
    """Return a duration in seconds, as precisely as it matters."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"  # noqa: PLR2004


def printable(text: str) -> str:
    """Return a text on one line, without what would steer a terminal or turn its direction."""
    return "".join(
        " " if character in "\n\r\t" else "�" if _steers(character) else character
        for character in text
    )


def _steers(character: str) -> bool:
    # Cc: control characters, escape sequences begin with one. Zl, Zp: ends of lines. Cs: halves of
    # characters, which cannot be written. Cf: invisible format characters, those that reverse the
    # direction of writing among them; joiners are parts of emoji.
    category = unicodedata.category(character)
    return category in {"Cc", "Zl", "Zp", "Cs"} or (category == "Cf" and character not in "‌‍")
