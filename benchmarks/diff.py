"""How long a diff takes, beside what else could tell the difference, in the same run.

Measured are, in turn and several times, on a table of many rows of which few were changed:

- the first diff with a snapshot, and a later one, which knows the snapshot's side;
- the server's scan that counts the rows newer than the snapshot, which would not be exact: of the
  live database, and of both sides at the same time, as a first diff has to read them;
- hashing all rows of both sides at the same time, as comparisons by checksum do;
- reladiff (once called data-diff), where it is installed, and diff on two
  outputs of pg_dump. Both need two open databases; a clone is made for them.

And the diff of many small tables that are all unchanged, and the memory that a diff needs.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import quote

from psycopg import sql

from benchmarks import data, figures, project, servers
from benchmarks.figures import Times
from benchmarks.memory import peak_kib
from benchmarks.servers import Place
from django_pgsnap.comparison.diff import diff
from django_pgsnap.snapshots.take import take
from tests.servers import find_bin_dir

NAME: Final = "benchmark"
OTHER: Final = "pgsnap_benchmark_other"
CHANGED: Final = 175
TABLES: Final = 600
_MOST_DUMPED: Final = 1000
COLUMNS: Final = (
    "size",
    "first diff",
    "later diff",
    "count of newer rows",
    "count on both",
    "hashes of both",
)
OTHERS: Final = ("size", "reladiff", "pg_dump and diff", "memory of the first", "of a later one")

_NEWER: Final = "SELECT count(*) FILTER (WHERE age(xmin) < 1000) FROM sample"
_HASH: Final = "SELECT sum(hashtextextended(sample::text, 0)::numeric) FROM sample"


def measure_large(place: Place, megabytes: float, count: int) -> tuple[Times, list[str]]:
    """Measure a table of this size with few changes; return the memory of the command, too."""
    times = Times()
    data.build(place, megabytes)
    with place.connect(data.LIVE) as connection:
        connection.execute("ALTER TABLE sample ADD PRIMARY KEY (id)")
    _clone(place)
    take(NAME, spare=False)
    with place.connect(data.LIVE) as connection:
        connection.execute(
            "UPDATE sample SET x = -x WHERE id IN (SELECT n * (SELECT max(id) FROM sample) / %s"
            " FROM generate_series(1, %s) n)",
            [CHANGED, CHANGED],
        )
    for number in figures.runs(count, f"diff, {megabytes:g} MB"):
        _forget()
        times.add("first diff", project.seconds(_check))
        times.add("newer", project.seconds(lambda: _scan(place, data.LIVE, _NEWER)))
        times.add("later diff", project.seconds(_check))
        times.add("newer of both", project.seconds(lambda: _scan_both(place, _NEWER)))
        times.add("hash", project.seconds(lambda: _scan_both(place, _HASH)))
        # They take long, and come once; diff holds both dumps in memory.
        if number == 0 and megabytes <= _MOST_DUMPED:
            _measure_others(place, times)
    _forget()
    peaks = [peak_kib("pgsnap", "diff", NAME) for _ in range(2)]
    with place.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(sql.Identifier(OTHER)))
    project.clear(place)
    return times, [f"{peak / 1024:.1f} MiB" for peak in peaks]


def _measure_others(place: Place, times: Times) -> None:
    """Measure other programs on both sides; each has to find the changes."""
    sides = [_url(place, name) for name in (OTHER, data.LIVE)]
    program = shutil.which("reladiff")
    if program:
        tables = [sides[0], "sample", sides[1], "sample"]
        command = [program, *tables, "--key-columns", "id", "-c", "x", "-c", "y"]
        times.add("reladiff", project.seconds(lambda: _find(command)))
    dumps = " ".join(f"<(pg_dump --data-only {shlex.quote(side)})" for side in sides)
    dumping = ["bash", "-c", f"diff {dumps}"]
    times.add("pg_dump", project.seconds(lambda: _find(dumping)))


def _find(command: list[str]) -> None:
    """Run a program that prints each changed row as a line before and a line after.

    Raises:
        RuntimeError: It found more or fewer.
    """
    run = subprocess.run(  # noqa: S603  # command lines from here
        command, stdout=subprocess.PIPE, text=True, check=False
    )
    marks = [line for line in run.stdout.splitlines() if line[:2] in ("+ ", "- ", "< ", "> ")]
    # pg_dump writes a random key into each dump, with the commands \\restrict and \\unrestrict.
    found = [line for line in marks if not line[2:].startswith("\\")]
    if len(found) != 2 * CHANGED:
        raise RuntimeError(f"{command[0]} printed {len(found)} rows, not {2 * CHANGED}")


def _forget() -> None:
    """Have the next diff know nothing of the snapshot."""
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "django-pgsnap", ignore_errors=True)


def _url(place: Place, name: str) -> str:
    user, password, host, port = (
        quote(str(place.parameters.get(key, "")), safe="")
        for key in ("user", "password", "host", "port")
    )
    return f"postgresql://{user}:{password}@{host}:{port}/{name}"


def _clone(place: Place) -> None:
    with place.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(OTHER), sql.Identifier(data.LIVE)
            )
        )


def _scan_both(place: Place, query: str) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _scan(place, name, query), [data.LIVE, OTHER]))


def measure_many(place: Place, count: int) -> Times:
    """Measure many small tables, of which none changed."""
    times = Times()
    data.build(place, 1)
    with place.connect(data.LIVE) as connection:
        for number in range(TABLES):
            name = sql.Identifier(f"small_{number}")
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {} AS SELECT n, md5(n::text) FROM generate_series(1, 50) n"
                ).format(name)
            )
    take(NAME, spare=False)
    for _ in figures.runs(count, f"diff, {TABLES} tables"):
        times.add("diff", project.seconds(lambda: diff(NAME)))
    project.clear(place)
    return times


def _check() -> None:
    (table,) = diff(NAME).tables
    if table.changed != CHANGED:
        raise RuntimeError(f"{table.changed} rows changed, not {CHANGED}")


def _scan(place: Place, database: str, query: str) -> None:
    with place.connect(database) as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0")
        connection.execute(query)


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[100, 1000, 5000], metavar="MB")
    parser.add_argument("--runs", type=int, default=5)
    servers.add_options(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches, servers.place(options) as place:
        os.environ["XDG_CACHE_HOME"] = caches
        if not options.dsn:
            os.environ["PATH"] = f"{find_bin_dir(options.server)}:{os.environ['PATH']}"
        project.start(place)
        large = {size: measure_large(place, size, options.runs) for size in options.sizes}
        title = f"Diff with {CHANGED} rows changed: {figures.MEDIANS}, x the count of newer rows"
        names = ("first diff", "later diff", "newer", "newer of both", "hash")
        figures.show(place, title, COLUMNS, [_row(size, large[size][0], names) for size in large])
        rows = [
            (*_row(size, times, ("reladiff", "pg_dump")), *peaks)
            for size, (times, peaks) in large.items()
        ]
        figures.show(place, "Others, once, and memory", OTHERS, rows)
        many = measure_many(place, options.runs)
        figures.show(place, f"{TABLES} tables, none changed", ("diff",), [(many.show("diff"),)])


def _row(size: float, times: Times, names: tuple[str, ...]) -> tuple[str, ...]:
    return (
        f"{size:g} MB",
        *(
            f"{times.show(name)} {times[name] / times['newer']:.2f} x" if name in times else "-"
            for name in names
        ),
    )


if __name__ == "__main__":
    main()
