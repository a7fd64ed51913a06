"""The table to measure with: that of DSLR's README, 20 million rows in about 1 GB."""

from typing import Final

from psycopg import sql

from benchmarks.servers import Place

# What Django's settings name; see `benchmarks.project`.
LIVE: Final = "pgsnap_benchmark"

MB: Final = 1000**2

# An empty database of PostgreSQL 18, and what a row of one bigint and two doubles takes.
_EMPTY_BYTES: Final = int(7.6 * MB)
_ROW_BYTES: Final = 52.2

_LIVE: Final = sql.Identifier(LIVE)


def build(place: Place, megabytes: float) -> None:
    """Create the live database anew, as large as asked for: 1000 is DSLR's example."""
    rows = max(1, int((megabytes * MB - _EMPTY_BYTES) / _ROW_BYTES))
    with place.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(_LIVE))
    with place.connect(LIVE) as connection:
        connection.execute("CREATE TABLE sample (id bigint, x float8, y float8)")
        connection.execute(
            "INSERT INTO sample SELECT n, random(), random() FROM generate_series(1, %s) n", [rows]
        )
        connection.execute("VACUUM ANALYZE sample")


def drop(place: Place) -> None:
    """Drop the live database."""
    with place.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(_LIVE))


def change(place: Place, megabytes: float = 1) -> None:
    """Change some rows of the live database, as the code does that one works on."""
    rows = int(megabytes * MB / _ROW_BYTES)
    with place.connect(LIVE) as connection:
        connection.execute("UPDATE sample SET x = -x WHERE id <= %s", [rows])
