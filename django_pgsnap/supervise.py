"""Doing several things at once: running statements on sessions, and opening them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Thread
from typing import Final, TypeVar

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
    with ThreadPoolExecutor(max_workers=len(work)) as pool:
        futures = [pool.submit(session.execute, statement) for session, statement in work]
        try:
            while not _settled(futures, every_s()):
                meanwhile()
        finally:
            _cancel_the_rest(work, futures)
    return [future.exception() for future in futures]


def begin(work: Callable[[], Result]) -> Future[Result]:
    """Begin some work in a thread that keeps nobody from ending the process."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _cancel_the_rest(
    work: Sequence[tuple[Session, Query]], futures: Sequence[Future[None]]
) -> None:
    # A request to cancel that overtakes its statement is lost, so it is repeated.
    while wait(futures, timeout=0).not_done:
        for (session, _), future in zip(work, futures, strict=True):
            if not future.done():
                session.cancel()
        wait(futures, timeout=_CANCEL_AGAIN_S)


def _settled(futures: Sequence[Future[None]], timeout_s: float) -> bool:
    done, running = wait(futures, timeout=timeout_s, return_when=FIRST_EXCEPTION)
    return not running or any(future.exception() for future in done)
