"""Clones that are made ahead of the next reset, and databases that are dropped meanwhile.

The server does both in the background, for sessions of their own, while tests run. The databases
have the names of unfinished ones, and this process holds their locks: if it dies, the next run
sweeps them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psycopg

from ...clones.names import new_identity, unfinished_name
from ...clones.strategy import Clone, drop_database
from ...postgres.advisory_locks import release_lock, try_acquire_lock
from ...postgres.server import Server
from ...postgres.session import Query, Session
from ..databases import clones, own_databases
from ..databases.clones import drop_shut_in_background, make_shut_clone

# So many databases may wait to be dropped; then a reset waits, too.
_MAX_TO_DROP: Final = 4


class ClonePool:
    """Makes clones ahead, on one server, one at a time."""

    def __init__(self, server: Server) -> None:
        """Begin with nothing."""
        self._server = server
        self._cloner = _BackgroundStatement(server, "test clones")
        self._dropper = _BackgroundStatement(server, "test clearing")
        self._ordered: Clone | None = None
        self._dropping: str | None = None
        self._to_drop: list[str] = []

    @property
    def _holder(self) -> Session:
        return own_databases.get_lock_session(self._server)

    def take_clone(self, origin: str) -> str:
        """Return the name of a shut clone of a shut database, whose lock this process holds.

        Raises:
            psycopg.Error: The server could not make it.
        """
        ordered, self._ordered = self._ordered, None
        if ordered is None:
            return make_shut_clone(self._holder, origin)
        self._cloner.finish()
        if ordered.source != origin:
            self.drop_later(ordered.name)
            return make_shut_clone(self._holder, origin)
        clones.copy_properties(self._holder, ordered.name, ordered.source)
        return ordered.name

    def order_clone(self, origin: str) -> None:
        """Have a clone made of a shut database, while tests run."""
        name = unfinished_name(new_identity())
        self._ordered = clones.plan_clone(self._cloner.session, origin, name)
        try_acquire_lock(self._holder, name)
        self._cloner.send(self._ordered.statement)

    def drop_later(self, name: str) -> None:
        """Have a database of ours, which is shut and empty, dropped while tests run."""
        self._to_drop.append(name)
        if not self._dropper.busy or len(self._to_drop) > _MAX_TO_DROP:
            self._finish_drop()
            self._dropping = self._to_drop.pop(0)
            self._dropper.send(drop_database(self._dropping))

    def close(self) -> None:
        """Leave what is left to the server, which drops it by itself."""
        if self._ordered is not None:
            self._cloner.finish()
            self._to_drop.append(self._ordered.name)
            self._ordered = None
        self._finish_drop()
        self._cloner.close()
        self._dropper.close()
        while self._to_drop:
            name = self._to_drop.pop()
            release_lock(self._holder, name)
            drop_shut_in_background(self._server, name)

    def _finish_drop(self) -> None:
        # What could not be dropped is left to the next run, which sweeps what has no lock.
        with suppress(psycopg.Error):
            self._dropper.finish()
        if self._dropping is not None:
            release_lock(self._holder, self._dropping)
            self._dropping = None


class _BackgroundStatement:
    """A session for a statement that runs while we do something else."""

    def __init__(self, server: Server, purpose: str) -> None:
        self._server = server
        self._purpose = purpose
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None or self._session.broken:
            self._session = self._server.session(self._purpose)
        return self._session

    @property
    def busy(self) -> bool:
        return self._session is not None and self._session.busy

    def send(self, statement: Query) -> None:
        self.session.send(statement)

    def finish(self) -> None:
        if self._session is not None:
            self._session.finish()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
