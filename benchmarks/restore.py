"""How long a restore takes, with a spare ready, and whether the size of the database matters.

Measured are, in turn and several times:

- the swap: in a process that has done it before, from the call of ``restore()`` until the live
  database is replaced: connecting, all checks, ending sessions, and the transaction;
- the call: until ``restore()`` returns, when the server has been sent off to make the next spare;
- the command ``manage.py pgsnap restore`` and, to compare, a bare ``manage.py check``;
- the command ``dslr restore``.

Before each, rows of the live database are changed, and the server has come to rest.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from benchmarks import data, figures, project, servers
from benchmarks.figures import Times
from benchmarks.servers import Place
from django_pgsnap.snapshots.operation import finish_operation
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take

NAME: Final = "benchmark"


def measure(place: Place, megabytes: float, count: int) -> Times:
    """Measure restores of a database of this size."""
    times = Times()
    data.build(place, megabytes)
    dslr_restore = project.dslr(place, "restore", NAME)
    if dslr_snapshot := project.dslr(place, "snapshot", NAME):
        project.run(dslr_snapshot)
    take(NAME)
    _prepare(place)
    restore(NAME)
    for _ in figures.runs(count, f"restore, {megabytes:g} MB"):
        _prepare(place)
        with _noting_the_swap() as swapped:
            began = time.perf_counter()
            restore(NAME)
            times.add("call", time.perf_counter() - began)
            times.add("swap", swapped[0] - began)
        _prepare(place)
        times.add("command", _run(project.manage("pgsnap", "restore", NAME)))
        _prepare(place)
        times.add("check", _run(project.manage("check")))
        if dslr_restore:
            times.add("dslr", _run(dslr_restore))
    if dslr_delete := project.dslr(place, "delete", NAME):
        project.run(dslr_delete)
    project.clear(place)
    return times


def _prepare(place: Place) -> None:
    data.change(place)
    project.settle_with_spare(place, NAME)


def _run(command: list[str]) -> float:
    return project.seconds(lambda: project.run(command))


@contextmanager
def _noting_the_swap() -> Iterator[list[float]]:
    """Note when a restore has swapped, and goes on to what the server finishes by itself."""
    moments: list[float] = []

    def noted(*arguments: Any, **options: Any) -> None:
        moments.append(time.perf_counter())
        finish_operation(*arguments, **options)

    with mock.patch("django_pgsnap.snapshots.restore.finish_operation", noted):
        yield moments


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[100, 1000, 5000], metavar="MB")
    parser.add_argument("--runs", type=int, default=9)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        project.start(place)
        measured = {size: measure(place, size, options.runs) for size in options.sizes}
        figures.show(
            place,
            f"Restore with a spare ready: {figures.MEDIANS}",
            ("size", "swap", "call", "command", "manage.py check", "difference", "dslr restore"),
            [
                (
                    f"{size:g} MB",
                    *map(times.show, ("swap", "call", "command", "check")),
                    figures.duration(times["command"] - times["check"]),
                    times.show("dslr"),
                )
                for size, times in measured.items()
            ],
        )


if __name__ == "__main__":
    main()
