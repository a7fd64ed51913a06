"""The throwaway server itself."""

import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.conftest import ROLE_PASSWORD, MakeRole
from tests.project import ROOT
from tests.servers import Server, find_bin_dir

START_AND_WAIT = """
import sys
from pathlib import Path
from tests.servers import Server

server = Server(Path(sys.argv[1]))
server.start()
print(server.root, flush=True)
sys.stdin.read()
"""

GONE_S = 30


def test_wrong_password_is_refused_over_tcp(server: Server, role: MakeRole) -> None:
    """Over TCP a role needs its password, on the socket nobody does."""
    name = role()

    server.connect(user=name).close()
    server.connect(user=name, host="127.0.0.1", password=ROLE_PASSWORD).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        server.connect(user=name, host="127.0.0.1", password="wrong")


def test_killed_run_leaves_nothing(server: Server) -> None:
    """When the test process is killed, its server ends and the directory disappears."""
    command = [sys.executable, "-c", START_AND_WAIT, str(server.bin_dir)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        root = Path(run.stdout.readline().strip())
        assert (root / "data" / "postmaster.pid").exists()

        run.kill()

    deadline = time.monotonic() + GONE_S
    while root.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not root.exists()


def test_unknown_server_is_named() -> None:
    """A PostgreSQL that is not installed is an error that says where it was looked for."""
    with pytest.raises(LookupError, match=r"PostgreSQL '7' was not found in .*/postgresql/7/bin"):
        find_bin_dir("7")
