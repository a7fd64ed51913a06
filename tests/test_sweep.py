"""A sample of the crash-point sweep; `tox run -e sweep` runs all of it."""

import os
import subprocess
import sys

from tests.conftest import CHOICE
from tests.project import ROOT

# Of one world each that is made with one database and a spare, and with two and none.
COMMANDS = [
    "take --replace",
    "restore, spare",
    "undo",
    "delete",
    "checkpoint",
    "restore, two databases, no spare",
]
CASES = 16
SEED = 20


def test_sample_of_the_sweep() -> None:
    """Struck wherever, a command loses nothing, and the next one works."""
    command = [sys.executable, "-m", "tests.sweep", *COMMANDS, "--server", CHOICE]

    run = subprocess.run(
        [*command, "--processes", "1", "--sample", str(CASES), "--seed", str(SEED)],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{CASES:8}" in run.stdout.splitlines()[-2]
