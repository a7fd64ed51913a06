"""Running statements on several sessions at once, while something else is watched."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Timer
from types import FrameType
from typing import Any

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.postgres.session import Session, run_together, start_in_thread
from tests.conftest import RunSql, SessionAs
from tests.watching import PATIENCE_S

# Where Ctrl-C may find us while statements are under way.
OURS = {"django_pgsnap.postgres.session", "selectors"}

OFTEN_S = 0.005

SLEEP = pg.SQL("SELECT pg_sleep(60)")
NOW = pg.SQL("SELECT 1")
FAIL = pg.SQL("SELECT 1/0")


def nothing() -> None:
    pass


@dataclass
class Interruption:
    """Raises KeyboardInterrupt once, at some step of what `run_together` has this thread do."""

    steps_left: int
    happened: bool = False

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if self.happened or frame.f_globals["__name__"] not in OURS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.steps_left -= 1
            if self.steps_left < 0:
                self.happened = True
                raise KeyboardInterrupt
        return self.trace


@contextmanager
def interrupted_at(step: int) -> Iterator[Interruption]:
    interruption = Interruption(step)
    before = sys.gettrace()
    sys.settrace(interruption.trace)
    try:
        yield interruption
    finally:
        sys.settrace(before)


@pytest.fixture
def three(session_as: SessionAs) -> list[Session]:
    return [session_as(), session_as(), session_as()]


@pytest.fixture
def is_idle(sql: RunSql) -> Callable[[Session], bool]:
    """Tells whether a session has nothing under way."""

    def ask(session: Session) -> bool:
        return sql("SELECT state FROM pg_stat_activity WHERE pid = %s", [session.pid]) == [
            ("idle",)
        ]

    return ask


def test_all_succeed(three: list[Session]) -> None:
    """Nothing that was raised is as many times None."""
    results = run_together([(each, NOW) for each in three], meanwhile=nothing, every_s=OFTEN_S)

    assert results == [None, None, None]


def test_statements_run_at_the_same_time(three: list[Session]) -> None:
    """Each waits for the others, so all of them are under way."""
    key = 4711
    meet = (
        "DO $$ BEGIN PERFORM pg_advisory_lock_shared({key}); WHILE (SELECT count(*) < 3 FROM"
        " pg_locks WHERE locktype = 'advisory' AND objid = {key}) LOOP PERFORM pg_sleep(0.001);"
        " END LOOP; END $$"
    )
    statement = pg.SQL(meet).format(key=pg.Literal(key))

    results = run_together(
        [(each, statement) for each in three], meanwhile=nothing, every_s=OFTEN_S
    )

    assert results == [None, None, None]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to cancel that overtakes its statement is soon repeated: it has no files."""
    monkeypatch.setattr("django_pgsnap.postgres.session._CANCEL_AGAIN_S", 0.1)


def test_meanwhile_is_called_until_the_end(three: list[Session]) -> None:
    """What is to be done meanwhile is done again and again, and says how long to wait."""
    calls: list[float] = []

    def meanwhile() -> float:
        calls.append(time.monotonic())
        if len(calls) >= 3:  # the first request may overtake the statement
            three[0].cancel()
        return 0.05

    (error,) = run_together([(three[0], SLEEP)], meanwhile=meanwhile, every_s=OFTEN_S)

    assert isinstance(error, psycopg.errors.QueryCanceled)
    assert calls[2] - calls[0] >= 0.1


def test_one_failure_cancels_the_others(
    three: list[Session], is_idle: Callable[[Session], bool]
) -> None:
    """When one fails there is no point in going on; errors are told in the order of the work."""
    work = list(zip(three, (SLEEP, FAIL, SLEEP), strict=True))

    first, second, third = run_together(work, meanwhile=nothing, every_s=OFTEN_S)

    assert isinstance(first, psycopg.errors.QueryCanceled)
    assert isinstance(second, psycopg.errors.DivisionByZero)
    assert isinstance(third, psycopg.errors.QueryCanceled)
    assert all(map(is_idle, three))


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_interruption_stops_all(
    error: type[BaseException], three: list[Session], is_idle: Callable[[Session], bool]
) -> None:
    """Ctrl-C, or an error of what is done meanwhile, leaves no statement under way."""

    def meanwhile() -> None:
        raise error

    with pytest.raises(error):
        run_together([(each, SLEEP) for each in three], meanwhile=meanwhile, every_s=OFTEN_S)

    assert all(map(is_idle, three))


def test_slow_to_stop(
    three: list[Session], is_idle: Callable[[Session], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that takes its time is stopped once: CREATE DATABASE has files to remove then."""
    slow, cancels = three[0], []
    cancel = Session.cancel

    def begun() -> None:
        if not is_idle(slow):
            raise LookupError

    def stop(session: Session) -> None:
        cancels.append(session)
        os.kill(slow.pid, signal.SIGSTOP)
        Timer(0.5, os.kill, [slow.pid, signal.SIGCONT]).start()
        cancel(session)

    monkeypatch.setattr(Session, "cancel", stop)

    with pytest.raises(LookupError):
        run_together([(slow, SLEEP)], meanwhile=begun, every_s=OFTEN_S)

    assert cancels == [slow]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", range(0, 600, 10))
def test_interruption_at_any_step(
    step: int, session_as: SessionAs, is_idle: Callable[[Session], bool]
) -> None:
    """Wherever Ctrl-C finds the main thread, no statement stays, and nobody waits for ever."""
    sessions = [session_as(), session_as()]
    work = [(sessions[0], SLEEP), (sessions[1], NOW)]

    with interrupted_at(step) as interruption, suppress(KeyboardInterrupt):
        run_together(work, meanwhile=sessions[0].cancel, every_s=OFTEN_S)

    assert interruption.happened
    assert all(map(is_idle, sessions))


def test_cancels_once_what_cleans_up(
    three: list[Session], sql: RunSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that takes its time to stop is left to it, though others stop at once.

    Otherwise CREATE DATABASE leaves the files that it was about to remove. A server before 18 makes
    two signals of one request, and the second may stop the cleaning up, too: so what counts here is
    how often it was asked.
    """
    clean_up = pg.SQL(
        "DO $$ BEGIN PERFORM pg_sleep(60);"
        " EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0.3); END $$"
    )
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    asked, cancel = [], Session.cancel

    def ask(session: Session) -> None:
        asked.append(session)
        cancel(session)

    monkeypatch.setattr(Session, "cancel", ask)

    def meanwhile() -> None:
        if sql(asleep) == [(3,)]:
            cancel(three[0])

    first, second, _ = run_together(
        [(three[0], SLEEP), (three[1], SLEEP), (three[2], clean_up)],
        meanwhile=meanwhile,
        every_s=OFTEN_S,
    )

    assert isinstance(first, psycopg.errors.QueryCanceled)
    assert isinstance(second, psycopg.errors.QueryCanceled)
    assert asked == three[1:]


@pytest.mark.usefixtures("impatient")
def test_cancels_again_what_goes_on(session_as: SessionAs) -> None:
    """A request to cancel that the server misses is repeated until it is heeded."""

    class Missed(Session):
        """Sends its first request to cancel too early."""

        asked = 0

        def cancel(self) -> None:
            self.asked += 1
            if self.asked > 1:
                super().cancel()

    missed = Missed(session_as()._connection)

    cancelled, failed = run_together(
        [(missed, SLEEP), (session_as(), FAIL)], meanwhile=nothing, every_s=OFTEN_S
    )

    assert isinstance(failed, psycopg.errors.DivisionByZero)
    assert isinstance(cancelled, psycopg.errors.QueryCanceled)
    assert missed.asked > 1


def test_what_cannot_be_sent(three: list[Session], is_idle: Callable[[Session], bool]) -> None:
    """Where a session is lost before its statement is sent, those after it do not begin."""
    first, lost, last = three
    lost.close()

    cancelled, failed, not_sent = run_together(
        [(first, SLEEP), (lost, NOW), (last, SLEEP)], meanwhile=nothing, every_s=OFTEN_S
    )

    assert isinstance(cancelled, psycopg.errors.QueryCanceled)
    assert isinstance(failed, psycopg.OperationalError)
    assert isinstance(not_sent, psycopg.errors.QueryCanceled)
    assert is_idle(first)
    assert is_idle(last)


def test_a_session_that_is_lost(three: list[Session], is_idle: Callable[[Session], bool]) -> None:
    """A session that is ended while its statement runs is a failure like others."""
    kill = pg.SQL("SELECT pg_terminate_backend({})").format(pg.Literal(three[0].pid))

    lost, cancelled = run_together(
        [(three[0], SLEEP), (three[1], SLEEP)],
        meanwhile=lambda: three[2].execute(kill),
        every_s=OFTEN_S,
    )

    assert isinstance(lost, psycopg.OperationalError)
    assert isinstance(cancelled, psycopg.errors.QueryCanceled)
    assert three[0].broken
    assert is_idle(three[1])


def test_begin() -> None:
    """Work that was begun goes on beside, and its result is there when it is asked for."""
    may_end = Event()

    def work() -> str:
        may_end.wait(PATIENCE_S)
        return "done"

    begun = start_in_thread(work)
    still_running = not begun.done()
    may_end.set()

    assert still_running
    assert begun.result(PATIENCE_S) == "done"


def test_begin_what_fails() -> None:
    """What the work raised is raised where its result is asked for."""
    begun = start_in_thread(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        begun.result(PATIENCE_S)


def test_many_open_files(session_as: SessionAs) -> None:
    """A process that has more files open than select() takes waits all the same."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    try:
        with ExitStack() as stack:
            for _ in range(1024):
                stack.enter_context(Path(os.devnull).open())
            session = session_as()
            assert session.fileno() > 1023

            session.send(pg.SQL("SELECT pg_sleep(0.01)"))
            session.finish()

            assert session.value(NOW) == 1
            session.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
