"""What a module has from others by importing them: constants, and what was computed of settings.

That happened before anything could watch, so the text tells. Only what is imported in this process
counts: the body of a function counts if that ran, or may have run before, as a module calls one of
this name while it is imported, or it has a cache. Of installed apps only the settings count, since
their files are told by their version.
"""

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import resolve_name
from pathlib import Path
from typing import Final

from django.apps import apps
from django.conf import global_settings, settings

from .file_reads import is_own_file

# What they do with settings is known: Django's by name, and this package fills no test database.
_NOT_READ: Final = frozenset({"django", __name__.partition(".")[0]})

_IMPORTERS: Final = frozenset({"__import__", "import_module", "import_string"})


@dataclass(kw_only=True)
class _Scope:
    """The body of a module with its classes, or that of a function."""

    name: str = ""
    line: int = 0  # the function's first line, where decorators begin; 0 for a module
    is_cached: bool = False  # whether it may return what it returned before
    is_getter: bool = False  # whether it reads environment variables whose names it is given
    imports: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    # What is called, or is a mapping, with the name that it is given first.
    asked: set[tuple[str, str]] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    quoted: set[str] = field(default_factory=set)  # words in capitals


# What was found, by kind: files as ``source`` or, missing, as ``place``; ``setting``; ``variable``.
Found = defaultdict[str, set[str]]


class ImportReader:
    """Follows imports through the text of modules."""

    def __init__(self, executed: Mapping[str, set[int]]) -> None:
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
        self._getters: set[str] = set()

    def follow(self, modules: Iterable[str]) -> Found:
        """Return what the files that ran and these modules have from others."""
        found: Found = defaultdict(set)
        waiting = [*self._executed, *(path for name in modules for path in _files_of(name))]
        is_more = True
        while is_more:
            before = self._count(found)
            while waiting:
                path = waiting.pop()
                if path not in self._scopes and self._is_read(path):
                    self._scopes[path] = _read_scopes(path, self._modules.get(path, ("", ""))[1])
                    waiting.extend(self._take_scopes(path, found))
            # What one module calls may be a function of one that was read before.
            waiting = [file for path in self._scopes for file in self._take_scopes(path, found)]
            waiting += [file for name in found["setting"] for file in _files_named_by(name)]
            is_more = self._count(found) != before
        return found

    def _count(self, found: Found) -> int:
        return sum(map(len, (self._scopes, self._calls, self._getters, found["setting"])))

    def _is_read(self, path: str) -> bool:
        name = self._modules.get(path, ("", ""))[0]
        return is_own_file(path) or name.partition(".")[0] in self._app_packages

    def _take_scopes(self, path: str, found: Found) -> Iterator[str]:
        """Yield the files that a file's active scopes import, and note what else those say."""
        is_own = is_own_file(path)
        if is_own:
            found["source"].update(_find_container(path))
        lines = self._executed.get(path, ())
        for scope in self._scopes[path]:
            is_hidden = scope.name in self._calls or scope.name.startswith("__") or scope.is_cached
            is_imported = not scope.line or is_hidden
            is_active = is_imported or scope.line in lines
            # A project's or an app's own settings are few, and often asked for by a helper.
            found["setting"].update(
                name
                for name in scope.settings
                if (is_own and is_active) or not hasattr(global_settings, name)
            )
            if scope.is_getter:
                self._getters.add(scope.name)
            if not is_active:
                continue
            if is_imported:
                self._calls |= scope.calls
            found["variable"].update(
                name for asked, name in scope.asked if is_own and self._is_environment(asked)
            )
            for name in scope.imports:
                yield from _files_of(name)
                found["place"].update(_find_missing(name))

    def _is_environment(self, asked: str) -> bool:
        """Tell by its name whether something gives environment variables.

        That may be ``os.environ`` and ``getenv``, those of packages for it, or the project's own.
        """
        last = asked.rpartition(".")[2]
        return "env" in asked.lower() or last == "config" or last in self._getters


def _find_container(path: str) -> Iterator[str]:
    """Yield a file, or the archive that it is in; nothing if it was compiled elsewhere."""
    place = path
    while place and not os.path.exists(place):  # noqa: PTH110  # as text
        place = place.rpartition(os.sep)[0]
    if os.path.isfile(place):  # noqa: PTH113  # the same
        yield place


def _files_named_by(setting: str) -> Iterator[str]:
    """Yield the files of what a setting of the project's own names, for others to import."""
    value = None if hasattr(global_settings, setting) else getattr(settings, setting, None)
    if isinstance(value, str) and "." in value:
        yield from _files_of(value)


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
        decorators = getattr(node, "decorator_list", [])
        scope.calls.update(map(_name_of, decorators))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Decorators and defaults are evaluated where the function is defined.
            waiting.extend((each, scope) for each in (*decorators, node.args))
            line = min(each.lineno for each in (node, *decorators))
            is_cached = "cache" in str(list(map(_dotted_name, decorators))).lower()
            scope = _Scope(name=node.name, line=line, is_cached=is_cached)
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
    match node:
        case ast.Import(names=names):
            scope.imports.update(each.name for each in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            with suppress(ImportError):  # relative, in a module that is not loaded
                base = resolve_name("." * level + (module or ""), package)
                scope.imports.update((base, *(f"{base}.{each.name}" for each in names)))
                if base == settings.SETTINGS_MODULE:
                    scope.settings.update(each.name for each in names)
        case ast.Attribute(attr=name) if name.isupper():
            scope.settings.add(name)
        case ast.Constant(value=str(text)) if text.isupper() and text.isidentifier():
            scope.quoted.add(text)
        case ast.Call(func=called, args=arguments):
            scope.calls.add(_name_of(called))
            for name in arguments[:1]:
                _note_asked(_dotted_name(called), name, scope)
                if _name_of(called) in _IMPORTERS and isinstance(name, ast.Constant):
                    text = str(name.value)
                    scope.imports.add(package + text if text.startswith(".") else text)
        case ast.Subscript(value=asked, slice=name):
            _note_asked(_dotted_name(asked), name, scope)


def _note_asked(asked: str, name: ast.expr, scope: _Scope) -> None:
    match name:
        case ast.Constant(value=str() | bytes() as text):
            scope.asked.add((asked, os.fsdecode(text)))
        case ast.Constant():
            pass
        case _ if "environ" in asked or asked.endswith("getenv"):
            scope.is_getter = True


def _name_of(node: ast.expr) -> str:
    return _dotted_name(node).rpartition(".")[2]


def _dotted_name(node: ast.expr) -> str:
    """Return a name with those of what it is an attribute of, as far as they are names."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    return _dotted_name(node.func) if isinstance(node, ast.Call) else getattr(node, "id", "")
