"""The table of the demo: how long everything took."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .pg_dump import Comparison

STEP_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was done and how long it took.

    Attributes:
        command: The command line that does it.
        seconds: Of the work itself; a command line of its own adds the start of Django.
    """

    command: str
    seconds: float


def times_table(steps: Sequence[Step], comparison: Comparison | None) -> Table:
    """Return how long each step took, beside the usual way where there is one."""
    usual = {}
    if comparison:
        usual = {
            "pgsnap take": ("pg_dump -Fc", _time(comparison.dump_s)),
            "pgsnap restore": ("pg_restore", _time(comparison.restore_s)),
        }
    table = Table(box=SIMPLE_HEAD)
    table.add_column("Step", no_wrap=True, max_width=STEP_WIDTH)
    table.add_column("Time", no_wrap=True, justify="right")
    table.add_column("The usual way", no_wrap=True)
    table.add_column("Time", no_wrap=True, justify="right")
    for step in steps:
        command = " ".join(step.command.split()[:2])
        table.add_row(step.command, _time(step.seconds), *usual.get(command, ()))
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
