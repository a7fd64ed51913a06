"""How long a test run takes to start: from a template, and by migrating as stock Django does.

A project of so many tables in so many migrations runs a suite of one test that does nothing.
Measured is what Django calls "Total database setup", in turn with both runners, several times:

- stock: all migrations run;
- cold: the same, and the result is kept as a template;
- warm: the template is found, and its clone that stands ready is renamed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from benchmarks import figures, servers
from benchmarks.figures import Times
from benchmarks.servers import Place

ROOT: Final = Path(__file__).parent.parent
STOCK: Final = "django.test.runner.DiscoverRunner"
OURS: Final = "django_pgsnap.testing.SnapshotRunner"
MIGRATIONS: Final = 300

_SETUP: Final = re.compile(r"Total database setup took ([0-9.]+)s")

_SETTINGS: Final = """
import json, os
SECRET_KEY = "not a secret"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django_pgsnap", "measured",
]
globals().update(json.loads(os.environ["PROJECT_SETTINGS"]))
"""

_TEST: Final = """
from django.test import TestCase

class Nothing(TestCase):
    def test_nothing(self):
        pass
"""

_MIGRATION: Final = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = {dependencies}
    operations = [{operations}]
"""

_TABLE: Final = """
        migrations.CreateModel(name="Model{number}", fields=[
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=100, db_index=True)),
            ("amount", models.IntegerField(default=0)),
        ]),"""

_ALTERED: Final = """
        migrations.AddField("Model{table}", "field{number}", models.IntegerField(default=0)),"""

_MODEL: Final = """
class Model{number}(models.Model):
    name = models.CharField(max_length=100, db_index=True)
    amount = models.IntegerField(default=0)
"""


def build(directory: Path, tables: int, migrations: int) -> None:
    """Write a project with so many tables, made by so many migrations."""
    package = directory / "measured" / "migrations"
    package.mkdir(parents=True)
    for parent in (package, package.parent):
        (parent / "__init__.py").write_text("")
    (directory / "measured_settings.py").write_text(_SETTINGS)
    (package.parent / "tests.py").write_text(_TEST)
    models = [_MODEL.format(number=number) for number in range(tables)]
    fields: dict[int, list[str]] = {}
    before = ""
    for index in range(migrations):
        made = range(index * tables // migrations, (index + 1) * tables // migrations)
        operations = "".join(_TABLE.format(number=number) for number in made)
        if not made and made.start:
            table = made.start - 1
            fields.setdefault(table, []).append(f"field{index}")
            operations = _ALTERED.format(table=table, number=index)
        name = f"{index + 1:04}_step"
        dependencies = f"[('measured', {before!r})]" if before else "[]"
        text = _MIGRATION.format(dependencies=dependencies, operations=operations)
        (package / f"{name}.py").write_text(text)
        before = name
    for table, names in fields.items():
        models[table] += "".join(f"    {name} = models.IntegerField(default=0)\n" for name in names)
    (package.parent / "models.py").write_text("from django.db import models\n" + "".join(models))


def setup_s(directory: Path, place: Place, runner: str) -> float:
    """Run the suite, and return how long its databases took to set up, in seconds.

    Raises:
        RuntimeError: The suite failed.
    """
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "measured_settings",
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        "PROJECT_SETTINGS": json.dumps({"DATABASES": {"default": alias(place.parameters)}}),
    }
    ended = subprocess.run(  # noqa: S603  # a command line from here
        [sys.executable, "-m", "django", "test", "--timing", "--no-input", "--testrunner", runner],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = _SETUP.search(ended.stderr + ended.stdout)
    if ended.returncode or found is None:
        raise RuntimeError(f"the suite failed: {ended.stdout}{ended.stderr}")
    return float(found[1])


def alias(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the alias that leads to the server."""
    keys = ("host", "port", "user", "password")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "measured",
        **{key.upper(): str(parameters.get(key, "")) for key in keys},
    }


def measure(place: Place, tables: int, count: int) -> Times:
    """Measure the starts of a project of this size."""
    times = Times()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        build(directory, tables, MIGRATIONS)
        for _ in figures.runs(count, f"start-up, {tables} tables"):
            forget_templates(place)
            for kind, runner in (("stock", STOCK), ("cold", OURS), ("warm", OURS)):
                place.settle()
                times.add(kind, setup_s(directory, place, runner))
    forget_templates(place)
    return times


def forget_templates(place: Place) -> None:
    """Drop the templates of earlier runs, and their spares."""
    with place.connect() as connection:
        found = connection.execute(
            "SELECT datname FROM pg_database WHERE datname ~ '^pgsnap_(template|spare)_'"
        ).fetchall()
        for (name,) in found:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, nargs="+", default=[30, 200, 600])
    parser.add_argument("--runs", type=int, default=5)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        measured = {tables: measure(place, tables, options.runs) for tables in options.tables}
        figures.show(
            place,
            f"Setting up the test database, {MIGRATIONS} migrations: {figures.MEDIANS}",
            ("tables", "stock Django", "cold", "warm", "stock / warm"),
            [
                (
                    str(tables),
                    *map(times.show, ("stock", "cold", "warm")),
                    f"{times['stock'] / times['warm']:.0f}",
                )
                for tables, times in measured.items()
            ],
        )


if __name__ == "__main__":
    main()
