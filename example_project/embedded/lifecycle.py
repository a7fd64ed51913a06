"""Make, start and stop the embedded PostgreSQL, one command at a time.

What it needs for that is imported only then, since that takes longer than any command may wait.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.core.files import locks

from .server import PORT, EmbeddedServer

if TYPE_CHECKING:
    from .binaries import Binaries

# The shortest limit of the systems that PostgreSQL runs on: macOS, without the final zero byte.
MAX_SOCKET_PATH_BYTES = 103


def ensure_running(server: EmbeddedServer) -> None:
    """Start *server* unless it runs, and make it first if it never ran.

    Raises:
        ImproperlyConfigured: It does not start, or its files belong to another user.
    """
    if server.socket_folder() is not None:
        return
    from .binaries import Binaries
    from .leftovers import clear_leftovers

    with _one_at_a_time(server):
        if server.socket_folder() is not None:  # Another command was faster.
            return
        if not server.data.exists():
            unfinished = server.data.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _create(server, unfinished, Binaries(unfinished))
        binaries = Binaries(server.data)
        if server.data.stat().st_uid != binaries.uid:
            raise server.belongs_to_another_user()
        clear_leftovers(server.data)
        _start(server, binaries)


def stop_server(server: EmbeddedServer) -> None:
    """Stop *server* once its sessions are ended; nothing happens when it does not run."""
    if server.socket_folder() is None:
        return
    from .binaries import Binaries

    with _one_at_a_time(server):
        folder = server.socket_folder()
        if folder is None:  # Another command was faster.
            return
        Binaries(server.data).run("pg_ctl", "stop", "-w", "-D", str(server.data), "-m", "fast")
        if folder != server.data:
            folder.rmdir()


def _create(server: EmbeddedServer, unfinished: Path, binaries: "Binaries") -> None:
    """Make the files beside, then rename: the data directory is complete or does not exist."""
    binaries.initialise()
    # In single-user mode, so that no other command ever meets a server without the database.
    binaries.run(
        *("postgres", "--single", "-D", str(unfinished), "-c", "exit_on_error=true", "postgres"),
        text_input=f'CREATE DATABASE "{server.database}"\n',
    )
    unfinished.rename(server.data)


def _start(server: EmbeddedServer, binaries: "Binaries") -> None:
    folder = shlex.quote(str(_socket_folder(server.data, binaries)))
    options = f"-h '' -k {folder} -p {PORT}"
    try:
        binaries.run(
            *("pg_ctl", "start", "-w", "-D", str(server.data)),
            *("-l", str(server.log), "-o", options),
        )
    except subprocess.CalledProcessError:
        raise ImproperlyConfigured(
            f"The embedded PostgreSQL does not start; {server.log} says why. "
            "Set DATABASE_URL to use another server."
        ) from None


def _socket_folder(data: Path, binaries: "Binaries") -> Path:
    path = os.fsencode(data / f".s.PGSQL.{PORT}")
    # Server and clients take a comma for the end of the first of several folders.
    if len(path) <= MAX_SOCKET_PATH_BYTES and b"," not in path:
        return data
    folder = Path(tempfile.gettempdir(), f"postgresql-{sha256(path).hexdigest()[:12]}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, binaries.uid, -1)
    return folder


@contextmanager
def _one_at_a_time(server: EmbeddedServer) -> Iterator[None]:
    server.home.mkdir(exist_ok=True)
    with (server.home / "lock").open("w") as file:
        locks.lock(file, locks.LOCK_EX)
        yield
