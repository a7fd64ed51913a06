"""Statements that the server finishes after we have left: clones made ahead, and drops.

The server finishes CREATE and DROP DATABASE though their client is gone, and shows a new database
only when it is complete. The session that does it holds the lock of the database's name, so that
others can tell that somebody is at work on it. No worker of ours has to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

from ..messages import message
from ..postgres.advisory_locks import release_lock, release_other_locks, try_acquire_lock
from ..postgres.server import Server
from ..postgres.session import Query, Session
from ..reporting import Reporter
from .catalog import AnyDatabase
from .strategy import Clone, drop_database


@dataclass(frozen=True, kw_only=True)
class _Statement:
    session: Session
    lock: str
    query: Query


class BackgroundStatements:
    """Statements to send off, each on a session of its own.

    Sessions that an operation needs no longer are used first. Their locks are given back only
    when the statements have theirs, so that nobody can come to use what is about to be dropped.
    """

    def __init__(self, server: Server, sessions: Iterable[Session] = ()) -> None:
        """Take over sessions whose work is done, with their locks."""
        self._server = server
        self._idle = list(sessions)
        self._statements: list[_Statement] = []

    def make(self, clone: Clone) -> None:
        """Have a clone made, unless somebody else is at it."""
        session = self._lock(clone.name, clone.statement)
        if session is not None:
            clone.prepare(session)

    def drop(self, database: str) -> None:
        """Have a database dropped, unless somebody else is at work on it."""
        self._lock(database, drop_database(database))

    def send_all(self) -> None:
        """Give the operation's locks back, and send everything off."""
        for each in self._statements:
            release_other_locks(each.session, each.lock)
        for session in self._idle:
            session.close()
        for each in self._statements:
            each.session.fire(each.query)

    def _lock(self, database: str, query: Query) -> Session | None:
        session = self._idle.pop() if self._idle else self._server.session("clearing up")
        if not try_acquire_lock(session, database):
            self._idle.append(session)
            return None
        self._statements.append(_Statement(session=session, lock=database, query=query))
        return session


def drop_leftovers(session: Session, leftovers: Iterable[AnyDatabase], reporter: Reporter) -> None:
    """Drop what interrupted operations left, each under its lock, while we wait."""
    for left in leftovers:
        if not try_acquire_lock(session, left.name):
            continue
        try:
            session.execute(drop_database(left.name))
        except psycopg.errors.ObjectInUse as error:
            reporter.warn(
                message(
                    "Not dropped: {name!r}, since {reason}.",
                    name=left.name,
                    reason=error.diag.message_detail,
                )
            )
        finally:
            release_lock(session, left.name)
