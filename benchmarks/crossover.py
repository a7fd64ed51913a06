"""From which size on copying files is quicker than writing every block to the write-ahead log.

FILE_COPY makes the server write out all that has changed, before and after it copies, which no
small database is worth. So each strategy is measured on a server that has written out everything,
and on one that has not: right after rows were changed, up to 64 MB of them.

This is where ``WAL_LOG_MAX_BYTES`` in ``django_pgsnap/clones/strategy.py`` comes from.
"""

import argparse
from typing import Final

from benchmarks import data, figures, servers, strategies
from benchmarks.figures import Times
from benchmarks.servers import Place

DIRTY_MB: Final = 64


def measure(place: Place, megabytes: float, count: int) -> Times:
    """Measure copies of a database of this size."""
    times = Times()
    data.build(place, megabytes)
    for _ in figures.runs(count, f"copy, {megabytes:g} MB"):
        for strategy in strategies.in_random_order(place):
            place.settle()
            times.add(strategy, strategies.copy_s(place, strategy))
            place.settle()
            data.change(place, min(DIRTY_MB, megabytes))
            times.add(f"{strategy}, dirty", strategies.copy_s(place, strategy))
    data.drop(place)
    return times


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[8, 12, 16, 32, 64, 128, 256], metavar="MB"
    )
    parser.add_argument("--runs", type=int, default=7)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        columns = [
            f"{strategy}{state}"
            for state in ("", ", dirty")
            for strategy in strategies.available(place)
        ]
        measured = {size: measure(place, size, options.runs) for size in options.sizes}
        figures.show(
            place,
            f"Copying by each strategy: {figures.MEDIANS}",
            ("size", *columns),
            [(f"{size:g} MB", *map(times.show, columns)) for size, times in measured.items()],
        )


if __name__ == "__main__":
    main()
