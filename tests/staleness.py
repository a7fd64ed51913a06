"""What makes it show that a process knows stale things of a database that was replaced."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections, transaction
from django.dispatch import Signal
from django.test import AsyncRequestFactory, RequestFactory
from psycopg import sql

from tests.servers import Server

# How often a swap may find somebody who has just come.
SWAPS = 3


def change(alias: str = "default") -> None:
    """Give content types other ids and the site another name, as if all were made anew."""
    with transaction.atomic(alias), connections[alias].cursor() as cursor:
        cursor.execute("UPDATE auth_permission SET content_type_id = content_type_id + 1000")
        cursor.execute("UPDATE django_content_type SET id = id + 1000")
        cursor.execute("UPDATE django_site SET name = name || '!'")
        cursor.execute("INSERT INTO testapp_author (name) VALUES ('Ursula')")
    connections[alias].close()


def make_twin(server: Server, live: str) -> None:
    """Copy a live database, for `swap_twin`."""
    _run(server, live, "CREATE DATABASE {twin} TEMPLATE {live} STRATEGY FILE_COPY")


def swap_twin(server: Server, live: str) -> None:
    """Let the live database and its twin change places, as a restore by another process does."""
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {name}"
    swap = (
        end,
        "BEGIN",
        "ALTER DATABASE {live} RENAME TO {third}",
        "ALTER DATABASE {twin} RENAME TO {live}",
        "ALTER DATABASE {third} RENAME TO {twin}",
        "COMMIT",
    )
    for _ in range(SWAPS):
        # A pool that is still filling itself connects once more, and a restore ends it again.
        with suppress(psycopg.errors.ObjectInUse):
            _run(server, live, *swap)
            return
    raise TimeoutError(f"clients keep coming to {live!r}")


def answer(path: str, handler: WSGIHandler | None = None, *, cookies: str = "") -> dict[str, Any]:
    """Answer a request in this thread, through the handler that servers call."""
    status: list[str] = []

    def start_response(line: str, *_: Any) -> Callable[[bytes], object]:
        status.append(line)
        return bytes.__len__

    environ = RequestFactory().get(path, HTTP_COOKIE=cookies).environ
    response = (handler or WSGIHandler())(environ, start_response)
    content = b"".join(response)
    response.close()
    return {"status": int(status[0].split()[0]), **_facts(content)}


async def asgi_answer(path: str, *, cookies: str = "") -> dict[str, Any]:
    """Answer a request from the event loop, through the handler that such servers call."""
    given: list[Any] = [{"type": "http.request"}]
    sent: list[Any] = []

    async def receive() -> Any:
        # After the request, nothing: the client waits for its answer.
        return given.pop() if given else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = AsyncRequestFactory().get(path, headers={"cookie": cookies}).scope
    await ASGIHandler()(dict(scope), receive, send)
    start, body = sent
    return {"status": start["status"], **_facts(body["body"])}


@contextmanager
def threads(number: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Give threads that go on from request to request, each with connections of its own."""
    pools = [ThreadPoolExecutor(max_workers=1) for _ in range(number)]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.submit(connections.close_all).result()
            pool.shutdown()


@contextmanager
def heard(signal: Signal) -> Iterator[list[dict[str, Any]]]:
    """Collect what a signal is sent with."""
    calls: list[dict[str, Any]] = []

    def listen(**arguments: Any) -> None:
        calls.append(arguments)

    signal.connect(listen)
    try:
        yield calls
    finally:
        signal.disconnect(listen)


def is_fresh(state: dict[str, Any], *, authors: int) -> bool:
    """Tell whether an answer is a good one, and from the right database."""
    told = (state["status"], state.get("cached"), state.get("authors"))
    return told == (200, state.get("in_table"), authors)


def _run(server: Server, live: str, *statements: str) -> None:
    names = {"live": live, "twin": f"{live}_twin", "third": f"{live}_third"}
    identifiers = {key: sql.Identifier(name) for key, name in names.items()}
    with server.connect() as connection:
        for statement in statements:
            connection.execute(sql.SQL(statement).format(**identifiers, name=sql.Literal(live)))


def _facts(content: bytes) -> dict[str, Any]:
    """Return what a page of facts says; other pages say none."""
    return dict(json.loads(content)) if content.startswith(b"{") else {}
