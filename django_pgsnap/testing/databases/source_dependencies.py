"""What the text of a module says: what it imports, and the names that it has in it.

The project's own modules are parsed. Of an installed app only settings and imports are of interest,
and there may be many: its text is skimmed, which takes a tenth of the time.

The project's code that migrations run, and what of the settings and environment it reads.

Code of installed distributions is known by their versions; of installed apps, only the settings
that they name count. All is found by following imports and names of modules, from the text of the
files: to import them would take longer than all else.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from django.apps import apps
from django.conf import global_settings, settings
from django.core.management import get_commands

from ...conf import TEST_DATABASES
from .stable_values import plain

_FROM: Final = re.compile(
    rb"^[ \t]*from[ \t]+(\.*)[ \t]*([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n]*)", re.MULTILINE
)
_IMPORT: Final = re.compile(rb"^[ \t]*import[ \t]+([^\n]*)", re.MULTILINE)
_ATTRIBUTE: Final = re.compile(rb"\.([A-Z][A-Z0-9_]+)\b")
_QUOTED: Final = re.compile(rb"[\"']([A-Z][A-Z0-9_]+)[\"']")
_COMMENT: Final = re.compile(r"#[^\n]*")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the text of a module says.

    Attributes:
        imports: Full names of what it imports: modules, or what is in them.
        attributes: Names in capitals that it asks an object for.
        quoted: Names in quotes, dotted ones as well.
    """

    imports: frozenset[str]
    attributes: frozenset[str]
    quoted: frozenset[str]


def parse(text: bytes, path: str, package: str) -> Said:
    """Return what the text of a module in this package says."""
    imports: set[str] = set()
    attributes: set[str] = set()
    quoted: set[str] = set()
    for node in _nodes(text, path):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node.level, node.module or "")
            imports.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Attribute) and node.attr.isupper():
            attributes.add(node.attr)
        elif isinstance(node, ast.Constant) and _is_name(node.value):
            # settings, os.environ, modules and commands are asked for by name in many ways:
            # getattr, get, [], import_string, call_command.
            quoted.add(node.value)
    return Said(
        imports=frozenset(imports), attributes=frozenset(attributes), quoted=frozenset(quoted)
    )


def skim(text: bytes, package: str) -> Said:
    """Return what the text of a module in this package says in capitals, and what it imports."""
    imports: set[str] = set()
    for dots, module, names in _FROM.findall(text):
        base = _absolute(package, len(dots), module.decode())
        imports.update((base, *(f"{base}.{name}" for name in _names(names))))
    for names in _IMPORT.findall(text):
        imports.update(_names(names))
    return Said(
        imports=frozenset(imports),
        attributes=frozenset(name.decode() for name in _ATTRIBUTE.findall(text)),
        quoted=frozenset(name.decode() for name in _QUOTED.findall(text)),
    )


class Names:
    """Knows the modules that names in quotes may stand for."""

    def __init__(self, directories: Iterable[str]) -> None:
        """Look what lies in the directories that the project's modules are found in."""
        self._roots = {
            name.partition(".")[0]
            for directory in {path or os.curdir for path in directories}
            if os.path.isdir(directory)  # noqa: PTH112  # a hot spot of the start-up
            for name in os.listdir(directory)  # noqa: PTH208  # the same
        }

    def __call__(self, name: str) -> Iterator[str]:
        """Yield the modules that a name may stand for, whether they are there or not."""
        if name.partition(".")[0] in self._roots:
            yield name
        # Django looks for the commands of all apps once.
        app = get_commands().get(name)
        if app is not None:
            home = app if isinstance(app, str) else app.__class__.__module__
            yield f"{home}.management.commands.{name}"


def _nodes(text: bytes, path: str) -> Iterable[ast.AST]:
    try:
        return ast.walk(ast.parse(text, path))
    except SyntaxError:
        return ()  # nothing can import it either


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.replace(".", "_").isidentifier()


def _absolute(package: str, level: int, module: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    parts = parts[: len(parts) - level + 1]
    return ".".join([*parts, module] if module else parts)


def _names(text: bytes) -> Iterator[str]:
    """Yield the names in a list of imports, without those that they get here."""
    listed = _COMMENT.sub("", text.decode(errors="replace")).strip("() \t\r\n")
    for each in listed.split(","):
        words = each.split()
        if words:
            yield words[0]


_INSTALLED: Final = tuple(
    f"{os.path.realpath(path)}{os.sep}"
    for path in {
        str(Path(__file__).parents[1]),
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        # The system's or the user's own, which a virtual environment may look into.
        *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))),
    }
)

# It has the names of test databases, which are another one in each of several processes.
_KNOWN_OTHERWISE: Final = frozenset({"DATABASES", "PGSNAP"})

# What they read is known: Django's by name, and this package writes no test database.
_NOT_SKIMMED: Final = frozenset({"django", __name__.partition(".")[0]})


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the project or of an installed app.

    Attributes:
        name: Its full name.
        path: Its file.
        text: The file's contents; None of an installed app, whose version says it.
        imports: Names of the modules that it may import, with the packages that they are in.
        settings: Names of the settings that it reads.
        variables: Names of the environment variables that it reads.
    """

    name: str
    path: str
    text: bytes | None
    imports: frozenset[str]
    settings: frozenset[str]
    variables: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Code:
    """The modules of the project and of installed apps that are run with some modules."""

    modules: Sequence[Module]

    @property
    def files(self) -> list[tuple[str, bytes]]:
        """The names and contents of the project's modules."""
        return [(each.name, each.text) for each in self.modules if each.text is not None]

    @property
    def reads(self) -> list[tuple[str, str | None]]:
        """The settings and environment variables that the modules name, with their values."""
        names = {name for module in self.modules for name in module.settings}
        # What a run itself announces to its child processes changes while it runs.
        variables = {name for module in self.modules for name in module.variables}
        variables.discard(TEST_DATABASES)
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
        self._packages = {config.name.partition(".")[0] for config in apps.get_app_configs()}
        self._packages -= _NOT_SKIMMED
        self._named = Names(
            path
            for path in sys.path
            if not is_installed(os.path.join(path, "any"))  # noqa: PTH118
        )

    def reached_from(self, modules: Iterable[str]) -> Code:
        """Return the project's code that is run when these modules are imported."""
        waiting = [part for module in modules for part in _with_parents(module)]
        seen = set(waiting)
        found: dict[str, Module] = {}
        while waiting:
            name = waiting.pop()
            if name not in self._read:
                self._read[name] = self._module(name)
            module = self._read[name]
            if module is None or module.path in found:
                continue
            found[module.path] = module
            fresh = module.imports - seen
            seen |= fresh
            waiting.extend(fresh)
        return Code(modules=sorted(found.values(), key=lambda module: module.name))

    def _module(self, name: str) -> Module | None:
        """Return a module of the project or of an installed app, None for any other name."""
        path = _file(name)
        if path is None:
            return None
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        if is_installed(path):
            return self._installed(name, path, package)
        text = Path(path).read_bytes()
        said = parse(text, path, package)
        imports = said.imports | {module for each in said.quoted for module in self._named(each)}
        constants = frozenset(each for each in said.quoted if each.isupper())
        return Module(
            name=name,
            path=path,
            text=text,
            imports=frozenset(part for each in imports for part in _with_parents(each)),
            settings=said.attributes | constants,
            variables=constants,
        )

    def _installed(self, name: str, path: str, package: str) -> Module | None:
        root = name.partition(".")[0]
        if root not in self._packages:
            return None
        said = skim(Path(path).read_bytes(), package)
        imports = {each for each in said.imports if each.partition(".")[0] in self._packages}
        return Module(
            name=name,
            path=path,
            text=None,
            imports=frozenset(part for each in imports for part in _with_parents(each)),
            # What they do to a database by Django's own settings, Django's own apps do as well.
            settings=frozenset(
                each
                for each in said.attributes | said.quoted
                if each.isupper() and not hasattr(global_settings, each)
            ),
            variables=frozenset(),
        )


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
