"""How far a snapshot's migrations are from those of the code."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.db.migrations.loader import MigrationLoader

from django_pgsnap.postgres.inspection import Migrations
from django_pgsnap.snapshots.types import Drift, KnownMigrations

APP = "testapp"
OWN = "django_pgsnap"
ONE, TWO, THREE, FOUR = "0001_one", "0002_two", "0003_three", "0004_four"
SQUASHED = "0001_squashed_0003"
SQUASHED_AGAIN = "0001_squashed_0004"

MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    replaces = {replaces!r}
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the test app's migrations: three in a row."""
    package = tmp_path / "drifting"
    package.mkdir()
    (package / "__init__.py").touch()
    write(package, ONE)
    write(package, TWO, after=ONE)
    write(package, THREE, after=TWO)
    modules = {app.label: None for app in apps.get_app_configs()}
    monkeypatch.setattr(settings, "MIGRATION_MODULES", {**modules, APP: "drifting"})
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "drifting"]:
        del sys.modules[name]


def write(package: Path, name: str, *, after: str = "", replaces: tuple[str, ...] = ()) -> None:
    (package / f"{name}.py").write_text(
        MIGRATION.format(
            dependencies=[(APP, after)] if after else [],
            replaces=[(APP, replaced) for replaced in replaces],
        )
    )
    importlib.invalidate_caches()


def keys(*names: str) -> Migrations:
    return tuple((APP, name) for name in names)


def test_real_project() -> None:
    """A snapshot with all migrations of the project has no drift, an empty one lacks them all."""
    loader = MigrationLoader(None)
    on_disk = tuple(sorted(loader.disk_migrations))
    code = KnownMigrations()

    assert code.drift(on_disk) == Drift()
    assert code.drift(()) == Drift(missing=tuple(key for key in on_disk if key[0] != OWN))


def test_own_migration_does_not_count() -> None:
    """The app's own migration makes permissions only, so nothing of a snapshot hangs on it."""
    own = ((OWN, "0001_initial"), (OWN, "0099_of_another_release"))
    others = tuple(sorted(key for key in MigrationLoader(None).disk_migrations if key[0] != OWN))

    assert KnownMigrations().drift(others) == Drift()
    assert KnownMigrations().drift((*others, *own)) == Drift()


@pytest.mark.parametrize(
    ("applied", "missing", "unknown", "text"),
    [
        ([ONE, TWO, THREE], [], [], ""),
        ([ONE], [TWO, THREE], [], "2 not run"),
        ([ONE, TWO, THREE, FOUR], [], [FOUR], "1 not in this code"),
        ([FOUR, ONE], [TWO, THREE], [FOUR], "2 not run, 1 not in this code"),
    ],
)
@pytest.mark.usefixtures("directory")
def test_plain(applied: list[str], missing: list[str], unknown: list[str], text: str) -> None:
    """What the code has and the snapshot lacks is behind, the opposite unknown."""
    drift = KnownMigrations().drift(keys(*applied))

    assert drift == Drift(missing=keys(*missing), unknown=keys(*unknown))
    assert drift.summary == text


def test_migrations_of_an_app_that_is_not_installed() -> None:
    """Another branch's app is unknown, and not behind."""
    on_disk = tuple(MigrationLoader(None).disk_migrations)

    assert KnownMigrations().drift((*on_disk, ("blog", "0001"))) == Drift(
        unknown=(("blog", "0001"),)
    )


@pytest.mark.parametrize(
    ("applied", "missing"),
    [
        pytest.param([ONE, TWO, THREE], [], id="all that it replaces"),
        pytest.param([ONE, TWO, THREE, SQUASHED], [], id="all, and itself"),
        pytest.param([SQUASHED], [], id="itself alone"),
        pytest.param([ONE], [TWO, THREE], id="some that it replaces"),
        pytest.param([], [SQUASHED], id="none"),
    ],
)
def test_squashed(directory: Path, applied: list[str], missing: list[str]) -> None:
    """A squashed migration and those that it replaces count as Django would apply them."""
    write(directory, SQUASHED, replaces=(ONE, TWO, THREE))

    assert KnownMigrations().drift(keys(*applied)) == Drift(missing=keys(*missing))


def test_squashed_and_removed(directory: Path) -> None:
    """Replaced migrations whose files are gone are known, and none is behind."""
    write(directory, SQUASHED, replaces=(ONE, TWO, THREE))
    for name in (ONE, TWO, THREE):
        (directory / f"{name}.py").unlink()

    assert KnownMigrations().drift(keys(ONE, TWO, THREE)) == Drift()


@pytest.mark.parametrize(
    ("applied", "missing"),
    [
        ([ONE, TWO, THREE, FOUR], []),
        ([SQUASHED, FOUR], []),
        ([SQUASHED_AGAIN], []),
        ([ONE, TWO, THREE], [FOUR]),
        ([], [SQUASHED_AGAIN]),
    ],
)
def test_squashed_twice(directory: Path, applied: list[str], missing: list[str]) -> None:
    """A squashed migration may have been squashed with later ones."""
    write(directory, FOUR, after=SQUASHED)
    write(directory, SQUASHED, replaces=(ONE, TWO, THREE))
    write(directory, SQUASHED_AGAIN, replaces=(SQUASHED, FOUR))

    assert KnownMigrations().drift(keys(*applied)) == Drift(missing=keys(*missing))
