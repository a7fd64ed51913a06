"""The package's modules import downwards only."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_pgsnap
from tests.project import ROOT

PACKAGE = "django_pgsnap"

# A module may import what stands above its own line, or to its left.
LAYERS = (
    # Plain facts.
    (
        *(
            "errors",
            "aliases",
            "conf",
            "names",
            "signals",
            "standalone",
            "report",
            "vcs",
            "untrusted",
            "metadata",
            "drift",
            "wording",
        ),
        *("models",),
    ),
    # The server.
    ("session", "server", "targets"),
    # One idea each.
    (
        *("guard", "locks", "sessions", "eviction", "properties", "carryover", "rights"),
        *(
            "obstacles",
            "cloning",
            "directories",
            "growth",
            "supervise",
            "inspection",
            "catalog",
            "stages",
            "reconnect",
        ),
        *("arrivals", "watch"),
    ),
    # Built from them.
    ("written", "jobs", "stillness", "copying", "spares", "swap"),
    # Use cases.
    ("snapshots", "testbed", "diff", "archive", "doctor"),
)

# They translate between a user and the use cases, and know neither each other nor what is below.
FRONT_DOORS = ("management", "admin", "checks", "testing")
BEHIND_FRONT_DOORS = {*LAYERS[0], *LAYERS[-1], PACKAGE}

# Django's entry, which ties the others together, and what Django keeps by itself.
WIRING = ("apps", "migrations")

RANKS = {module: rank for rank, module in enumerate(sum(LAYERS, ()))}
NOT_LAYERED = {PACKAGE, *FRONT_DOORS, *WIRING}

DIRECTORY = Path(next(iter(django_pgsnap.__path__)))
FILES = sorted(path.relative_to(DIRECTORY) for path in DIRECTORY.rglob("*.py"))

IMPORT_ALL = f"""
import {PACKAGE}
for name in {PACKAGE}.__all__:
    getattr({PACKAGE}, name)
"""


@pytest.mark.parametrize("file", FILES, ids=str)
def test_modules_import_downwards(file: Path) -> None:
    """A module imports only what its layer allows, also for types and inside functions."""
    module = owner(file)
    assert module in RANKS or module in NOT_LAYERED, f"give {module!r} its place in LAYERS"

    assert {name for name in imported(file) if not may_import(module, name)} == set()


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


def may_import(module: str, other: str) -> bool:
    if module == other or module in {PACKAGE, *WIRING}:
        return True
    if module in FRONT_DOORS:
        return other in BEHIND_FRONT_DOORS
    return other in RANKS and RANKS[other] < RANKS[module]


def owner(file: Path) -> str:
    """Return the module or subpackage that *file* belongs to, the package's name for the facade."""
    first = file.parts[0].removesuffix(".py")
    return PACKAGE if first == "__init__" else first


def imported(file: Path) -> set[str]:
    """Return the modules and subpackages of the package that *file* imports."""
    here = (PACKAGE, *file.parts[:-1])
    tree = ast.parse((DIRECTORY / file).read_text())
    names = (name for node in ast.walk(tree) for name in absolute_names(node, here))
    return {top_level(name) for name in names if name[0] == PACKAGE}


def absolute_names(node: ast.AST, here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = here[: len(here) + 1 - node.level] if node.level else ()
        module = tuple(node.module.split(".")) if node.module else ()
        yield from ((*base, *module, alias.name) for alias in node.names)


def top_level(name: tuple[str, ...]) -> str:
    """Return the module that holds *name*, the package's name for an attribute of the facade."""
    candidates = (DIRECTORY / f"{part}{end}" for part in name[1:2] for end in ("", ".py"))
    return name[1] if any(path.exists() for path in candidates) else PACKAGE
