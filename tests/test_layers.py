"""The package's modules import downwards only."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import django_pgsnap
from tests.project import ROOT

PACKAGE = "django_pgsnap"

# The rooms, from the ground up: each imports only from those before it, and from itself.
ROOMS = (
    *(
        "errors",
        "aliases",
        "conf",
        "signals",
        "models",
        "formatting",
        "git",
        "reporting",
        "migration_drift",
    ),
    "postgres",
    "safety",
    "connections",
    "clones",
    "snapshots",
    "comparison",
    "doctor",
    *("testing", "admin", "management", "checks"),
)

# They translate between a user and the rooms before them, and know nothing of each other.
FRONT_DOORS = ("testing", "admin", "management", "checks")

# Django's entry and the facade, which tie the others together, and what Django keeps by itself.
WIRING = (PACKAGE, "apps", "migrations")

RANKS = {room: rank for rank, room in enumerate(ROOMS)}

DIRECTORY = Path(next(iter(django_pgsnap.__path__)))
FILES = sorted(path.relative_to(DIRECTORY) for path in DIRECTORY.rglob("*.py"))

IMPORT_ALL = f"""
import {PACKAGE}
for name in {PACKAGE}.__all__:
    getattr({PACKAGE}, name)
"""


@pytest.mark.parametrize("file", FILES, ids=str)
def test_modules_import_downwards(file: Path) -> None:
    """A module imports only from its own room and those before it, also inside functions."""
    room = owner(file)
    assert room in RANKS or room in WIRING, f"give {room!r} its place in ROOMS"

    imported = {top_level(name) for name in imported_names(file)}

    assert {other for other in imported if not may_import(room, other)} == set()


def test_no_module_imports_itself_by_others() -> None:
    """Inside a room, too, imports make no circle."""
    imports = {module_name(file): set(imported_modules(file)) for file in FILES}

    order = tuple(TopologicalSorter(imports).static_order())

    assert len(order) == len(FILES)


def test_facade_is_there_before_settings() -> None:
    """All public names are imported without settings, as a pytest plugin does."""
    environment = {**os.environ}
    environment.pop("DJANGO_SETTINGS_MODULE")

    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")


def may_import(room: str, other: str) -> bool:
    if room == other or room in WIRING:
        return True
    if room in FRONT_DOORS and other in FRONT_DOORS:
        return False
    # The facade loads what it names when that is first used.
    return other == PACKAGE or (other in RANKS and RANKS[other] < RANKS[room])


def owner(file: Path) -> str:
    """Return the room that *file* belongs to, the package's name for the facade."""
    first = file.parts[0].removesuffix(".py")
    return PACKAGE if first == "__init__" else first


def module_name(file: Path) -> tuple[str, ...]:
    parts = (PACKAGE, *file.with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_names(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield what *file* imports from the package, each as the parts of its dotted name."""
    here = (PACKAGE, *file.parts[:-1])
    for node in ast.walk(ast.parse((DIRECTORY / file).read_text())):
        yield from (name for name in absolute_names(node, here) if name[0] == PACKAGE)


def imported_modules(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules that *file* imports; the facade's do not count, they load late."""
    if module_name(file) == (PACKAGE,):
        return
    known = {module_name(each) for each in FILES}
    for name in imported_names(file):
        found = name if name in known else name[:-1]
        if found in known and found not in {(PACKAGE,), module_name(file)}:
            yield found


def absolute_names(node: ast.AST, here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = here[: len(here) + 1 - node.level] if node.level else ()
        module = tuple(node.module.split(".")) if node.module else ()
        yield from ((*base, *module, alias.name) for alias in node.names)


def top_level(name: tuple[str, ...]) -> str:
    """Return the room that holds *name*, the package's name for an attribute of the facade."""
    candidates = (DIRECTORY / f"{part}{end}" for part in name[1:2] for end in ("", ".py"))
    return name[1] if any(path.exists() for path in candidates) else PACKAGE
