"""Doing several things at once: running statements on sessions, and opening them."""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeVar

import psycopg

from .session import Query, Session

_CANCEL_AGAIN_S: Final = 0.2

Result = TypeVar("Result")


def run_together(
    work: Sequence[tuple[Session, Query]],
    *,
    meanwhile: Callable[[], object],
    every_s: Callable[[], float],
) -> list[BaseException | None]:
    """Run one statement on each session, all at the same time.

    When one fails the others are cancelled, and so they are when ``meanwhile`` raises, or when
    the user presses Ctrl-C. No statement is under way any more when this returns or raises.

    Args:
        work: Sessions, each with its statement.
        meanwhile: Called again and again while statements run. It must use other sessions.
        every_s: Asked each time how long to wait before, in seconds.

    Returns:
        What each statement raised, None for those that succeeded, in the order of ``work``.
    """
    statements = _Statements(work)
    try:
        statements.begin()
        while not statements.are_settled(within_s=every_s()):
            meanwhile()
    finally:
        statements.cancel_the_rest()
    return statements.outcomes


class _Statements:
    """Statements under way, each in a thread of its own.

    Ctrl-C may come between any two steps of the main thread. In the middle of a lock that is
    written in Python, as those of threads, futures and conditions are, it would leave that lock
    taken, and a thread that has to tell its end would wait for ever. So there is none: what the
    threads tell is in a set and a dictionary, and the queue, written in C, only wakes who waits.
    """

    def __init__(self, work: Sequence[tuple[Session, Query]]) -> None:
        self._work = work
        self._begun: set[int] = set()
        self._ended: dict[int, BaseException | None] = {}
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._is_over = False

    @property
    def outcomes(self) -> list[BaseException | None]:
        """What each statement raised."""
        return [self._ended.get(number, _not_begun()) for number in range(len(self._work))]

    def begin(self) -> None:
        for number in range(len(self._work)):
            start_new_thread(self._run, (number,))

    def are_settled(self, *, within_s: float) -> bool:
        """Wait a little, and tell whether all have ended, or one has failed."""
        self._wait(within_s)
        outcomes = list(self._ended.values())
        return len(outcomes) == len(self._work) or outcomes.count(None) < len(outcomes)

    def cancel_the_rest(self) -> None:
        self._is_over = True
        # A request to cancel that overtakes its statement is lost, so it is repeated.
        while running := self._begun - self._ended.keys():
            for number in running:
                with suppress(psycopg.Error):
                    self._work[number][0].cancel()
            self._wait(_CANCEL_AGAIN_S)

    def _run(self, number: int) -> None:
        # Whoever cancels sees that it has begun, or this sees that it is not to begin any more.
        self._begun.add(number)
        outcome: BaseException | None = None
        if self._is_over:
            outcome = _not_begun()
        else:
            session, statement = self._work[number]
            try:
                session.execute(statement)
            except BaseException as error:  # noqa: BLE001  # whoever asked for it decides
                outcome = error
        self._ended[number] = outcome
        self._bell.put(None)

    def _wait(self, seconds: float) -> None:
        with suppress(Empty):
            self._bell.get(timeout=seconds)


def _not_begun() -> BaseException:
    return psycopg.errors.QueryCanceled("another one failed before it had begun")


def start_in_thread(work: Callable[[], Result]) -> Future[Result]:
    """Begin some work in a thread that keeps nobody from ending the process."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
