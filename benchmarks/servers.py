"""The server to measure: a throwaway one on a disk with fsync on, or one that runs already."""

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.servers import CONFIGURATION, Server, find_bin_dir

# Unlike /tmp this is on a disk everywhere (Filesystem Hierarchy Standard).
DISK: Final = Path("/var/tmp")  # noqa: S108  # the throwaway server makes its own directory there

_LOOK_S: Final = 0.005
_QUIET_WITHIN_S: Final = 15 * 60

_ERRANDS: Final = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsnap %'"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server to measure on.

    Attributes:
        parameters: How to connect to its maintenance database, in libpq's words.
        load: The machine's load average before, of which any bit spoils the figures.
    """

    parameters: Mapping[str, Any]
    load: float

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Open an autocommit connection to one of its databases."""
        return psycopg.connect(**{**self.parameters, "dbname": database}, autocommit=True)

    def describe(self) -> str:
        """Return what the figures depend on: version, settings and what else went on."""
        with self.connect() as connection:
            version, fsync, buffers = connection.execute(
                "SELECT current_setting('server_version'), current_setting('fsync'),"
                " current_setting('shared_buffers')"
            ).fetchall()[0]
        return (
            f"PostgreSQL {version.split()[0]}, fsync {fsync}, shared_buffers {buffers}, "
            f"{os.cpu_count()} cores, load before {self.load:.1f}"
        )

    def settle(self) -> None:
        """Wait until the server has finished what was sent off, and written what was changed.

        Raises:
            TimeoutError: It is still at it after a quarter of an hour.
        """
        deadline = time.monotonic() + _QUIET_WITHIN_S
        with self.connect() as connection:
            while connection.execute(_ERRANDS).fetchall() != [(0,)]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the server is still busy after {_QUIET_WITHIN_S} s")
                time.sleep(_LOOK_S)
            connection.execute("CHECKPOINT")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the server."""
    parser.add_argument("--server", default="18", help="major version or directory of binaries")
    parser.add_argument("--directory", type=Path, default=DISK, help="where it keeps its data")
    parser.add_argument("--dsn", help="measure this server instead; its role must be a superuser")


@contextmanager
def place(options: argparse.Namespace) -> Iterator[Place]:
    """Provide the server that the options choose; a throwaway one is removed in the end."""
    load, *_ = os.getloadavg()
    if options.dsn:
        yield Place(parameters=conninfo_to_dict(options.dsn), load=load)
        return
    server = Server(find_bin_dir(options.server), parent=options.directory)
    try:
        server.start()
        _take_seriously(server)
        yield Place(parameters=server.parameters(), load=load)
    finally:
        server.remove()


def _take_seriously(server: Server) -> None:
    """Give every setting that the tests change back the value that PostgreSQL comes with."""
    with server.connect() as connection:
        defaults = connection.execute(
            "SELECT name, boot_val FROM pg_settings WHERE name = ANY(%s)", [list(CONFIGURATION)]
        ).fetchall()
        for name, value in defaults:
            connection.execute(
                sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
            )
    server.restart()
