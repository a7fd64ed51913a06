"""The package's modules import downwards only, and the documentation shows how."""

import os
import subprocess
import sys

import pytest

from tests.project import ROOT
from tests.rooms import (
    DESIGN,
    DIRECTORY,
    FRONT_DOORS,
    PACKAGE,
    PICTURE,
    ROOMS,
    WIRING,
    Modules,
    draw,
    find_imports,
    find_modules,
    order_modules,
    room_of,
)

RANKS = {room: rank for rank, room in enumerate(ROOMS)}

MODULES = find_modules(DIRECTORY)
EXAMPLE = find_modules(*(ROOT / "example_project" / name for name in ("contracts", "embedded")))

IMPORT_ALL = f"""
import {PACKAGE}
for name in {PACKAGE}.__all__:
    getattr({PACKAGE}, name)
"""


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_modules_import_downwards(module: tuple[str, ...]) -> None:
    """A module imports only from its own room and those before it, also inside functions."""
    room = room_of(module)
    assert room in RANKS or room in WIRING, f"give {room!r} its place in ROOMS"

    imported = {room_of(other) for other in find_imports(MODULES, module)}

    assert {other for other in imported if not may_import(room, other)} == set()


@pytest.mark.parametrize("modules", [MODULES, EXAMPLE], ids=["package", "example"])
def test_no_module_imports_itself_by_others(
    modules: Modules,
) -> None:
    """Inside a room, too, imports make no circle; in the example project neither."""
    assert len(order_modules(modules)) == len(modules)


def test_picture_is_that_of_the_code() -> None:
    """The picture in docs/design.md shows the imports as they are: see tests/rooms.py."""
    found = PICTURE.search(DESIGN.read_text())

    assert found is not None
    assert found[0] == draw(), "run: python -m tests.rooms"


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
