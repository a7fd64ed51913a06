"""Workers and servers of other packages carry on: none errs, and none answers what was before."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.project import ROOT, child_environment, point
from tests.serving import serving
from tests.watching import until, write
from tests.workers import ANSWER_S, TASKS_IN, make_celery

CONNECTIONS: dict[str, dict[str, Any]] = {
    "CONN_MAX_AGE 0": {"CONN_MAX_AGE": 0},
    "CONN_MAX_AGE None": {"CONN_MAX_AGE": None},
    "pool": {"OPTIONS": {"pool": {"min_size": 2, "max_size": 4}}},
}
CELERY = (
    *("celery", "-A", "tests.workers", "worker", "--concurrency=2", "--loglevel=INFO"),
    *("--without-mingle", "--without-gossip", "--without-heartbeat"),
)
# By kind: the package.
WORKERS = {
    "solo": "celery",
    "prefork": "celery",
    "threads": "celery",
    "scheduler": "apscheduler",
    "listener": "psycopg",
}
# By kind: the package, and the page.
SERVERS = {
    "async": ("uvicorn", "/async-state/"),
    "greenlets": ("gevent", "/state/"),
    "threads": ("gunicorn", "/state/"),
}
ROUNDS = 3

Ask = Callable[[], str]

each_connection = pytest.mark.parametrize("connections", CONNECTIONS.values(), ids=CONNECTIONS)


@contextmanager
def working(kind: str, directory: Path) -> Iterator[Ask]:
    """Start a worker, yield a function that asks it, and end it."""
    is_celery = WORKERS[kind] == "celery"
    log = directory / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [
                *(sys.executable, "-m"),
                *((*CELERY, f"--pool={kind}") if is_celery else ("tests.workers", kind)),
            ],
            cwd=ROOT,
            env=child_environment() | {TASKS_IN: str(directory)},
            stdin=subprocess.PIPE,
            stdout=file if is_celery else subprocess.PIPE,
            stderr=file,
            text=True,
        ) as child,
    ):
        try:
            yield ask_celery(directory, log) if is_celery else ask_child(child)
        finally:
            child.terminate()


def ask_celery(directory: Path, log: Path) -> Ask:
    """Wait until Celery is ready, and return how it is asked."""
    task = make_celery(directory).tasks["count"]
    until(lambda: " ready." in log.read_text())

    def ask() -> str:
        result = task.delay()
        for sent in (directory / "sent").iterdir():
            sent.rename(directory / "tasks" / sent.name)
        return str(result.get(timeout=ANSWER_S, interval=0.02))

    return ask


def ask_child(child: "subprocess.Popen[str]") -> Ask:
    """Return how a process is asked that answers each line with another."""
    assert child.stdin is not None
    assert child.stdout is not None
    given, answers = child.stdin, child.stdout

    def ask() -> str:
        given.write("\n")
        given.flush()
        return answers.readline().strip()

    return ask


@each_connection
@pytest.mark.parametrize("kind", WORKERS)
def test_worker(kind: str, connections: dict[str, Any], live: str, tmp_path: Path) -> None:
    """A worker counts what is there, right after each take, each write and each restore."""
    pytest.importorskip(WORKERS[kind])
    if kind == "listener" and "OPTIONS" in connections:
        pytest.skip("who listens keeps a connection, which no pool gives")
    point("default", **connections)
    found = []

    with working(kind, tmp_path) as ask:
        for _ in range(ROUNDS):
            found.append(ask())
            take("seeded", replace=True)
            found.append(ask())
            write("Ursula")
            found.append(ask())
            restore("seeded")
            found.append(ask())

    assert found == ["0", "0", "1", "0"] * ROUNDS


@each_connection
@pytest.mark.parametrize("kind", SERVERS)
def test_server(kind: str, connections: dict[str, Any], live: str, tmp_path: Path) -> None:
    """So does a web server."""
    package, page = SERVERS[kind]
    pytest.importorskip(package)
    point("default", **connections)
    found: list[Any] = []

    with serving([kind], tmp_path) as (server,):

        def ask() -> None:
            answers = server.get_from_all(page)
            found.append({answer.get("authors", str(answer)) for answer in answers})

        for _ in range(ROUNDS):
            ask()
            take("seeded", replace=True)
            ask()
            write("Ursula")
            ask()
            restore("seeded")
            ask()

    assert found == [{0}, {0}, {1}, {0}] * ROUNDS
