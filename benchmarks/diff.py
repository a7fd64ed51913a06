"""How long a diff takes, beside what else could tell the difference, in the same run.

Measured are, in turn and several times, on a table of many rows of which few were changed:

- the diff, from the call until it has returned;
- the server's scan that counts the rows newer than the snapshot, which would not be exact;
- hashing all rows of the live database, as comparisons by checksum do, on one side alone.

And the diff of many small tables that are all unchanged, and the memory that a diff needs.
"""

from __future__ import annotations

import argparse
from typing import Final

from psycopg import sql

from benchmarks import data, figures, project, servers
from benchmarks.figures import Times
from benchmarks.memory import peak_kib
from benchmarks.servers import Place
from django_pgsnap.comparison.diff import diff
from django_pgsnap.snapshots.take import take

NAME: Final = "benchmark"
CHANGED: Final = 175
TABLES: Final = 600

_NEWER: Final = "SELECT count(*) FILTER (WHERE age(xmin) < 1000) FROM sample"
_HASH: Final = "SELECT sum(hashtextextended(sample::text, 0)::numeric) FROM sample"


def measure_large(place: Place, megabytes: float, count: int) -> tuple[Times, str]:
    """Measure a table of this size with few changes; return the memory of the command, too."""
    times = Times()
    data.build(place, megabytes)
    with place.connect(data.LIVE) as connection:
        connection.execute("ALTER TABLE sample ADD PRIMARY KEY (id)")
    take(NAME, spare=False)
    with place.connect(data.LIVE) as connection:
        connection.execute(
            "UPDATE sample SET x = -x WHERE id IN (SELECT n * (SELECT max(id) FROM sample) / %s"
            " FROM generate_series(1, %s) n)",
            [CHANGED, CHANGED],
        )
    for _ in figures.runs(count, f"diff, {megabytes:g} MB"):
        times.add("diff", project.seconds(_check))
        times.add("newer", project.seconds(lambda: _scan(place, _NEWER)))
        times.add("hash", project.seconds(lambda: _scan(place, _HASH)))
    memory = f"{peak_kib('pgsnap', 'diff', NAME) / 1024:.1f} MiB"
    project.clear(place)
    return times, memory


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


def _scan(place: Place, query: str) -> None:
    with place.connect(data.LIVE) as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0")
        connection.execute(query)


def main() -> None:
    """Measure as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[100, 1000, 5000], metavar="MB")
    parser.add_argument("--runs", type=int, default=5)
    servers.add_options(parser)
    options = parser.parse_args()
    with servers.place(options) as place:
        project.start(place)
        large = {size: measure_large(place, size, options.runs) for size in options.sizes}
        figures.show(
            place,
            f"Diff with {CHANGED} rows changed: {figures.MEDIANS}",
            ("size", "diff", "count of newer rows", "ratio", "hash of all rows", "ratio", "memory"),
            [
                (
                    f"{size:g} MB",
                    times.show("diff"),
                    times.show("newer"),
                    f"{times['diff'] / times['newer']:.2f}",
                    times.show("hash"),
                    f"{times['hash'] / times['diff']:.1f}",
                    memory,
                )
                for size, (times, memory) in large.items()
            ],
        )
        many = measure_many(place, options.runs)
        figures.show(place, f"{TABLES} tables, none changed", ("diff",), [(many.show("diff"),)])


if __name__ == "__main__":
    main()
