"""Values and files in terms that are the same in every process and every checkout of a project."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.utils.functional import Promise

# Python, this package and what is installed are told by their versions. Editable installations lie
# elsewhere, so that their files count as the project's.
_INSTALLED: Final = (
    *{
        f"{os.path.realpath(path)}{os.sep}"
        for path in (
            str(Path(__file__).parents[2]),
            *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
            # The system's or the user's own, which a virtual environment may look into.
            *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))),
        )
    },
)

# What lies there is no file, whatever the system says.
_PSEUDO: Final = ("/dev/", "/proc/", "/run/", "/sys/")

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")

# How deep a look goes; what lies deeper is told by its type alone. An object without a `repr` of
# its own may know half the process, so its attributes are deeper than the items of a container.
_DEPTH: Final = 12
_OBJECT: Final = 5

_UNTOLD: Final[tuple[object, ...]] = (object.__repr__,)


def digest_value(value: object) -> str:
    """Return 20 hexadecimal digits that stand for a value."""
    text = repr(make_plain(value)).replace(sys.prefix, "<prefix>")
    return digest_bytes(text.replace(project_root(), "<project>").encode(errors="surrogatepass"))


def digest_bytes(data: bytes) -> str:
    """Return 20 hexadecimal digits that stand for bytes."""
    return hashlib.blake2b(data, digest_size=10).hexdigest()


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
    return getattr(value, "__dict__", None) if type(value).__repr__ in _UNTOLD else None


def digest_file(path: str) -> str:
    """Return a digest of a file, empty where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a hot spot of the start-up
            return digest_bytes(file.read())
    except (OSError, ValueError):
        return ""


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


@cache
def is_own_file(path: str) -> bool:
    """Tell whether a file, by its absolute path, is the project's or its data."""
    return not path.startswith(_PSEUDO) and not os.path.realpath(path).startswith(_INSTALLED)


def name_file(path: str) -> str:
    """Return what a file is called in every checkout of the project."""
    root = project_root()
    if os.path.commonpath([path, root]) == os.path.abspath(os.sep):  # noqa: PTH100  # as text
        return path
    return os.path.relpath(path, root)


def locate_file(name: str) -> str:
    """Return the path of a file in this checkout."""
    return os.path.normpath(os.path.join(project_root(), name))  # noqa: PTH118  # many, perhaps
