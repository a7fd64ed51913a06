"""Spares: clones of a copy that stand ready, so that a restore only has to rename one.

Nothing of ours has to run while a spare is made: the server finishes CREATE DATABASE though its
client has left, and shows the new database only when it is complete. The session that makes it
holds the lock of the spare's name, so others can tell that it is on its way.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import sql

from . import catalog, cloning, locks, names
from .catalog import Catalog, Database
from .cloning import Clone
from .conf import config
from .metadata import Record
from .report import Reporter
from .server import Server, Session


class Errands:
    """Sends off statements that the server finishes after we have left.

    Each needs a session of its own, which is given up for it. Sessions that the operation needs
    no longer are used first.
    """

    def __init__(self, server: Server, sessions: list[Session]) -> None:
        """Take over sessions whose work is done, with their locks."""
        self._server = server
        self._sessions = sessions
        for session in sessions:
            locks.release_all(session)

    def make_spare(self, copy: Database, record: Record) -> None:
        """Have a spare of the copy made, unless somebody else is at it."""
        spare = spare_of(copy, record)
        session = self._session()
        if locks.try_acquire(session, spare.name):
            spare.prepare(session)
            session.fire(spare.statement)
        else:
            self._sessions.append(session)

    def drop(self, database: str) -> None:
        """Have a database dropped, unless somebody else is at work on it."""
        session = self._session()
        if locks.try_acquire(session, database):
            session.fire(cloning.drop(database))
        else:
            self._sessions.append(session)

    def close(self) -> None:
        """End the sessions that no errand needed."""
        while self._sessions:
            self._sessions.pop().close()

    def _session(self) -> Session:
        return self._sessions.pop() if self._sessions else self._server.session("clearing up")


def spare_of(copy: Database, record: Record) -> Clone:
    """Return what the spare of a copy is to be, made the way the copy was made."""
    return Clone(
        source=copy.name,
        name=names.spare_name(record.identity),
        owner=copy.owner,
        strategy=cloning.strategy_named(record.strategy),
    )


def is_wanted(record: Record) -> bool:
    """Tell whether the settings want a spare of a copy like this."""
    settings = config()
    return settings.spare and (
        record.size_bytes <= settings.spare_max_bytes
        or cloning.shares_blocks(record.strategy, record.size_bytes, record.seconds)
    )


def obtain(session: Session, present: Catalog, copy: Record, reporter: Reporter) -> Database | None:
    """Return the spare of a copy, waiting for one that is being made; None if there is none.

    Waiting is never slower than copying afresh, which would only begin now.
    """
    spare = present.spare(copy.identity)
    if spare is None and is_being_made(session, copy):
        reporter.step(f"Waiting for the spare of {copy.name!r}, which is being made")
        locks.wait_until_free(session, names.spare_name(copy.identity))
        spare = catalog.load(session).spare(copy.identity)
    return spare


def is_being_made(session: Session, copy: Record) -> bool:
    """Tell whether some session is making the spare of this copy."""
    return locks.holder(session, names.spare_name(copy.identity)) is not None


def abandon(session: Session, copy: Record) -> None:
    """Stop the making of a copy's spare, which would keep the copy from being renamed."""
    name = names.spare_name(copy.identity)
    maker = locks.holder(session, name)
    if maker is None:
        return
    # Another role's we may not be allowed to stop; then it takes the time it takes.
    with suppress(psycopg.errors.InsufficientPrivilege):
        session.rows(sql.SQL("SELECT pg_cancel_backend(%s)"), [maker.pid])
    locks.wait_until_free(session, name)
