"""The project's code that migrations run, and what of the settings and environment it reads.

Code of installed distributions is known by their versions. The rest is found by following imports,
from the text of the files: to import them would take longer than all else.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from django.conf import settings

from .plain import plain

_INSTALLED: Final = tuple(
    f"{os.path.realpath(path)}{os.sep}"
    for path in {
        str(Path(__file__).parents[1]),
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)

# It has the names of test databases, which are another one in each of several processes.
_KNOWN_OTHERWISE: Final = frozenset({"DATABASES", "PGSNAP"})


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the project.

    Attributes:
        name: Its full name.
        path: Its file.
        text: The file's contents.
        imports: Names of the modules that it may import, with the packages that they are in.
        settings: Names of the settings that it reads.
        variables: Names of the environment variables that it reads.
    """

    name: str
    path: str
    text: bytes
    imports: frozenset[str]
    settings: frozenset[str]
    variables: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Code:
    """The project's modules that some modules consist of, directly or by import."""

    modules: Sequence[Module]

    @property
    def files(self) -> list[tuple[str, bytes]]:
        """The modules' names and contents."""
        return [(module.name, module.text) for module in self.modules]

    @property
    def reads(self) -> list[tuple[str, str | None]]:
        """The settings and environment variables that the modules name, with their values."""
        names = {name for module in self.modules for name in module.settings}
        variables = {name for module in self.modules for name in module.variables}
        known = [
            (name, str(plain(getattr(settings, name))))
            for name in sorted(names - _KNOWN_OTHERWISE)
            if hasattr(settings, name)
        ]
        return [*known, *((name, os.environ.get(name)) for name in sorted(variables))]


class Reader:
    """Finds and reads modules, each once."""

    def __init__(self) -> None:
        """Have nothing read yet."""
        self._read: dict[str, Module | None] = {}

    def reached_from(self, modules: Iterable[str]) -> Code:
        """Return the project's code that is run when these modules are imported."""
        waiting = [part for module in modules for part in _with_parents(module)]
        seen = set(waiting)
        found: dict[str, Module] = {}
        while waiting:
            name = waiting.pop()
            if name not in self._read:
                self._read[name] = _read(name)
            module = self._read[name]
            if module is None or module.path in found:
                continue
            found[module.path] = module
            fresh = module.imports - seen
            seen |= fresh
            waiting.extend(fresh)
        return Code(modules=sorted(found.values(), key=lambda module: module.name))


def is_installed(path: str) -> bool:
    """Tell whether a file belongs to Python or an installed distribution, not to the project."""
    return os.path.realpath(path).startswith(_INSTALLED)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _file(module: str) -> str | None:
    """Return the file of a module, None where it has none in Python."""
    if module in sys.modules:
        path = getattr(sys.modules[module], "__file__", None)
        return path if path is not None and path.endswith(".py") else None
    below = module.replace(".", os.sep)
    for root in sys.path:
        for end in (".py", f"{os.sep}__init__.py"):
            path = os.path.join(root, below + end)  # noqa: PTH118  # a hot spot of the start-up
            if os.path.isfile(path):  # noqa: PTH113  # the same
                return path
    return None


def _read(name: str) -> Module | None:
    """Return a module of the project, None for any other name."""
    path = _file(name)
    if path is None or is_installed(path):
        return None
    text = Path(path).read_bytes()
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    imports: set[str] = set()
    named: set[str] = set()
    quoted: set[str] = set()
    for node in _nodes(text, path):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            imports.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Attribute) and node.attr.isupper():
            named.add(node.attr)
        elif isinstance(node, ast.Constant) and _is_name(node.value):
            # settings and os.environ are asked by name in many ways: getattr, get, [].
            quoted.add(node.value)
    return Module(
        name=name,
        path=path,
        text=text,
        imports=frozenset(part for each in imports for part in _with_parents(each)),
        settings=frozenset(named | quoted),
        variables=frozenset(quoted),
    )


def _nodes(text: bytes, path: str) -> Iterable[ast.AST]:
    try:
        return ast.walk(ast.parse(text, path))
    except SyntaxError:
        return ()  # nothing can import it either


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isupper() and value.isidentifier()


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)
