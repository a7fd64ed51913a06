"""Texts for people: English wherever they go, but the admin can translate them.

A message remembers the template that it was made of, and what filled it. The command line, JSON,
logs and exceptions show it as it is; the admin shows it by `translate`.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.template.defaultfilters import filesizeformat
from django.utils.formats import date_format
from django.utils.timesince import timesince
from django.utils.timezone import localtime
from django.utils.translation import gettext


class Message(str):
    """A sentence in English that knows what it was made of."""

    __slots__ = ("template", "values")
    template: str
    values: Mapping[str, object]


def message(template: str, /, **values: object) -> Message:
    """Return a template, with its braces filled if there are values; other messages may be some."""
    # An error may be written to a file: nothing but plain values goes there.
    plain = {
        name: value if isinstance(value, str | int | float | datetime) else str(value)
        for name, value in values.items()
    }
    shown = {
        name: format_ago(value) if isinstance(value, datetime) else value
        for name, value in plain.items()
    }
    made = Message(template.format(**shown) if plain else template)
    made.template, made.values = template, plain
    return made


def join_messages(separator: str, parts: Iterable[object]) -> Message:
    """Return several sentences, or things that messages name, as one."""
    values = {f"part{number}": part for number, part in enumerate(parts)}
    return message(separator.join(f"{{{name}}}" for name in values), **values)


def describe_wait(wait_s: float, awaited: object) -> Message:
    """Return for whom one waits, and for how long at most."""
    if math.isinf(wait_s):
        return message("Waiting for {awaited}", awaited=awaited)
    return message("Waiting up to {wait_s:g} s for {awaited}", wait_s=wait_s, awaited=awaited)


def translate(text: str) -> str:
    """Return a message in the active language; any other text as it is."""
    if not isinstance(text, Message) or not text:
        return text
    values = {name: _translate_value(value) for name, value in text.values.items()}
    template = gettext(text.template)
    return template.format(**values) if values else template


def _translate_value(value: object) -> object:
    if isinstance(value, datetime):
        return format_moment(value)
    return translate(value) if isinstance(value, str) else value


def format_moment(moment: datetime) -> str:
    """Return a moment in local time, as the active language writes it."""
    return date_format(localtime(moment), "DATETIME_FORMAT")


def format_size(size_bytes: int) -> str:
    """Return a size as people write it: ``8.0 MB``."""
    return filesizeformat(size_bytes).replace("\xa0", " ")


def format_age(moment: datetime) -> str:
    """Return how long ago a moment was, roughly: ``5 minutes``."""
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
