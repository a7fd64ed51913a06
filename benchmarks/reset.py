"""How long a test database takes to be put back after a test: by us, and by Django's flush.

A project of so many tables runs classes of ``TransactionTestCase`` whose tests write to five
tables, or create a table and drop it, or change the schema, or only read. Measured is what a case
does between two tests, with both runners in turn:

- flush: stock Django;
- rows: what was written is put back;
- undone: the test created a table and dropped it again, which is found to be no change;
- clone: the test changed the schema, so that a clone takes the database's place;
- nothing: the test only read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import figures, servers, startup
from benchmarks.figures import Times
from benchmarks.servers import Place

MIGRATIONS: Final = 10
_KINDS: Final = ("rows", "undone", "clone", "nothing")

_TESTS: Final = """
import time
from django.db import connection
from django.test import TransactionTestCase
from measured import models

class Timed(TransactionTestCase):
    def _fixture_teardown(self):
        began = time.perf_counter()
        super()._fixture_teardown()
        with open("journal", "a") as journal:
            journal.write(f"{type(self).__name__} {time.perf_counter() - began}\\n")

def repeat(count):
    def decorate(cls):
        for number in range(count):
            setattr(cls, f"test_{number}", cls.work)
        return cls
    return decorate

@repeat(COUNT)
class Rows(Timed):
    def work(self):
        for number in range(5):
            model = getattr(models, f"Model{number}")
            model.objects.bulk_create(model(name=str(name)) for name in range(10))

@repeat(COUNT)
class Nothing(Timed):
    def work(self):
        self.assertFalse(models.Model0.objects.exists())

@repeat(COUNT)
class Undone(Timed):
    def work(self):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE extra (id serial PRIMARY KEY)")
            cursor.execute("DROP TABLE extra")

@repeat(COUNT)
class Clone(Timed):
    def work(self):
        with connection.cursor() as cursor:
            cursor.execute("CREATE FUNCTION extra() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        if Timed._fixture_teardown.__globals__["STOCK"]:
            with connection.cursor() as cursor:
                cursor.execute("DROP FUNCTION extra()")
"""


def measure(place: Place, tables: int, count: int) -> Times:
    """Measure the resets in a project of this size."""
    times = Times()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        startup.build(directory, tables, MIGRATIONS)
        for runner in (startup.STOCK, startup.OURS):
            stock = runner == startup.STOCK
            head = f"STOCK = {stock}\nCOUNT = {count}\n"
            (directory / "measured" / "tests.py").write_text(head + _TESTS)
            startup.forget_templates(place)
            place.settle()
            for kind, seconds in _run(directory, place, runner):
                times.add("flush" if stock else kind, seconds)
    startup.forget_templates(place)
    return times


def _run(directory: Path, place: Place, runner: str) -> list[tuple[str, float]]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "measured_settings",
        "PYTHONPATH": os.pathsep.join([str(directory), str(startup.ROOT)]),
        "PROJECT_SETTINGS": json.dumps({"DATABASES": {"default": startup.alias(place.parameters)}}),
    }
    ended = subprocess.run(  # noqa: S603  # a command line from here
        [sys.executable, "-m", "django", "test", "--no-input", "--testrunner", runner],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"the suite failed: {ended.stdout}{ended.stderr}")
    journal = directory / "journal"
    lines = [line.split() for line in journal.read_text().splitlines()]
    journal.unlink()
    return [(kind.lower(), float(seconds)) for kind, seconds in lines]


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, nargs="+", default=[30, 200, 600])
    parser.add_argument("--runs", type=int, default=15)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        measured = {tables: measure(place, tables, options.runs) for tables in options.tables}
        figures.show(
            place,
            f"Putting a test database back after a test: {figures.MEDIANS}",
            ("tables", "flush", *_KINDS, "flush / rows", "flush / clone"),
            [
                (
                    str(tables),
                    *map(times.show, ("flush", *_KINDS)),
                    f"{times['flush'] / times['rows']:.0f}",
                    f"{times['flush'] / times['clone']:.1f}",
                )
                for tables, times in measured.items()
            ],
        )


if __name__ == "__main__":
    main()
