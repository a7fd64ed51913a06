"""Run the sweep: `python -m tests.sweep`, in as many processes as the machine has processors."""

# ruff: noqa: T201  # it prints to whoever runs it

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.sweep import workers
from tests.sweep.commands import COMMANDS
from tests.sweep.points import WAYS
from tests.sweep.sweeper import Case, Result

COLUMNS = ("points", "cases", "struck", "failed")


def main() -> int:
    """Sweep what the arguments say, print a summary, and return the exit status."""
    options = _options()
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.processes, context, initializer=workers.begin, initargs=(options.server,)
    ) as pool:
        listed = pool.map(workers.cases, options.commands)
        matching = [case for group in listed for case in group if _matches(case, options)]
        cases = _chosen(matching, options.sample, options.seed)
        results = list(_told(pool.map(workers.run, cases), len(cases)))
    _summarise(options.commands, results)
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return int(any(result.problems for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument(
        "--server",
        default=os.environ.get("PGSNAP_TEST_SERVER", "18"),
        help="which PostgreSQL, as for the suite",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--way", choices=WAYS, help="only this way to strike")
    parser.add_argument("--matching", default="", help="only statements that contain this")
    parser.add_argument("--sample", type=int, help="run only so many cases, chosen by chance")
    parser.add_argument("--seed", type=int, default=1, help="of that choice")
    options = parser.parse_args()
    options.commands = options.commands or list(COMMANDS)
    return options


def _matches(case: Case, options: argparse.Namespace) -> bool:
    strike = case.strike
    return options.matching in strike.point.statement and options.way in (None, strike.way)


def _chosen(cases: Sequence[Case], sample: int | None, seed: int) -> Sequence[Case]:
    if sample is None or sample >= len(cases):
        return cases
    chosen = random.Random(seed).sample(range(len(cases)), sample)  # noqa: S311  # no secret
    # In their order, since the cases of a command share what their worlds are made from.
    return [cases[index] for index in sorted(chosen)]


def _told(results: Iterable[Result], total: int) -> Iterator[Result]:
    for number, result in enumerate(results, 1):
        if result.problems:
            print(f"FAILED {result.case}", *result.problems, sep="\n    ", flush=True)
        if number % 100 == 0:
            print(f"{number} of {total}", file=sys.stderr, flush=True)
        yield result


def _summarise(commands: Sequence[str], results: Sequence[Result]) -> None:
    print(f"{'command':32}" + "".join(f"{column:>8}" for column in COLUMNS))
    totals: Counter[str] = Counter()
    for command in commands:
        here = [result for result in results if result.case.command == command]
        counts = {
            "points": len({result.case.strike.point for result in here}),
            "cases": len(here),
            "struck": sum(result.reached for result in here),
            "failed": sum(bool(result.problems) for result in here),
        }
        totals.update(counts)
        print(_row(command, counts))
    print(_row("all", totals))


def _row(title: str, counts: dict[str, int]) -> str:
    return f"{title:32}" + "".join(f"{counts[column]:8}" for column in COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
