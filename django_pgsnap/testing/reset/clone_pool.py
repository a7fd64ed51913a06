"""Clones that are made ahead of the next reset, and databases that are dropped meanwhile.

The server does both in the background, for sessions of their own, while tests run. The databases
have the names of unfinished ones, and this process holds their locks: if it dies, the next run
sweeps them.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psycopg

from ...clones.names import new_identity, unfinished_name
from ...clones.spares import send_off
from ...clones.transitions import drop_database
from ...postgres.advisory_locks import release_lock, try_acquire_lock
from ...postgres.server import Server
from ...postgres.session import Query, Session
from ..databases import clones, own_databases

# So many clones are made ahead once one was asked for before it was complete.
_MAX_AHEAD: Final = 2

# So many sessions drop databases: those that drop at the same time share the checkpoints.
_DROPPERS: Final = 2

# So many databases may wait to be dropped; then a reset waits, too.
_MAX_TO_DROP: Final = 8


class ClonePool:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._cloners = [_Worker(server=server, purpose="test clones") for _ in range(_MAX_AHEAD)]
        self._droppers = [_Worker(server=server, purpose="test clearing") for _ in range(_DROPPERS)]
        self._ahead = 1
        self._to_drop: list[str] = []

    @property
    def _holder(self) -> Session:
        return own_databases.get_lock_session(self._server)

    def take_clone(self, origin: str) -> str:
        """Return the name of a shut clone of a shut database, whose lock this process holds."""
        for cloner in self._cloners:
            if cloner.database and cloner.source != origin:
                self.drop_later(cloner.end())
        at_work = [each for each in self._cloners if each.database]
        if not at_work:
            return clones.make_shut_clone(self._holder, origin)
        cloner = min(at_work, key=_Worker.is_busy)
        if cloner.is_busy():
            self._ahead = _MAX_AHEAD
        name = cloner.database
        try:
            cloner.finish()
        except psycopg.Error:
            self.drop_later(name)
            return clones.make_shut_clone(self._holder, origin)
        clones.copy_properties(self._holder, name, origin)
        return name

    def order_clones(self, origin: str) -> None:
        """Have clones made of the shut database that one was taken of, while tests run."""
        for cloner in self._cloners[: self._ahead]:
            if not cloner.database:
                name = unfinished_name(new_identity())
                clone = clones.plan_clone(cloner.session, origin, name)
                try_acquire_lock(self._holder, name)
                cloner.send(clone.statement, name, origin)

    def drop_later(self, name: str) -> None:
        """Have a database of ours, which is shut and empty, dropped while tests run."""
        self._to_drop.append(name)
        for dropper in self._droppers:
            if self._to_drop and (not dropper.is_busy() or len(self._to_drop) > _MAX_TO_DROP):
                self._finish_drop(dropper)
                dropper.send(drop_database(self._to_drop[0]), self._to_drop.pop(0))

    def close(self, *origins: str) -> None:
        """Leave what is left, and what was cloned, to the server, which drops it by itself."""
        self._to_drop += origins
        self._to_drop += [cloner.end() for cloner in self._cloners if cloner.database]
        for dropper in self._droppers:
            self._finish_drop(dropper)
        for worker in [*self._cloners, *self._droppers]:
            worker.close()
        for name in self._to_drop:
            release_lock(self._holder, name)
        send_off(self._server, self._to_drop)

    def _finish_drop(self, dropper: "_Worker") -> None:
        if dropper.database:
            # What could not be dropped is left to the next run, which sweeps what has no lock.
            release_lock(self._holder, dropper.end())


@dataclass(kw_only=True, eq=False)
class _Worker:
    """A session for a statement that the server runs while we do something else.

    The statement makes or drops *database*, which is empty where there is none.
    """

    server: Server
    purpose: str
    database: str = ""
    source: str = ""
    _session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None or self._session.broken:
            self._session = self.server.session(self.purpose)
        return self._session

    def is_busy(self) -> bool:
        with suppress(psycopg.OperationalError):  # its session is lost
            return bool(self.database) and self._session is not None and self._session.busy
        return False

    def send(self, statement: Query, database: str, source: str = "") -> None:
        self.session.send(statement)
        self.database, self.source = database, source

    def finish(self) -> None:
        """Wait for the statement, and raise what it failed with."""
        self.database = ""
        if self._session is not None:
            self._session.finish()

    def end(self) -> str:
        """Wait for the statement, whatever comes of it, and return the name of its database."""
        name = self.database
        with suppress(psycopg.Error):
            self.finish()
        return name

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
