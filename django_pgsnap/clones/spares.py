"""Spares and drops: what the server does by itself when an operation is over.

A spare is a clone of a copy that stands ready, so that a restore only has to rename one.

The server finishes CREATE and DROP DATABASE though their client is gone, and shows a new database
only when it is complete. The session that does it holds the lock of the database's name, so that
others can tell that somebody is at work on it. No worker of ours has to run.
"""

from collections.abc import Iterable
from contextlib import suppress

import psycopg
from psycopg import sql

from ..conf import config
from ..messages import Message, message
from ..postgres.advisory_locks import (
    lock_if_free,
    read_lock_holder,
    release_lock,
    release_other_locks,
    try_acquire_lock,
    wait_for_lock,
)
from ..postgres.backends import end_diffs
from ..postgres.server import Server
from ..postgres.session import Query, Session
from ..reporting import Reporter
from .catalog import AnyDatabase, Database
from .names import spare_name
from .records import Record, parse_strategy
from .strategy import shares_blocks
from .transitions import Clone, drop_database


def plan_spare(copy: Database[Record]) -> Clone:
    """Return what the spare of a copy is to be, made the way the copy was made."""
    return Clone(
        source=copy.name,
        name=spare_name(copy.record.identity),
        owner=copy.owner,
        strategy=parse_strategy(copy.record.strategy),
    )


def describe_taken_name(copy: Record, taken: AnyDatabase) -> Message:
    """Return why a copy gets no spare, where another database has its spare's name."""
    return message(
        "The spare of {copy!r} cannot be made, since a database of the role {role!r} has its "
        "name, {name!r}.",
        copy=copy.name,
        role=taken.owner,
        name=taken.name,
    )


def wants_spare(record: Record) -> bool:
    """Tell whether the settings want a spare of a copy like this."""
    settings = config()
    return settings.spares > 0 and (
        record.size_bytes <= settings.spare_max_bytes
        or shares_blocks(record.strategy, record.size_bytes, record.seconds)
    )


def wait_for_spare(session: Session, copy: Record, reporter: Reporter) -> None:
    """Wait until nobody makes a spare of this copy, which keeps it from being changed."""
    if lock_spare(session, copy, reporter):
        release_lock(session, spare_name(copy.identity))


def cancel_spare(session: Session, copy: Record) -> None:
    """Stop what would keep a copy from being renamed: the making of its spare, and diffs."""
    end_diffs(session, [copy.database])
    name = spare_name(copy.identity)
    maker = read_lock_holder(session, name)
    if maker is None:
        return
    # Another role's we may not be allowed to stop; then it takes the time it takes.
    with suppress(psycopg.errors.InsufficientPrivilege):
        session.rows(sql.SQL("SELECT pg_cancel_backend(%s)"), [maker.pid])
    if wait_for_lock(session, name):
        release_lock(session, name)


def lock_spare(session: Session, copy: Record, reporter: Reporter) -> bool:
    """Take the lock of a copy's spare, unless a role that may make none keeps it from us.

    One that is being made is waited for, which is never slower than copying afresh.
    """
    name = spare_name(copy.identity)
    if try_acquire_lock(session, name):
        return True
    holder = read_lock_holder(session, name)
    is_stranger = holder is not None and holder.is_stranger
    by = message(" by {holder}", holder=holder) if is_stranger else ""
    reporter.wait(
        message("Waiting for the spare of {name!r}, which is being made{by}", name=copy.name, by=by)
    )
    return wait_for_lock(session, name, reporter)


def send_off(server: Server, work: Iterable[Clone | str], sessions: Iterable[Session] = ()) -> None:
    """Have clones made, and databases of these names dropped, by sessions that end with that.

    Sessions that an operation needs no longer are used first. Their locks are given back only
    when the statements have theirs, so that nobody can come to use what is about to be dropped.
    What somebody else is at work on is left to them.
    """
    idle = list(sessions)
    begun: list[tuple[Session, str, Query]] = []
    try:
        for each in work:
            clone, name = (each, each.name) if isinstance(each, Clone) else (None, each)
            session = idle.pop() if idle else server.session("clearing up")
            if not try_acquire_lock(session, name):
                idle.append(session)
                continue
            begun.append((session, name, clone.statement if clone else drop_database(name)))
            if clone:
                clone.prepare(session)
    finally:
        # The server may let no more sessions in; those that there are have work already.
        for session, lock, _ in begun:
            release_other_locks(session, lock)
        for session in idle:
            session.close()
        for session, _, query in begun:
            session.fire(query)


def drop_leftovers(session: Session, leftovers: Iterable[AnyDatabase], reporter: Reporter) -> None:
    """Drop what interrupted operations left, each under its lock, while we wait."""
    for left in leftovers:
        with lock_if_free(session, left.name) as is_ours:
            if is_ours:
                drop_unless_in_use(session, left.name, reporter)


def drop_unless_in_use(session: Session, name: str, reporter: Reporter) -> None:
    """Drop a database whose lock is held, or tell why it stays: somebody is on it."""
    try:
        session.execute(drop_database(name))
    except psycopg.errors.ObjectInUse as error:
        reason = error.diag.message_detail
        reporter.warn(message("Not dropped: {name!r}, since {reason}.", name=name, reason=reason))
