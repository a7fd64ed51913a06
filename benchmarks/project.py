"""The Django project to measure with, its command lines, and DSLR's."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import django
from django.conf import settings
from psycopg import sql

from benchmarks import data
from benchmarks.servers import Place
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import get, overview

ROOT: Final = Path(__file__).parent.parent


def start(place: Place) -> None:
    """Start the tests' Django project on the live database, for child processes too."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    # Only now: it imports models.
    from tests.project import child_environment, point

    del settings.DATABASES["other"]
    keys = ("host", "port", "user", "password")
    server = {key.upper(): place.parameters.get(key, "") for key in keys}
    point("default", NAME=data.LIVE, **server)
    os.environ.update(child_environment())


def manage(*arguments: str) -> list[str]:
    """Return the command line of a management command."""
    return [sys.executable, "-m", "django", *arguments]


def dslr(place: Place, *arguments: str) -> list[str] | None:
    """Return a command line of DSLR, None where it is not installed beside this Python."""
    program = shutil.which("dslr", path=str(Path(sys.executable).parent))
    if program is None:
        return None
    host, port, user, password = (
        quote(str(place.parameters.get(key, "")), safe="")
        for key in ("host", "port", "user", "password")
    )
    return [program, "--url", f"postgres://{user}:{password}@{host}:{port}/{data.LIVE}", *arguments]


def run(command: list[str]) -> None:
    """Run a command line to its end.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    ended = subprocess.run(  # noqa: S603  # command lines from here
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{command} failed: {ended.stdout}{ended.stderr}")


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def settle_with_spare(place: Place, name: str) -> None:
    """Wait until the server has made a snapshot's spare, and is quiet.

    Raises:
        RuntimeError: There is no spare.
    """
    place.settle()
    if get(name).spare != "ready":
        raise RuntimeError(f"the server has made no spare of {name!r}")


def clear(place: Place) -> None:
    """Remove the live database with its snapshots and its undo."""
    names = [snapshot.name for snapshot in overview().snapshots]
    if names:
        delete(*names)
    with place.connect() as connection:
        for undo in overview().undos:
            for member in undo.members:
                connection.execute(
                    sql.SQL("DROP DATABASE {}").format(sql.Identifier(member.database.name))
                )
    data.drop(place)
    place.settle()
