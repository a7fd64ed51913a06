"""The history of a template: what makes a migration another one, and what does not."""

import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest
from django.test import override_settings

from django_pgsnap.testing.databases.migration_history import Step, todays_plan

PACKAGE = "historical"

MIGRATION = """
from django.conf import settings
from django.db import migrations
from historical.{helper} import names

class Migration(migrations.Migration):
    dependencies = {dependencies}
    year = settings.{setting}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with two migrations, each with a helper and a setting of its own."""
    package = tmp_path / PACKAGE
    for directory in (package, package / "migrations"):
        directory.mkdir()
        (directory / "__init__.py").write_text("")
    for number, before in ((1, None), (2, "0001_step")):
        (package / f"helper{number}.py").write_text("names = []\n")
        text = MIGRATION.format(
            helper=f"helper{number}",
            dependencies=[("testapp", before)] if before else [],
            setting=f"YEAR{number}",
        )
        (package / "migrations" / f"000{number}_step.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(
        MIGRATION_MODULES={"testapp": f"{PACKAGE}.migrations"}, YEAR1=2026, YEAR2=2026
    ):
        yield package
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    invalidate_caches()


def steps() -> list[Step]:
    return [step for step in todays_plan() if step.app == "testapp"]


def changed(before: list[Step]) -> list[str]:
    return [new.name for old, new in zip(before, steps(), strict=True) if old != new]


def test_todays_plan() -> None:
    """The plan has each migration after those that it depends on."""
    plan = [(step.app, step.name) for step in todays_plan()]

    assert plan.index(("contenttypes", "0001_initial")) < plan.index(("auth", "0001_initial"))
    assert len(set(plan)) == len(plan)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("migrations/0001_step.py", ["0001_step"]),
        ("helper2.py", ["0002_step"]),
        ("__init__.py", ["0001_step", "0002_step"]),
        ("migrations/__init__.py", ["0001_step", "0002_step"]),
    ],
)
def test_files(package: Path, file: str, names: list[str]) -> None:
    """A migration consists of its file and of what that imports, its packages among it."""
    before = steps()

    with (package / file).open("a") as handle:
        handle.write("\n# changed\n")

    assert changed(before) == names


def test_settings(package: Path) -> None:
    """A setting that one migration reads makes another one of that only."""
    before = steps()

    with override_settings(YEAR2=2027):
        assert changed(before) == ["0002_step"]
