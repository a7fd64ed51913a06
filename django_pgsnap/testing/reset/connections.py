"""Connections of other threads: closed before the server ends them, so that they are made anew.

A thread that outlives a test, of an executor for instance, keeps Django's connection. If that is
ended from outside, the thread finds out by an error in the next test; if Django has closed it, the
thread connects again.

Who is on a test database: Django, whose connections are ours to close, and what tests left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg import sql
from psycopg.pq import TransactionStatus

from ...conf import config
from ...connections.reconnect import (
    aliases_sharing_database,
    close_connections,
    close_pools,
    get_open_pool,
)
from ...postgres.backends import BackendTerminator, read_backends
from ...postgres.server import Server
from ...postgres.session import Session
from ..databases import own_databases

# All wrappers that ever connected, by id: a set cannot be read while another thread adds to it.
_wrappers: WeakValueDictionary[int, BaseDatabaseWrapper] = WeakValueDictionary()

# A fork has its parent's connections, but not the threads: to close one would end the parent's.
os.register_at_fork(after_in_child=_wrappers.clear)

_UID: Final = "django_pgsnap.testing.reset.connections"


def watch() -> None:
    """Take note of all connections from now on."""
    connection_created.connect(_take_note, dispatch_uid=_UID)


def unwatch() -> None:
    """Take note no longer."""
    connection_created.disconnect(dispatch_uid=_UID)
    _wrappers.clear()


def close_idle(aliases: Collection[str]) -> None:
    """Close what other threads have open and do not use.

    Who is at work or inside ``atomic`` is left alone.
    """
    for reference in _wrappers.valuerefs():
        wrapper = reference()
        if (
            wrapper is not None
            and wrapper.alias in aliases
            and wrapper is not connections[wrapper.alias]
        ):
            _close_if_idle(wrapper)


def _take_note(connection: BaseDatabaseWrapper, **_: object) -> None:
    _wrappers[id(connection)] = connection


def _close_if_idle(wrapper: BaseDatabaseWrapper) -> None:
    held = wrapper.connection
    # psycopg holds the lock while a statement runs. Nobody is waited for.
    if held is None or wrapper.in_atomic_block or not held.lock.acquire(blocking=False):
        return
    try:
        if held.info.transaction_status == TransactionStatus.IDLE:
            wrapper.inc_thread_sharing()
            try:
                wrapper.close()
            finally:
                wrapper.dec_thread_sharing()
    finally:
        held.lock.release()


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
        return aliases_sharing_database([self.alias])

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
        if get_open_pool(wrapper) is not None or wrapper.connection is None:
            return None
        session = Session(wrapper.connection)
        try:
            session.renew(self._server.role)
        except psycopg.Error:
            return None
        return session

    def leave(self) -> bool:
        """Close Django's connection, and tell whether that ends its session."""
        close_connections([self.alias])
        return get_open_pool(connections[self.alias]) is None

    def send_away(self, but: Session | None = None) -> None:
        """Close Django's connections, and wait until nobody is on the test database.

        Other sessions that idle are ended, and prepared transactions rolled back.

        Args:
            but: The one session that stays.

        Raises:
            DatabaseBusyError: Somebody is still at work when the time to wait is over.
        """
        close_connections(alias for alias in self.aliases if but is None or alias != self.alias)
        close_pools(self.aliases)
        close_idle(self.aliases)
        watcher = own_databases.get_lock_session(self._server)
        stays = {but.pid} if but else set()
        deadline = time.monotonic() + _LEAVING_S
        while {each.pid for each in read_backends(watcher, [self.name])} - stays:
            if time.monotonic() > deadline:
                close_connections(self.aliases)
                close_idle(self.aliases)
                self._evict(watcher)
            time.sleep(_LOOK_S)
        if prepared := watcher.rows(_PREPARED, [self.name]):
            self._roll_back([gid for (gid,) in prepared])
            self.send_away()

    def _evict(self, watcher: Session) -> None:
        """End who idles, and wait for who works."""
        terminator = BackendTerminator(watcher, [self.name], wait_s=config().wait_s, force=False)
        while present := terminator.end_idle_backends():
            if terminator.is_overdue:
                raise terminator.busy_error(present)
            time.sleep(_LOOK_S)

    def _roll_back(self, prepared: list[str]) -> None:
        # Only a session on their database can.
        with self.inside() as inside:
            for gid in prepared:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
