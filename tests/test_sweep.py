"""Parts of the crash-point sweep; `tox run -e sweep` runs all of it."""

import subprocess
import sys

from tests.conftest import CHOICE
from tests.project import ROOT

# One kind of world for all, since worlds are what takes long at the start.
COMMANDS = ["take --replace", "restore, spare", "undo", "delete", "checkpoint"]
CASES = 10
SEED = 20


def sweep(*arguments: str) -> str:
    """Run a sweep and return its summary's last line of figures."""
    command = [sys.executable, "-m", "tests.sweep", "--server", CHOICE, "--processes", "1"]
    run = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[-2]


def test_sample() -> None:
    """Struck wherever, a command loses nothing, and the next one works."""
    figures = sweep(*COMMANDS, "--sample", str(CASES), "--seed", str(SEED))

    assert figures.split()[-3] == str(CASES)


def test_interrupted_between_two_servers() -> None:
    """Ctrl-C between the commits on two servers, or right after the last: all or none."""
    figures = sweep(
        *("take, two servers", "restore, two servers"),
        *("--matching", "execute ALTER DATABASE", "--way", "interrupt"),
    )

    assert figures.split()[-3:] == ["8", "8", "0"]
