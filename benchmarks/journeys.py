"""How far one has to go to follow an operation through the code.

Traced are, in a real project and each once: ``pgsnap take``, ``pgsnap restore`` with a spare ready,
a restore from the admin, and what a test runner does to put rows back after a test. Counted are
calls of the package's own functions, in all threads:

- files: how many are entered;
- functions: how many different ones are called;
- crossings: how often a function calls one of another file, what is called between them aside.

``--list`` names the files, by the number of calls that enter each.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Self

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import project, servers, startup
from benchmarks.servers import Place

PACKAGE: Final = project.ROOT / "django_pgsnap"

# The most that each may need, in files and in crossings.
TARGETS: Final = {
    "take": (28, 300),
    "restore": (25, 250),
    "restore in the admin": (35, 350),
    "reset by rows": (10, 40),
}

_TABLES: Final = 5

_TESTS: Final = """
import json
from django.test import TransactionTestCase
from benchmarks.journeys import Journey
from measured import models

class Traced(TransactionTestCase):
    def _fixture_teardown(self):
        with Journey() as journey:
            super()._fixture_teardown()
        with open("journey", "w") as out:
            json.dump(journey.data(), out)

    def work(self):
        for number in range(5):
            getattr(models, f"Model{number}").objects.create(name="written by the test")

    test_first = test_second = work
"""


class Journey:
    """What was called while it was open, as a context manager.

    Attributes:
        functions: Every function of the package that was called, as file and qualified name.
        crossings: How often a function of one file called one of another.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.functions: set[tuple[str, str]] = set()
        self.crossings: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Self:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def files(self) -> set[str]:
        """The files that were entered."""
        return {file for file, _ in self.functions}

    def data(self) -> dict[str, Any]:
        """Return everything as JSON knows it, for another process."""
        return {
            "functions": sorted(self.functions),
            "crossings": [[*pair, count] for pair, count in self.crossings.items()],
        }

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Journey":
        """Return what another process traced."""
        journey = cls()
        journey.functions = {(file, name) for file, name in data["functions"]}
        journey.crossings = Counter({(a, b): count for a, b, count in data["crossings"]})
        return journey

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        file = _file(frame.f_code) if event == "call" else None
        if file is None:
            return
        self.functions.add((file, frame.f_code.co_qualname))
        caller = frame.f_back
        while caller is not None:
            came_from = _file(caller.f_code)
            if came_from is not None:
                if came_from != file:
                    self.crossings[came_from, file] += 1
                return
            caller = caller.f_back


@cache
def _file(code: CodeType) -> str | None:
    """Return the file of the package that a function is in; None for others, and for imports."""
    path = Path(code.co_filename)
    # The bodies of modules and classes run once, when they are imported.
    if not code.co_flags & inspect.CO_OPTIMIZED or not path.is_relative_to(PACKAGE):
        return None
    return str(path.relative_to(PACKAGE))


def trace(place: Place) -> dict[str, Journey]:
    """Make all journeys, and return them by name."""
    from django.core.management import call_command

    with place.connect() as connection:
        connection.execute("CREATE DATABASE pgsnap_benchmark")
    call_command("migrate", verbosity=0)

    def pgsnap(verb: str) -> Journey:
        return _traced(lambda: call_command("pgsnap", verb, "seeded", stdout=StringIO()))

    journeys = {"take": pgsnap("take")}
    project.settle_with_spare(place, "seeded")
    journeys["restore"] = pgsnap("restore")
    project.settle_with_spare(place, "seeded")
    journeys["restore in the admin"] = _traced(_confirm_in_admin())
    project.clear(place)
    journeys["reset by rows"] = _reset(place)
    return journeys


def _traced(work: Callable[[], object]) -> Journey:
    with Journey() as journey:
        work()
    return journey


def _confirm_in_admin() -> Callable[[], object]:
    """Return what presses the button on the page that asks about a restore."""
    from django_pgsnap.snapshots.queries import get
    from tests.visiting import account, confirm, of, visit

    client = visit(account("ada", is_superuser=True))
    address = of("restore", get("seeded"))
    return lambda: confirm(client, address)


def _reset(place: Place) -> Journey:
    """Run a suite that writes to a few tables, and return what was done after its last test."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        startup.build(directory, _TABLES, 1)
        (directory / "measured" / "tests.py").write_text(_TESTS)
        aliases = {"default": startup.alias(place.parameters)}
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "measured_settings",
            "PYTHONPATH": os.pathsep.join([str(directory), str(project.ROOT)]),
            "PROJECT_SETTINGS": json.dumps({"DATABASES": aliases}),
        }
        subprocess.run(  # noqa: S603  # a command line from here
            [sys.executable, "-m", "django", "test", "--no-input", "--testrunner", startup.OURS],
            cwd=directory,
            env=environment,
            check=True,
            capture_output=True,
        )
        journey = Journey.of(json.loads((directory / "journey").read_text()))
    startup.forget_templates(place)
    return journey


def main() -> None:
    """Trace the journeys, and print how long they are; the status is 1 if one is too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the files of each journey")
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        project.start(place)
        journeys = trace(place)
    out = Console(highlight=False)
    table = Table("journey", "files", "functions", "crossings", "at most", box=box.MARKDOWN)
    for name, journey in journeys.items():
        counts = (len(journey.files), len(journey.functions), journey.crossings.total())
        table.add_row(name, *map(str, counts), "{} / {}".format(*TARGETS[name]))
    out.print(table)
    if options.list:
        for name, journey in journeys.items():
            entered = Counter[str]()
            for (_, file), count in journey.crossings.items():
                entered[file] += count
            out.print(f"\n{name}")
            for file in sorted(journey.files, key=lambda file: -entered[file]):
                out.print(f"  {entered[file]:4} {file}")


if __name__ == "__main__":
    main()
