"""Crash points: the statements that a command sends, and how it is struck at one of them."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql, waiting

from django_pgsnap.postgres.session import Session

Way = Literal["kill", "terminate", "interrupt"]
When = Literal["before", "after"]
WAYS: tuple[Way, ...] = ("kill", "terminate", "interrupt")

# A loop that waits for others sends the same statement any number of times.
MOST_REPEATS = 2

GONE_S = 10

# Between a query's being sent and its being answered, only what has an effect is worth a strike:
# after a mere look the client is where it is before the next statement.
HAS_EFFECT = re.compile(
    r"^execute|pg_advisory_(?:un)?lock|pg_try_advisory|pg_terminate_backend|pg_cancel_backend"
)
CHANGING = re.compile(r"[0-9a-f]{16,}|\d+")


class Point(NamedTuple):
    """The *occurrence*th time (from 1) that a statement goes out; *when* it was not yet, or was."""

    statement: str
    occurrence: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.statement[:150]!r} ({self.occurrence})"


@dataclass(frozen=True, kw_only=True)
class Strike:
    """Where a command is struck, and how."""

    point: Point
    way: Way


def _text(queries: sql.Composable | Sequence[sql.Composable]) -> str:
    """Return the text of a query, or of several."""
    several = [queries] if isinstance(queries, sql.Composable) else queries
    return "; ".join(each.as_string(None) for each in several)


class Trap:
    """Sees every statement of this process' maintenance sessions, and strikes at one of them.

    Attributes:
        points: those seen so far, in their order.
        struck: whether the strike took place.
    """

    def __init__(self, strike: Strike | None, end_backend: Callable[[int], None]) -> None:
        """Prepare; *end_backend* ends the server process of that id, from another connection."""
        self.points: list[Point] = []
        self.struck = False
        self._strike = strike
        self._end_backend = end_backend
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._under_way = threading.local()

    def set(self) -> None:
        """Have every statement of this process pass through here from now on."""
        for method in ("rows", "value", "execute", "send", "fire", "cancel", "close"):
            setattr(Session, method, self._watched(method, getattr(Session, method)))
        prepare = Session.prepare

        def prepare_watched(session: Session, *arguments: Any) -> None:
            self._pass("open", None)
            prepare(session, *arguments)

        Session.prepare = prepare_watched  # type: ignore[assignment,method-assign]
        self._wait = waiting.wait
        waiting.wait = self._wait_watched  # type: ignore[assignment]

    def _watched(self, method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(session: Session, *arguments: Any) -> Any:
            # What is sent is executed; we only wait for it elsewhere.
            named = "execute" if method == "send" else method
            statement = " ".join([named, *map(_text, arguments[:1])])
            strike = self._pass(CHANGING.sub("#", statement), session)
            self._under_way.strike = strike
            try:
                result = original(session, *arguments)
                if method == "send" and strike is not None:
                    strike()
                return result
            finally:
                self._under_way.strike = None

        return watched

    def _pass(self, statement: str, session: Session | None) -> Callable[[], None] | None:
        """Strike if it is to be now; return what strikes once the statement is sent, if any."""
        with self._lock:
            occurrence = self._seen[statement] = self._seen.get(statement, 0) + 1
            here: list[Point] = []
            if occurrence <= MOST_REPEATS:
                here.append(Point(statement, occurrence, "before"))
                if HAS_EFFECT.search(statement):
                    here.append(Point(statement, occurrence, "after"))
            self.points += here
        if self._strike is None or self._strike.point not in here:
            return None
        if self._strike.point.when == "after":
            return lambda: self._hit(session)
        self._hit(session)
        return None

    def _hit(self, session: Session | None) -> None:
        assert self._strike
        self.struck = True
        if self._strike.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._strike.way == "terminate":
            if session is not None and not session.broken:
                self._end_backend(session.pid)
        elif threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        else:
            # Ctrl-C reaches the main thread, whichever thread is at work.
            os.kill(os.getpid(), signal.SIGINT)

    def _wait_watched(
        self, generator: Generator[Any, Any, Any], *arguments: Any, **options: Any
    ) -> Any:
        """Wait for the server as psycopg does, but strike when all is sent and nothing read."""
        strike = getattr(self._under_way, "strike", None)
        if strike is None:
            return self._wait(generator, *arguments, **options)
        self._under_way.strike = None
        try:
            wanted = next(generator)
            while wanted != waiting.WAIT_R:
                wanted = generator.send(waiting.READY_RW)
        except StopIteration as answered:
            strike()
            return answered.value
        strike()
        return self._wait(generator, *arguments, **options)


def backend_ender(parameters: dict[str, Any]) -> Callable[[int], None]:
    """Return a function that ends a server process and returns when it is gone."""

    def end(pid: int) -> None:
        deadline = time.monotonic() + GONE_S
        with psycopg.connect(**parameters, autocommit=True) as connection:
            while connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s", [pid]
            ).fetchall():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"backend {pid} stays")
                time.sleep(0.001)

    return end
