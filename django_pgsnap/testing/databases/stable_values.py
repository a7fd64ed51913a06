"""Values and names of files that are the same in every process and every checkout of a project."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final

from django.conf import settings
from django.utils.functional import Promise

from .file_reads import digest_bytes

# A directory of `tempfile` means the same each time, whatever it is called. So does the one that it
# makes them in, which may be another one in each process.
_TEMPORARY: Final = "<temporary>"
_MADE_THERE: Final = re.compile(
    re.escape(_TEMPORARY + os.sep + tempfile.gettempprefix()) + "[a-z0-9_]{8}(?![a-z0-9_])"
)

# What begins the digest of a value that cannot be told, because the project's code fails.
UNKNOWN: Final = "?"

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")

# How deep a look goes; what lies deeper is told by its type alone. An object without a `repr` of
# its own may know half the process, so its attributes are deeper than the items of a container.
_DEPTH: Final = 12
_OBJECT: Final = 5

_REPR: Final[object] = object.__repr__


def digest_value(value: object) -> str:
    return digest_result(lambda: value)


def digest_result(read: Callable[[], object]) -> str:
    """Return 20 hexadecimal digits that stand for what a function returns.

    Where code of the project fails, its `repr` or `deconstruct` for instance, it is `UNKNOWN`
    with the error.
    """
    try:
        text = repr(make_plain(read()))
    except Exception as error:  # noqa: BLE001  # whatever that code raises
        return f"{UNKNOWN}{type(error).__name__}: {error}"
    text = text.replace(sys.prefix, "<prefix>").replace(project_root(), "<project>")
    text = _MADE_THERE.sub(_TEMPORARY, text.replace(tempfile.gettempdir(), _TEMPORARY))
    return digest_bytes(text.encode(errors="surrogatepass"))


def make_plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return something that looks the same wherever the value means the same."""
    if isinstance(value, str | Promise):
        return str(value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        items = (
            [[str(key), make_plain(each, depth - 1)] for key, each in value.items()]
            if depth > 0
            else [len(value)]
        )
        return sorted(items, key=repr)
    if isinstance(value, list | tuple | set | frozenset):
        items = [make_plain(each, depth - 1) for each in value] if depth > 0 else []
        return items if isinstance(value, list | tuple) else sorted(items, key=repr)
    inside = _attributes(value)
    if inside is None:
        return _ADDRESS.sub("", repr(value))
    return [make_plain(type(value)), make_plain(inside, depth - _OBJECT) if depth > 0 else None]


def _attributes(value: Any) -> object:
    """Return what an object is made of, None where its `repr` says it."""
    if hasattr(value, "deconstruct"):
        return value.deconstruct()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return getattr(value, "__dict__", None) if type(value).__repr__ is _REPR else None


@cache
def project_root() -> str:
    """Return the directory from which the project's modules are imported."""
    module = sys.modules.get(settings.SETTINGS_MODULE or "")
    path: str | None = getattr(module, "__file__", None)
    if module is None or path is None:
        return os.getcwd()  # noqa: PTH109  # as text
    is_package = os.path.basename(path) == "__init__.py"  # noqa: PTH119  # the same
    for _ in range(module.__name__.count(".") + 1 + is_package):
        path = os.path.dirname(path)  # noqa: PTH120  # the same
    return os.path.abspath(path)  # noqa: PTH100  # the same


def name_file(path: str) -> str:
    """Return what a file is called in every checkout of the project."""
    root = project_root()
    path = os.path.abspath(path)  # noqa: PTH100  # as text
    if os.path.commonpath([path, root]) == os.path.abspath(os.sep):  # noqa: PTH100  # as text
        return path
    return os.path.relpath(path, root)


def locate_file(name: str) -> str:
    """Return the path of a file in this checkout."""
    return os.path.normpath(os.path.join(project_root(), name))  # noqa: PTH118  # many, perhaps
