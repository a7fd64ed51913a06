"""PgBouncer in front of a test's server, where it is installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.servers import SUPERUSER, Server, unprivileged_identity

CONFIGURATION = """\
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
pool_mode = transaction
auth_type = any
ignore_startup_parameters = extra_float_digits
"""
STARTS_IN_S = 10


@contextmanager
def pgbouncer(server: Server, directory: Path) -> Iterator[int]:
    """Start PgBouncer in transaction mode, and yield the port where it listens."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    port = free_port()
    file = directory / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(host=server.root, port=server.port, user=SUPERUSER, listen_port=port)
    )
    file.chmod(0o644)
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, "-q", str(file)], **options, **unprivileged_identity()) as run:
        try:
            _wait_until_open(port)
            yield port
        finally:
            run.terminate()


def _wait_until_open(port: int) -> None:
    deadline = time.monotonic() + STARTS_IN_S
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        assert time.monotonic() < deadline, "PgBouncer does not start"
        time.sleep(0.01)
