"""Values as text that is the same in every process in which they mean the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from django.utils.functional import Promise

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def digest(value: object) -> str:
    """Return 64 hexadecimal digits that stand for a value made of plain ones."""
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()


def plain(value: Any) -> Any:  # noqa: PLR0911  # one kind of value each
    """Return something that looks the same in every process where the value means the same."""
    if isinstance(value, str | Promise):
        return str(value)
    if isinstance(value, Mapping):
        return sorted((str(key), plain(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(plain(each)) for each in value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "deconstruct"):
        return plain(value.deconstruct())
    return _ADDRESS.sub("", repr(value))
