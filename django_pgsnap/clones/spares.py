"""Spares: clones of a copy that stand ready, so that a restore only has to rename one.

Nothing of ours has to run while a spare is made: the server finishes CREATE DATABASE though its
client has left, and shows the new database only when it is complete. The session that makes it
holds the lock of the spare's name, so others can tell that it is on its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ..conf import config
from ..postgres.advisory_locks import (
    read_lock_holder,
    release_lock,
    release_other_locks,
    try_acquire_lock,
    wait_for_lock,
    wait_until_lock_free,
)
from ..postgres.backends import end_diffs
from ..postgres.server import Server
from ..postgres.session import Query, Session
from ..reporting import Reporter
from .catalog import AnyDatabase, load_catalog
from .names import spare_name
from .records import Record
from .strategy import Clone, drop_database, parse_strategy, shares_blocks


@dataclass(frozen=True, kw_only=True)
class _BackgroundStatement:
    """A statement that the server finishes by itself, and the session that is given up for it."""

    session: Session
    lock: str
    statement: Query


class BackgroundStatements:
    """Statements that the server finishes after we have left.

    Each needs a session of its own, and the lock of the database that it is about. Sessions that
    the operation needs no longer are used first. The operation's own locks are given back only
    when the background have theirs, so that nobody can come to use what is about to be dropped.
    """

    def __init__(self, server: Server, sessions: Iterable[Session]) -> None:
        """Take over sessions whose work is done, with their locks."""
        self._server = server
        self._idle = list(sessions)
        self._statements: list[_BackgroundStatement] = []

    def make_spare(self, copy: AnyDatabase, record: Record) -> None:
        """Take on to have a spare of the copy made, unless somebody else is at it."""
        spare = plan_spare(copy, record)
        session = self._take_on(spare.name, spare.statement)
        if session is not None:
            spare.prepare(session)

    def drop(self, database: str) -> None:
        """Take on to have a database dropped, unless somebody else is at work on it."""
        self._take_on(database, drop_database(database))

    def leave(self) -> None:
        """Give the operation's locks back, and send everything off."""
        for each in self._statements:
            release_other_locks(each.session, each.lock)
        for session in self._idle:
            session.close()
        for each in self._statements:
            each.session.fire(each.statement)

    def _take_on(self, database: str, statement: Query) -> Session | None:
        session = self._idle.pop() if self._idle else self._server.session("clearing up")
        if not try_acquire_lock(session, database):
            self._idle.append(session)
            return None
        self._statements.append(
            _BackgroundStatement(session=session, lock=database, statement=statement)
        )
        return session


def plan_spare(copy: AnyDatabase, record: Record) -> Clone:
    """Return what the spare of a copy is to be, made the way the copy was made."""
    return Clone(
        source=copy.name,
        name=spare_name(record.identity),
        owner=copy.owner,
        strategy=parse_strategy(record.strategy),
    )


def wants_spare(record: Record) -> bool:
    """Tell whether the settings want a spare of a copy like this."""
    settings = config()
    return settings.spare and (
        record.size_bytes <= settings.spare_max_bytes
        or shares_blocks(record.strategy, record.size_bytes, record.seconds)
    )


def obtain_spare(
    session: Session, watcher: Session, copy: Record, reporter: Reporter
) -> AnyDatabase | None:
    """Return the spare of a copy, None if there is none.

    One that is being made is waited for, which is never slower than copying afresh. The session
    holds the lock of the spare's name from then on, so that nobody drops it. The watcher, which
    has looked at the catalog before, does so quicker.
    """
    _lock(session, copy, reporter)
    return load_catalog(watcher).spare(copy.identity)


def wait_for_spare(session: Session, copy: Record, reporter: Reporter) -> None:
    """Wait until nobody makes a spare of this copy, which keeps it from being changed."""
    _lock(session, copy, reporter)
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
    wait_until_lock_free(session, name)


def _lock(session: Session, copy: Record, reporter: Reporter) -> None:
    name = spare_name(copy.identity)
    if not try_acquire_lock(session, name):
        reporter.wait(f"Waiting for the spare of {copy.name!r}, which is being made")
        wait_for_lock(session, name)
