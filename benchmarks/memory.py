"""How much memory the command needs at its peak, and whether the size of the database matters."""

import argparse
import subprocess
import sys
from typing import Final

from benchmarks import data, figures, project, servers
from benchmarks.servers import Place

NAME: Final = "benchmark"

# A child's peak begins with the memory of the process that forked it, so that must be a small one.
_PEAK: Final = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_kib(*arguments: str) -> int:
    """Run a management command, and return its peak resident set size in KiB, as on Linux."""
    command = [sys.executable, "-S", "-c", _PEAK, *project.manage(*arguments)]
    return int(subprocess.check_output(command, cwd=project.ROOT, text=True))  # noqa: S603


def measure(place: Place, megabytes: float) -> tuple[str, ...]:
    """Measure the commands on a database of this size."""
    data.build(place, megabytes)
    peaks = [peak_kib("check"), peak_kib("pgsnap", "take", NAME)]
    project.settle_with_spare(place, NAME)
    peaks.append(peak_kib("pgsnap", "restore", NAME))
    place.settle()
    project.clear(place)
    return (f"{megabytes:g} MB", *(f"{peak / 1024:.1f} MiB" for peak in peaks))


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[100, 1000, 5000], metavar="MB")
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        project.start(place)
        figures.show(
            place,
            "Peak memory of the command",
            ("size", "manage.py check", "pgsnap take", "pgsnap restore"),
            [measure(place, size) for size in options.sizes],
        )


if __name__ == "__main__":
    main()
