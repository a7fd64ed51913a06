"""Ctrl-C, whatever the command is doing."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.project import Manage
from tests.servers import Server
from tests.watching import authors, held_up, is_waiting, settle, until, write

INTERRUPTED = (
    130,
    "",
    "CommandError: Interrupted. Nothing is left half done; see ./manage.py pgsnap list.\n",
)


@pytest.mark.parametrize("words", [["take", "new"], ["restore", "seeded"]], ids=" ".join)
def test_before_the_copy(words: list[str], live: str, manage: Manage, server: Server) -> None:
    """Ctrl-C while the server waits to copy leaves nothing, and says so, with status 130."""
    copy = take("seeded", spare=False).members[0].database.name
    write("Ursula")
    before = settle(server)

    with held_up(server, live if words[0] == "take" else copy):
        command = manage.start("pgsnap", *words)
        until(lambda: is_waiting(server, f"pgsnap {words[0]}"))
        command.send_signal(signal.SIGINT)
        ended = _end(command)

    assert ended == INTERRUPTED
    assert settle(server) == before
    assert authors() == ["Ursula"]


def test_diff(live: str, manage: Manage, server: Server) -> None:
    """Ctrl-C while a diff waits for a table ends its queries, and shuts the copy."""
    take("seeded", spare=False)
    write("Ursula")
    before = settle(server)

    with server.connect(live) as blocker, blocker.transaction():
        blocker.execute("LOCK TABLE testapp_author")
        command = manage.start("pgsnap", "diff", "seeded")
        until(lambda: is_waiting(server, "pgsnap diff"))
        command.send_signal(signal.SIGINT)
        ended = _end(command)

    assert ended == INTERRUPTED
    assert settle(server) == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it looks at signals in /proc")
@pytest.mark.parametrize("strategy", ["wal_log", "file_copy"])
def test_while_bytes_are_copied(
    strategy: str, live: str, manage: Manage, server: Server, sql: RunSql
) -> None:
    """Ctrl-C when files of the copy are there already has the server remove them."""
    before, files = settle(server), _directories(server)

    with held_up(server, live) as blocker:
        command = manage.start("pgsnap", "take", "new", "--strategy", strategy)
        until(lambda: is_waiting(server, "pgsnap take"))
        pid = sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%%'")[0][0]
        blocker.execute("ROLLBACK")
        until(lambda: _directories(server) > files)
        with _stopped(pid):
            assert len(_directories(server) - files) == 1
            command.send_signal(signal.SIGINT)
            until(lambda: _is_told_to_cancel(pid))

    assert _end(command) == INTERRUPTED
    assert settle(server) == before
    assert _directories(server) == files


def _end(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = command.communicate(timeout=60)
    return command.returncode, stdout, stderr


def _directories(server: Server) -> set[str]:
    """Return where the server keeps its databases, those that no row tells of among them."""
    return {path.name for path in (server.data_dir / "base").iterdir()}


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Have a process of the server pause."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_told_to_cancel(pid: int) -> bool:
    """Tell whether a cancellation waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert pending
    return bool(int(pending[1], 16) & 1 << signal.SIGINT - 1)
