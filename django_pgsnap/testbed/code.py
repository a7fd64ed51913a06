"""The project's code that migrations run, and what of the settings and environment it reads.

Code of installed distributions is known by their versions. The rest is found by following imports,
from the text of the files: to import them would take longer than all else.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeGuard

_INSTALLED: Final = tuple(
    f"{os.path.realpath(path)}{os.sep}"
    for path in {
        str(Path(__file__).parents[1]),
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


@dataclass(kw_only=True)
class Code:
    """The project's files that some modules consist of, directly or by import.

    Attributes:
        files: Their modules and contents, by path.
        settings: Names of the settings that they read.
        variables: Names of the environment variables that they read.
    """

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    settings: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)


def is_installed(path: str) -> bool:
    """Tell whether a file belongs to Python or an installed distribution, not to the project."""
    return os.path.realpath(path).startswith(_INSTALLED)


def reached_from(modules: Iterable[str]) -> Code:
    """Return the project's code that is run when these modules are imported."""
    code = Code()
    waiting = [part for module in modules for part in _with_parents(module)]
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path is None or path in code.files or is_installed(path):
            continue
        code.files[path] = (module, Path(path).read_bytes())
        for name in _read(code, path, module):
            fresh = [part for part in _with_parents(name) if part not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return code


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


def _read(code: Code, path: str, module: str) -> Iterator[str]:
    """Note what a file reads, and yield what it may import."""
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    try:
        tree = ast.parse(code.files[path][1], path)
    except SyntaxError:
        return  # nothing can import it either
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr.isupper():
            code.settings.add(node.attr)
        elif isinstance(node, ast.Constant) and _is_name(node.value):
            # settings and os.environ are asked by name in many ways: getattr, get, [].
            code.settings.add(node.value)
            code.variables.add(node.value)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isupper() and value.isidentifier()


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)
