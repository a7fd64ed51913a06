"""What a module has from others by importing them: constants, and what was computed of settings.

That happened before anything could watch, so the text tells. Only what is imported in this process
counts: the body of a function counts if that ran, or if a module calls one of this name while it is
imported. Of installed apps only the settings count, since their files are told by their version.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from django.apps import apps
from django.conf import global_settings

from .stable_values import is_own_file

# What they do with settings is known: Django's by name, and this package fills no test database.
_NOT_READ: Final = frozenset({"django", __name__.partition(".")[0]})


@dataclass(kw_only=True)
class _Scope:
    """The body of a module with its classes, or that of a function.

    Attributes:
        line: The function's first line, where decorators begin; 0 for a module.
    """

    name: str = ""
    line: int = 0
    imports: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    quoted: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)


# What was found, by kind: files as ``source`` or, missing, as ``place``; ``setting``; ``variable``.
Found = defaultdict[str, set[str]]


class ImportReader:
    """Follows imports through the text of modules."""

    def __init__(self, executed: Mapping[str, set[int]]) -> None:
        """Know which functions ran, by file and first line."""
        self._executed = executed
        self._modules = {
            str(module.__file__): (name, str(getattr(module, "__package__", None) or ""))
            for name, module in list(sys.modules.items())
            if getattr(module, "__file__", None) and name != "__main__"
        }
        self._app_packages = {config.name.partition(".")[0] for config in apps.get_app_configs()}
        self._app_packages -= _NOT_READ
        self._scopes: dict[str, list[_Scope]] = {}
        self._calls: set[str] = set()

    def follow(self, modules: Iterable[str]) -> Found:
        """Return what the files that ran and these modules have from others."""
        found: Found = defaultdict(set)
        waiting = [*self._executed, *(path for name in modules for path in _files_of(name))]
        while waiting:
            while waiting:
                path = waiting.pop()
                if path not in self._scopes and self._is_read(path):
                    self._scopes[path] = _read_scopes(path, self._modules.get(path, ("", ""))[1])
                    waiting.extend(self._take_scopes(path, found))
            # What one module calls may be a function of one that was read before.
            waiting = [
                file
                for path in self._scopes
                for file in self._take_scopes(path, found)
                if file not in self._scopes and self._is_read(file)
            ]
        return found

    def _is_read(self, path: str) -> bool:
        if not path.endswith(".py"):
            return False
        name = self._modules.get(path, ("", ""))[0]
        return is_own_file(path) or name.partition(".")[0] in self._app_packages

    def _take_scopes(self, path: str, found: Found) -> Iterator[str]:
        """Yield the files that a file's active scopes import, and note what else those say."""
        is_own = is_own_file(path)
        if is_own:
            found["source"].add(path)
        lines = self._executed.get(path, ())
        for scope in self._scopes[path]:
            is_imported = not scope.line or scope.name in self._calls
            is_active = is_imported or scope.line in lines
            # A project's or an app's own settings are few, and often asked for by a helper.
            found["setting"].update(
                name
                for name in scope.settings
                if (is_own and is_active) or not hasattr(global_settings, name)
            )
            if not is_active:
                continue
            if is_imported:
                self._calls |= scope.calls
            found["variable"].update(scope.variables if is_own else ())
            for name in scope.imports:
                yield from _files_of(name)
                found["place"].update(_find_missing(name))


def _files_of(name: str) -> Iterator[str]:
    """Yield the files of a module and of the packages that it is in, as far as they are loaded."""
    while name:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None:
            yield path
        name = name.rpartition(".")[0]


def _find_missing(name: str) -> Iterator[str]:
    """Yield the files that a module's name would be looked for in, where it has none."""
    package, _, last = name.rpartition(".")
    if name in sys.modules or hasattr(sys.modules.get(package), last):
        return
    places = sys.path if not package else getattr(sys.modules.get(package), "__path__", ())
    for place in places:
        base = Path(place or ".").absolute() / last
        if is_own_file(str(base)):
            yield from (f"{base}.py", str(base / "__init__.py"))


def _read_scopes(path: str, package: str) -> list[_Scope]:
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
    except (OSError, SyntaxError, ValueError):
        return [_Scope()]
    scopes = [_Scope()]
    waiting: list[tuple[ast.AST, _Scope]] = [(tree, scopes[0])]
    while waiting:
        node, scope = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Decorators and defaults are evaluated where the function is defined.
            waiting.extend((each, scope) for each in (*node.decorator_list, node.args))
            line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            scope = _Scope(name=node.name, line=line)
            scopes.append(scope)
            waiting.extend((each, scope) for each in node.body)
        elif isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
            waiting.extend((each, scope) for each in node.orelse)
        else:
            _note(node, scope, package)
            waiting.extend((each, scope) for each in ast.iter_child_nodes(node))
    # Words in capitals are many; they may name settings only where these are at hand.
    if any(name.rpartition(".")[2] == "settings" for each in scopes for name in each.imports):
        for each in scopes:
            each.settings.update(each.quoted)
    return scopes


def _note(node: ast.AST, scope: _Scope, package: str) -> None:
    """Note what a node of a syntax tree says by itself."""
    if isinstance(node, ast.Import):
        scope.imports.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(package, node.level, node.module or "")
        scope.imports.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
    elif isinstance(node, ast.Attribute) and node.attr.isupper():
        scope.settings.add(node.attr)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value.isupper() and node.value.isidentifier():
            scope.quoted.add(node.value)
    elif isinstance(node, ast.Call):
        if isinstance(getattr(node.func, "value", node.func), ast.Name):
            scope.calls.add(_name_of(node.func))
        if node.args and _is_environment(node.func):
            scope.variables.update(_texts(node.args[0]))
    elif isinstance(node, ast.Subscript) and _name_of(node.value) == "environ":
        scope.variables.update(_texts(node.slice))


def _is_environment(function: ast.expr) -> bool:
    """Tell whether a function is ``os.getenv``, or a method of ``os.environ``."""
    if _name_of(function) == "getenv":
        return True
    return isinstance(function, ast.Attribute) and _name_of(function.value) == "environ"


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _name_of(node: ast.expr) -> str:
    """Return a name, or that of an attribute."""
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _absolute(package: str, level: int, module: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    parts = parts[: len(parts) - level + 1]
    return ".".join([*parts, module] if module else parts)
