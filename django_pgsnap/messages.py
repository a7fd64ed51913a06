"""Sentences for people: English wherever they go, but the admin can translate them.

A message remembers the template that it was made of, and what filled it. The command line, JSON,
logs and exceptions show it as it is; the admin shows it by `translate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

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
    made = Message(template.format(**plain) if plain else template)
    made.template, made.values = template, plain
    return made


def join_messages(separator: str, parts: Iterable[str]) -> Message:
    """Return several sentences as one."""
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
    values = {
        name: translate(value) if isinstance(value, str) else value
        for name, value in text.values.items()
    }
    template = gettext(text.template)
    return template.format(**values) if values else template
