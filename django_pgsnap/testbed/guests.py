"""Who is on a test database: Django, whose connections are ours to close, and what tests left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from django.db import connections
from psycopg import sql

from .. import reconnect
from ..conf import config
from ..eviction import Evictor
from ..server import Server
from ..session import Session
from ..sessions import backends
from . import live, threads

_LOOK_S: Final = 0.001

# How long sessions that were just closed may take to leave.
_LEAVING_S: Final = 0.2

_PREPARED: Final = sql.SQL("SELECT gid FROM pg_prepared_xacts WHERE database = %s")


class Guests:
    """The sessions on one test database.

    Attributes:
        alias: An alias that leads to it.
        name: Its name.
    """

    def __init__(self, server: Server, alias: str, name: str) -> None:
        """Take note; nobody is disturbed yet."""
        self._server = server
        self.alias = alias
        self.name = name

    @property
    def aliases(self) -> list[str]:
        """All aliases that lead to the test database."""
        return reconnect.aliases_of([self.alias])

    @property
    def is_connected(self) -> bool:
        """Whether Django is connected by the alias, in this thread."""
        return connections[self.alias].connection is not None

    @contextmanager
    def inside(self) -> Iterator[Session]:
        """Look into the test database by Django's own connection, which tests use afterwards."""
        wrapper = connections[self.alias]
        if wrapper.connection is None:
            wrapper.connect()
        session = Session(wrapper.connection)
        with session.in_autocommit():
            yield session

    def borrow(self) -> Session | None:
        """Return the session of the test that was, as if it was new, None if it left none."""
        wrapper = connections[self.alias]
        if reconnect.pool_of(wrapper) is not None or wrapper.connection is None:
            return None
        session = Session(wrapper.connection)
        try:
            session.renew(self._server.role)
        except psycopg.Error:
            return None
        return session

    def leave(self) -> bool:
        """Close Django's connection, and tell whether that ends its session."""
        reconnect.let_go([self.alias])
        return reconnect.pool_of(connections[self.alias]) is None

    def send_away(self, but: Session | None = None) -> None:
        """Close Django's connections, and wait until nobody is on the test database.

        Other sessions that idle are ended, and prepared transactions rolled back.

        Args:
            but: The one session that stays.

        Raises:
            DatabaseBusyError: Somebody is still at work when the time to wait is over.
        """
        reconnect.let_go(alias for alias in self.aliases if but is None or alias != self.alias)
        reconnect.close_pools(self.aliases)
        threads.close_idle(self.aliases)
        watcher = live.session(self._server)
        stays = {but.pid} if but else set()
        deadline = time.monotonic() + _LEAVING_S
        while {each.pid for each in backends(watcher, [self.name])} - stays:
            if time.monotonic() > deadline:
                reconnect.let_go(self.aliases)
                threads.close_idle(self.aliases)
                self._evict(watcher)
            time.sleep(_LOOK_S)
        if prepared := watcher.rows(_PREPARED, [self.name]):
            self._roll_back([gid for (gid,) in prepared])
            self.send_away()

    def _evict(self, watcher: Session) -> None:
        """End who idles, and wait for who works."""
        evictor = Evictor(watcher, [self.name], wait_s=config().wait_s, force=False)
        while present := evictor.pass_once():
            if evictor.overdue:
                raise evictor.busy(present)
            time.sleep(_LOOK_S)

    def _roll_back(self, prepared: list[str]) -> None:
        # Only a session on their database can.
        with self.inside() as inside:
            for gid in prepared:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
