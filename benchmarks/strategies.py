"""Copying a database by a plain CREATE DATABASE, by each strategy that the server has."""

import random
from collections.abc import Sequence
from typing import Final

from psycopg import sql

from benchmarks import project
from benchmarks.data import LIVE
from benchmarks.servers import Place

_COPY: Final = sql.Identifier(f"{LIVE}_copy")

_CREATE: Final = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}")


def available(place: Place) -> Sequence[str]:
    """Return the names of the strategies, as pgsnap calls them."""
    with place.connect() as connection:
        cloning = connection.execute(
            "SELECT FROM pg_settings WHERE name = 'file_copy_method' AND 'clone' = ANY(enumvals)"
        ).fetchall()
    return ("wal_log", "file_copy", "clone") if cloning else ("wal_log", "file_copy")


def in_random_order(place: Place) -> Sequence[str]:
    """Return the names shuffled: what one leaves to the disk shall not always slow the same."""
    present = available(place)
    return random.sample(present, len(present))


def copy_s(place: Place, strategy: str) -> float:
    """Copy the live database, drop the copy, and return how long copying took, in seconds."""
    statement = _CREATE.format(
        _COPY, sql.Identifier(LIVE), sql.SQL("WAL_LOG" if strategy == "wal_log" else "FILE_COPY")
    )
    with place.connect() as connection:
        if strategy == "clone":
            connection.execute("SET file_copy_method = clone")
        seconds = project.seconds(lambda: connection.execute(statement))
        connection.execute(sql.SQL("DROP DATABASE {}").format(_COPY))
    return seconds
