"""Advisory locks: one operation at a time, and who is at it."""

import time
from functools import partial

import pytest
from psycopg import sql as pg

from django_pgsnap.errors import OperationRunningError
from django_pgsnap.postgres.advisory_locks import (
    acquire_lock,
    lock_key,
    read_catalog_lock_holders,
    read_lock_holder,
    read_lock_holders,
    release_lock,
    release_other_locks,
    try_acquire_lock,
    wait_for_lock,
)
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, ServerAs, SessionAs
from tests.watching import Background, Recorder, timeless, until

# The keys of the first two are negative, that of the last is positive.
NAMES = ["live", 'we"ird %s \N{SNOWMAN}', "app"]


@pytest.mark.parametrize("name", NAMES)
def test_one_at_a_time(name: str, session_as: SessionAs) -> None:
    """Of two sessions one gets the lock; the other may have it afterwards."""
    first, second = session_as(), session_as()

    acquire_lock(first, name, 0)

    assert not try_acquire_lock(second, name)
    release_lock(first, name)
    assert try_acquire_lock(second, name)


def test_databases_do_not_stand_in_each_others_way(session_as: SessionAs) -> None:
    """Each database has a lock of its own."""
    acquire_lock(session_as(), "live", 0)

    assert try_acquire_lock(session_as(), "other")


@pytest.mark.parametrize("name", NAMES)
def test_one_at_a_time_in_all_databases(
    name: str, session_as: SessionAs, make_database: MakeDatabase
) -> None:
    """Whoever works from another database gets the lock afterwards, too, and sees who has it."""
    make_database("elsewhere")
    here, there = session_as(), session_as(database="elsewhere")

    acquire_lock(here, name, 0)

    assert not try_acquire_lock(there, name)
    with pytest.raises(OperationRunningError, match=f": pid {here.pid}, role 'postgres', "):
        acquire_lock(there, name, 0.02)
    release_lock(here, name)
    acquire_lock(there, name, 0)
    assert not try_acquire_lock(here, name)


def test_never_two_at_a_time(session_as: SessionAs, make_database: MakeDatabase) -> None:
    """Of two that try again and again from two databases, each gets its turns, alone."""
    make_database("elsewhere")
    inside: list[int] = []
    most = 0

    def work(session: Session) -> None:
        nonlocal most
        for _ in range(50):
            wait_for_lock(session, "live")
            inside.append(session.pid)
            most = max(most, len(inside))
            inside.remove(session.pid)
            release_lock(session, "live")

    at_work = [
        Background(partial(work, session_as(database=name))) for name in ("postgres", "elsewhere")
    ]

    for each in at_work:
        each.result()
    assert most == 1


def test_lock_goes_with_its_session(session_as: SessionAs) -> None:
    """A session that ends, in whatever way, leaves no lock behind."""
    with session_as() as session:
        acquire_lock(session, "live", 0)

    acquire_lock(session_as(), "live", 10)


@pytest.mark.parametrize("wait_s", [0, 0.05])
def test_holder_is_named(wait_s: float, session_as: SessionAs, server_as: ServerAs) -> None:
    """Whoever waits in vain is told who is at work, on what, and since when."""
    with server_as().session("restore seeded") as holder:
        acquire_lock(holder, "live", 0)
        started = time.monotonic()

        with pytest.raises(OperationRunningError) as caught:
            acquire_lock(session_as(), "live", wait_s)

        assert time.monotonic() - started >= wait_s
        assert caught.value.message.startswith(
            "Another snapshot operation is at work on the database 'live': "
            f"pid {holder.pid}, role 'postgres', 'pgsnap restore seeded ("
        )
        assert timeless(caught.value.message).endswith("', for 0 s.")
        assert caught.value.hint == (
            "Wait for it, give more time with --wait, "
            "or end it with SELECT pg_terminate_backend(pid)."
        )


@pytest.mark.parametrize(
    ("wait_s", "told"), [(30, "Waiting up to 30 s"), (float("inf"), "Waiting")]
)
def test_waits_for_the_holder(wait_s: float, told: str, session_as: SessionAs) -> None:
    """A lock that becomes free in time is taken; meanwhile it is told who has it."""
    first, second, recorder = session_as(), session_as(), Recorder()
    acquire_lock(first, "live", 0, recorder)
    waiting = Background(lambda: acquire_lock(second, "live", wait_s, recorder))
    until(lambda: bool(recorder.steps))

    release_lock(first, "live")

    waiting.result()
    holder = read_lock_holder(first, "live")
    assert holder is not None
    assert holder.pid == second.pid
    (step,) = recorder.steps
    assert step.startswith(f"{told} for another operation: pid {first.pid}, role 'postgres', ")


def test_timeout_is_over_with_the_wait(session_as: SessionAs) -> None:
    """What is set for the wait does not outlast it, whether it ended well or not."""
    session, other = session_as(), session_as()
    session.configure({"lock_timeout": "7s"})
    acquire_lock(other, "live", 0)
    shown = pg.SQL("SHOW lock_timeout")

    with pytest.raises(OperationRunningError):
        acquire_lock(session, "live", 0.01)
    after_failure = session.value(shown)
    release_lock(other, "live")
    wait_for_lock(session, "live")

    assert (after_failure, session.value(shown)) == ("7s", "7s")


def test_wait_until_free(session_as: SessionAs) -> None:
    """Waiting for the end of an operation leaves the lock free."""
    session = session_as()

    assert wait_for_lock(session, "live")
    release_lock(session, "live")

    assert read_lock_holder(session, "live") is None
    assert try_acquire_lock(session_as(), "live")


def test_nobody_holds_it(session: Session) -> None:
    """A lock that is free has no holder."""
    assert read_lock_holder(session, "live") is None
    assert read_lock_holders(session) == {}


def test_holder_whose_activity_may_not_be_seen(
    role: MakeRole, session_as: SessionAs, session: Session
) -> None:
    """A role that may not see what others do sees who holds the lock all the same."""
    acquire_lock(session, "live", 0)

    holder = read_lock_holder(session_as(role()), "live")

    assert holder is not None
    assert holder.seconds is None
    assert str(holder) == f"pid {session.pid}, role 'postgres', {holder.application!r}"


def test_keep_only(session_as: SessionAs) -> None:
    """A session may give back all locks but one."""
    session = session_as()
    for name in NAMES:
        acquire_lock(session, name, 0)

    release_other_locks(session, NAMES[1])

    assert list(read_lock_holders(session)) == [lock_key(NAMES[1])]


def test_catalog_holders(
    session: Session, session_as: SessionAs, make_database: MakeDatabase
) -> None:
    """Who keeps a database's entry locked, in a transaction that is open, can be named."""
    make_database("live")
    make_database("other")
    ours, theirs = session_as(), session_as()
    for each in (ours, theirs):
        each.execute(pg.SQL("BEGIN"))
    theirs.execute(pg.SQL("COMMENT ON DATABASE live IS 'mine'"))
    ours.execute(pg.SQL("COMMENT ON DATABASE other IS 'mine'"))

    found = read_catalog_lock_holders(session, ["live", "other"], [ours.pid])

    assert [holder.pid for holder in found] == [theirs.pid]
    assert read_catalog_lock_holders(session, ["other"], [ours.pid]) == []
    ours.execute(pg.SQL("ROLLBACK"))
    theirs.execute(pg.SQL("ROLLBACK"))
