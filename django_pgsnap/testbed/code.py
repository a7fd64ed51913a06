"""The project's code that migrations run, and what of the settings and environment it reads.

Code of installed distributions is known by their versions; of installed apps, only the settings
that they name count. All is found by following imports and names of modules, from the text of the
files: to import them would take longer than all else.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.apps import apps
from django.conf import global_settings, settings

from . import source
from .plain import plain

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
        self._packages = {config.name.partition(".")[0] for config in apps.get_app_configs()}
        self._packages -= _NOT_SKIMMED
        self._named = source.Names(
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
        said = source.parse(text, path, package)
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
        said = source.skim(Path(path).read_bytes(), package)
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
