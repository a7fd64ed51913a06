"""Values out of JSON that anybody may have written: each is of the type asked for, or an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

_INTEGERS_END: Final = 2**63


def parse(document: str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is none, or has what only Python takes for JSON, such as ``NaN``.
        RecursionError: It is nested too deeply.
    """
    return json.loads(document, parse_constant=_refuse)


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def text(value: object) -> str:
    """Return a text that can be sent anywhere."""
    if type(value) is not str:
        raise TypeError
    value.encode()  # JSON can spell lone surrogates, which no terminal or server takes
    return value


def optional_text(value: object) -> str | None:
    """Return a text, or None."""
    return None if value is None else text(value)


def integer(value: object) -> int:
    """Return a number of something, or -1."""
    if type(value) is not int:
        raise TypeError
    if not -1 <= value < _INTEGERS_END:
        raise ValueError(value)
    return value


def number(value: object) -> float:
    """Return a finite number that is not negative."""
    if type(value) is not float and type(value) is not int:
        raise TypeError
    read = float(value)
    if not 0 <= read < _INTEGERS_END:
        raise ValueError(value)
    return read


def flag(value: object) -> bool:
    """Return yes or no."""
    if type(value) is not bool:
        raise TypeError
    return value


def moment(value: object) -> datetime:
    """Return a moment in UTC; without a time zone it is none."""
    read = datetime.fromisoformat(text(value))
    if read.utcoffset() is None:
        raise ValueError(value)
    return read.astimezone(UTC)


def pairs(value: object) -> tuple[tuple[str, str], ...]:
    """Return what an object maps to texts, sorted."""
    return tuple(sorted((text(key), text(each)) for key, each in _mapping(value).items()))


def groups(value: object) -> tuple[tuple[str, str], ...]:
    """Return what an object maps to lists of texts, as one pair for each of these, sorted."""
    return tuple(
        sorted(
            (text(key), text(each))
            for key, several in _mapping(value).items()
            for each in _listing(several)
        )
    )


def _mapping(value: object) -> dict[object, object]:
    if type(value) is not dict:
        raise TypeError
    return value


def _listing(value: object) -> list[object]:
    if type(value) is not list:
        raise TypeError
    return value
