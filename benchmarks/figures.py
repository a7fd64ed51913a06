"""Figures: medians of several runs, printed as a table that is Markdown too."""

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.servers import Place

# Wide enough for any of the tables, on a terminal and in a file.
_WIDTH: Final = 160

# Below this a tenth of a millisecond is worth printing.
_EXACT_BELOW_S: Final = 0.1

# What the cells say.
MEDIANS: Final = "median (fastest-slowest)"


class Times:
    """What was measured, by name, in seconds."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, seconds: float) -> None:
        """Remember one run."""
        self._seconds[name].append(seconds)

    def __contains__(self, name: str) -> bool:
        return name in self._seconds

    def __getitem__(self, name: str) -> float:
        """Return the median in seconds."""
        return median(self._seconds[name])

    def __iter__(self) -> Iterator[str]:
        """Go through the names, in the order of their first runs."""
        return iter(self._seconds)

    def show(self, name: str) -> str:
        """Return the median in people's words, and the range; a dash if it was not measured."""
        if name not in self:
            return "-"
        middle = self[name]
        fastest, slowest = (
            _number(value, middle) for value in (min(self._seconds[name]), max(self._seconds[name]))
        )
        return f"{duration(middle)} ({fastest}-{slowest})"


def duration(seconds: float) -> str:
    """Return a duration in people's words."""
    return f"{_number(seconds, seconds)} {'s' if seconds >= 1 else 'ms'}"


def _number(seconds: float, like: float) -> str:
    """Return a duration in the unit and precision that suit another one of its kind."""
    if like >= 1:
        return f"{seconds:.2f}"
    return f"{seconds * 1000:.0f}" if like >= _EXACT_BELOW_S else f"{seconds * 1000:.1f}"


def runs(count: int, description: str) -> Iterable[int]:
    """Count the runs, with a progress bar on stderr."""
    return track(range(count), description, console=Console(stderr=True), transient=True)


def show(place: Place, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, and what its figures depend on."""
    table = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = Console(width=_WIDTH, highlight=False)
    out.print(title)
    out.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {place.describe()}, Python {platform.python_version()}"
    )
    out.print(table)
