"""How long a take and a delete take, beside what the server needs by itself, and DSLR.

Measured are, in turn and several times:

- a plain ``CREATE DATABASE … TEMPLATE``, by each strategy that the server has;
- the call ``take()`` and the command ``manage.py pgsnap take``; then ``pgsnap delete``;
- the commands ``dslr snapshot`` and ``dslr delete``.

Before each, rows of the live database are changed, and the server has come to rest. There are
snapshots already, so pgsnap knows which strategy is quickest on this file system.
"""

import argparse
from collections.abc import Callable
from typing import Final

from benchmarks import data, figures, project, servers, strategies
from benchmarks.figures import Times
from benchmarks.servers import Place
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.take import take

NAME: Final = "benchmark"


def measure(place: Place, megabytes: float, count: int) -> Times:
    """Measure takes of a database of this size."""
    times = Times()

    def timed(name: str, work: Callable[[], object]) -> None:
        data.change(place)
        place.settle()
        times.add(name, project.seconds(work))
        place.settle()

    data.build(place, megabytes)
    _try_strategies()
    for _ in figures.runs(count, f"take, {megabytes:g} MB"):
        for strategy in strategies.in_random_order(place):
            data.change(place)
            place.settle()
            times.add(strategy, strategies.copy_s(place, strategy))
        timed("take()", lambda: take(NAME))
        delete(NAME)
        timed("pgsnap take", _runner(project.manage("pgsnap", "take", NAME)))
        timed("pgsnap delete", _runner(project.manage("pgsnap", "delete", NAME)))
        if dslr_snapshot := project.dslr(place, "snapshot", NAME):
            timed("dslr snapshot", _runner(dslr_snapshot))
        if dslr_delete := project.dslr(place, "delete", NAME):
            timed("dslr delete", _runner(dslr_delete))
    project.clear(place)
    return times


def _try_strategies() -> None:
    """Take twice, so that pgsnap knows whether this file system shares blocks."""
    for name in ("first", "second"):
        take(name, spare=False)
    delete("first")


def _runner(command: list[str]) -> Callable[[], None]:
    return lambda: project.run(command)


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1000], metavar="MB")
    parser.add_argument("--runs", type=int, default=7)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        project.start(place)
        for size in options.sizes:
            times = measure(place, size, options.runs)
            alone = strategies.available(place)
            best = min(times[strategy] for strategy in alone)
            names = [*alone, *(name for name in times if name not in alone)]
            figures.show(
                place,
                f"Take and delete, {size:g} MB: {figures.MEDIANS}",
                ("what", "time", "by the best strategy alone"),
                [(name, times.show(name), f"{times[name] / best:.2f} x") for name in names],
            )


if __name__ == "__main__":
    main()
