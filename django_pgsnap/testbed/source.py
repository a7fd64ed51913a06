"""What the text of a module says: what it imports, and the names that it has in it.

The project's own modules are parsed. Of an installed app only settings and imports are of interest,
and there may be many: its text is skimmed, which takes a tenth of the time.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeGuard

from django.core.management import get_commands

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
