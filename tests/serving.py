"""Real web servers that serve the suite's project."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tests.ports import free_port
from tests.project import ROOT, child_environment
from tests.watching import Background, until

# The address comes after these.
COMMANDS: Final = {
    "runserver": ("django", "runserver", "--noreload"),
    "runserver that reloads": ("django", "runserver"),
    "workers": ("gunicorn", "tests.wsgi", "--workers=2", "--bind"),
    "preloaded workers": ("gunicorn", "tests.wsgi", "--workers=2", "--preload", "--bind"),
    "threads": ("gunicorn", "tests.wsgi", "--worker-class=gthread", "--threads=3", "--bind"),
    "greenlets": ("gunicorn", "tests.wsgi", "--worker-class=gevent", "--bind"),
    "async": ("uvicorn", "tests.asgi:application", "--port"),
}

# How many requests at once make sure that all workers have something to do.
AT_ONCE: Final = 4


class WebServer:
    """A web server in processes of its own.

    Attributes:
        processes: How many of them answer requests.
    """

    def __init__(self, kind: str, log: Path) -> None:
        """Start it, and do not wait."""
        self._port = free_port()
        self._log = log
        address = str(self._port) if kind == "async" else f"127.0.0.1:{self._port}"
        self.processes = 2 if "workers" in kind else 1
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[kind], address],
                cwd=ROOT,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            try:
                self.get("/no-query/")
            except ConnectionError:
                return False
            return True

        until(answers)

    def get(self, path: str) -> dict[str, Any]:
        """Return what it answers to one request."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            return {"status": response.status, "log": self._log.read_text()[-2000:]}
        return {"status": response.status, **json.loads(content or b"{}")}

    def get_from_all(self, path: str) -> list[Any]:
        """Ask until each of its processes has answered, and return all answers."""
        answers: list[Any] = []

        def all_have_answered() -> bool:
            asking = [Background(lambda: self.get(path)) for _ in range(AT_ONCE)]
            answers.extend(each.result() for each in asking)
            failed = any(answer["status"] != 200 for answer in answers)
            return failed or len({answer["pid"] for answer in answers}) >= self.processes

        until(all_have_answered)
        return answers

    def end(self) -> None:
        """End its processes; they are the only ones of their group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def serving(kinds: Iterable[str], logs: Path) -> Iterator[list[WebServer]]:
    """Start web servers at the same time, and end them afterwards."""
    with ExitStack() as stack:
        servers = []
        for kind in kinds:
            servers.append(WebServer(kind, logs / f"{kind}.log"))
            stack.callback(servers[-1].end)
        for server in servers:
            server.wait()
        yield servers
