"""Doing several things at once: running statements on sessions, and opening them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
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
        statements.send()
        while not statements.are_settled(within_s=every_s()):
            meanwhile()
        statements.cancel_the_rest()
    except BaseException:
        statements.cancel_the_rest()
        raise
    return statements.outcomes


class _Statements:
    """Statements that were sent, and what has come back.

    Ctrl-C may come between any two steps. So what is under way is not noted here: libpq knows.
    """

    def __init__(self, work: Sequence[tuple[Session, Query]]) -> None:
        self._work = work
        self._ended: dict[int, psycopg.Error | None] = {}

    @property
    def outcomes(self) -> list[BaseException | None]:
        """What each statement raised."""
        not_sent = psycopg.errors.QueryCanceled("another one failed before it was sent")
        return [self._ended.get(number, not_sent) for number in range(len(self._work))]

    def send(self) -> None:
        for number, (session, statement) in enumerate(self._work):
            try:
                session.send(statement)
            except psycopg.Error as error:
                self._ended[number] = error
                return

    def are_settled(self, *, within_s: float) -> bool:
        """Wait a little, and tell whether all have ended, or one has failed."""
        self._wait(within_s)
        return len(self._ended) == len(self._work) or any(self._ended.values())

    def cancel_the_rest(self) -> None:
        # A request to cancel that overtakes its statement is lost, so it is repeated.
        while running := self._running():
            for session in running:
                with suppress(psycopg.Error):
                    session.cancel()
            self._wait(_CANCEL_AGAIN_S)

    def _running(self) -> list[Session]:
        return [session for session, _ in self._work if session.is_running]

    def _wait(self, seconds: float) -> None:
        _wait_until_readable(self._running(), seconds)
        for number, (session, _) in enumerate(self._work):
            if number not in self._ended and (session.is_running or session.broken):
                try:
                    if not session.busy:
                        session.finish()
                        self._ended[number] = None
                except psycopg.Error as error:
                    self._ended[number] = error


def _wait_until_readable(sessions: Iterable[Session], seconds: float) -> None:
    with DefaultSelector() as selector:
        for session in sessions:
            selector.register(session, EVENT_READ)
        selector.select(seconds)


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
