"""The same job done the usual way, for comparison: pg_dump and pg_restore."""

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.backends.postgresql.client import DatabaseClient

PROGRAMS = ("pg_dump", "pg_restore", "createdb", "dropdb")
# With a number, so that an older one, left by a crash, is neither in the way nor dropped unseen.
THROWAWAY = f"esign_pg_restore_{os.getpid()}"


class NotComparableError(Exception):
    """The programs are missing or do not work with this server; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How long the usual way takes.

    Attributes:
        dump_s: `pg_dump -Fc`, in seconds.
        restore_s: `pg_restore` into an empty database, in seconds.
    """

    dump_s: float
    restore_s: float


def compare() -> Comparison:
    """Dump the live database to a file, and restore that into a throwaway database.

    Raises:
        NotComparableError: A program is missing, older than the server, or fails.
    """
    for program in PROGRAMS:
        _check(program)
    live = connection.settings_dict["NAME"]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "live.dump")
        dump_s = _run("pg_dump", "-Fc", "-f", file, database=live)
        _run("createdb", database=THROWAWAY)
        try:
            restore_s = _run("pg_restore", "-d", THROWAWAY, file)
        finally:
            _run("dropdb", database=THROWAWAY)
    return Comparison(dump_s=dump_s, restore_s=restore_s)


def _check(program: str) -> None:
    path = _path(program)
    if path is None:
        raise NotComparableError(f"there is no {program} here")
    answer = subprocess.run([path, "--version"], check=True, capture_output=True, text=True)  # noqa: S603
    # It answers, say, "pg_dump (PostgreSQL) 18.4 (Debian 18.4-1)".
    version = answer.stdout.split()[2].partition(".")[0]
    server = connection.get_database_version()[0]
    if int(version) < server:
        raise NotComparableError(f"{program} {version} is older than the server, {server}")


def _path(program: str) -> str | None:
    return shutil.which(program, path=settings.CLIENT_PATH)


def _run(program: str, *arguments: str, database: str | None = None) -> float:
    """Run *program* against the live database's server and return how long it took, in seconds."""
    # Django's answer is for psql: its name, the options that lead to the server, the database.
    (_, *server, _), environment = DatabaseClient.settings_to_cmd_args_env(
        connection.settings_dict | {"NAME": "any"}, []
    )
    command = [_path(program) or program, *server, *arguments]
    if database is not None:
        command.append(database)
    began = time.perf_counter()
    result = subprocess.run(  # noqa: S603
        command,
        env=os.environ | (environment or {}),
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise NotComparableError(result.stderr.strip().splitlines()[-1])
    return time.perf_counter() - began
