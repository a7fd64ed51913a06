"""The package's rooms in their order, and what imports what, read from the code.

`python -m tests.rooms` writes the picture of the rooms into docs/design.md.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import django_pgsnap

PACKAGE = "django_pgsnap"
DIRECTORY = Path(next(iter(django_pgsnap.__path__)))

# What needs no server: the modules of the root that come before all rooms.
PLAIN = ("messages", "errors", "conf", "signals", "models", "git", "reporting")

# From the ground up: each imports only from those before it, and from itself.
ROOMS = (
    *PLAIN,
    *("postgres", "safety", "connections", "clones", "snapshots", "comparison", "doctor"),
    *("testing", "admin", "management", "checks"),
)

# They translate between a user and the rooms before them, and know nothing of each other.
FRONT_DOORS = ("testing", "admin", "management", "checks")

# Django's entry and the facade, which tie the others together, and what Django keeps by itself.
WIRING = (PACKAGE, "apps", "migrations")

DESIGN = Path(__file__).parent.parent / "docs" / "design.md"
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)

Modules = Mapping[tuple[str, ...], Path]


def find_modules(*directories: Path) -> Modules:
    """Return the modules in some packages, by the parts of their dotted names."""
    found = {}
    for directory in directories:
        for path in sorted(directory.rglob("*.py")):
            parts = (directory.name, *path.relative_to(directory).with_suffix("").parts)
            found[parts[:-1] if parts[-1] == "__init__" else parts] = path
    return found


def find_imports(modules: Modules, name: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield which of these modules one of them imports, inside functions too."""
    path = modules[name]
    package = name if path.stem == "__init__" else name[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        for imported in _imported_names(node, package):
            found = imported if imported in modules else imported[:-1]
            if found in modules and found != name:
                yield found


def order_modules(modules: Modules) -> list[tuple[str, ...]]:
    """Return the modules, each after those that it imports.

    Raises:
        CycleError: Some import each other.
    """
    graph = {
        # The facade loads what it names when that is first used.
        name: set() if name == (PACKAGE,) else set(find_imports(modules, name)) - {(PACKAGE,)}
        for name in modules
    }
    return list(TopologicalSorter(graph).static_order())


def room_of(module: tuple[str, ...]) -> str:
    """Return the room that a module of the package is in; the package's name for the facade."""
    return module[min(1, len(module) - 1)]


def draw() -> str:
    """Return the rooms and their imports as Mermaid's text, with no arrow that others imply."""
    arrows = _arrows()
    lines = ["flowchart TD\n", f'    plain["{" · ".join(PLAIN)}"]\n']
    for room, others in arrows.items():
        implied = {far for other in others for far in _reachable(arrows, other)}
        lines += [f"    {room} --> {other}\n" for other in sorted(others - implied)]
    return "".join(lines)


def _arrows() -> dict[str, set[str]]:
    modules = find_modules(DIRECTORY)
    arrows: dict[str, set[str]] = {room: set() for room in reversed(ROOMS[len(PLAIN) :])}
    for name in modules:
        room = _node(name)
        if room in arrows:
            arrows[room] |= {_node(each) for each in find_imports(modules, name)}
            arrows[room] -= {room, PACKAGE}
    return arrows


def _node(module: tuple[str, ...]) -> str:
    room = room_of(module)
    return "plain" if room in PLAIN else room


def _reachable(arrows: Mapping[str, set[str]], room: str) -> set[str]:
    nearest = arrows.get(room, set())
    return nearest.union(*(_reachable(arrows, other) for other in nearest))


def _imported_names(node: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) + 1 - node.level] if node.level else ()
        module = tuple(node.module.split(".")) if node.module else ()
        yield from ((*base, *module, alias.name) for alias in node.names)


if __name__ == "__main__":
    DESIGN.write_text(PICTURE.sub(lambda _: draw(), DESIGN.read_text()))
