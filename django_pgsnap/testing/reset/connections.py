"""Who is connected to a test database: Django, whose connections we close, and what tests left.

A thread that outlives a test, of an executor for instance, keeps Django's connection. If the server
ended that, the thread would find out by an error in the next test. Closed by Django instead, it is
made anew.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from inspect import ismethod
from typing import Final
from weakref import WeakValueDictionary

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg import sql
from psycopg.pq import TransactionStatus

from ...conf import config
from ...connections.reconnect import close_pools
from ...postgres.backends import BackendTerminator
from ...postgres.server import Server
from ...postgres.session import Session
from ...postgres.targets import aliases_sharing_database

# All wrappers that ever connected, by id: a set cannot be read while another thread adds to it.
_wrappers: WeakValueDictionary[int, BaseDatabaseWrapper] = WeakValueDictionary()

# A fork has its parent's connections, but not the threads: to close one would end the parent's.
os.register_at_fork(after_in_child=_wrappers.clear)


def watch_connections() -> None:
    connection_created.connect(_note_connection)


def unwatch_connections() -> None:
    connection_created.disconnect(_note_connection)
    _wrappers.clear()


def close_idle_connections(aliases: Collection[str]) -> None:
    """Close what other threads have open and do not use: no statement runs, no ``atomic`` block."""
    for wrapper in filter(None, [reference() for reference in _wrappers.valuerefs()]):
        if wrapper.alias in aliases and wrapper is not connections[wrapper.alias]:
            _close_if_idle(wrapper)


def _note_connection(connection: BaseDatabaseWrapper, **_: object) -> None:
    _wrappers[id(connection)] = connection


def _close_if_idle(wrapper: BaseDatabaseWrapper) -> None:
    held = wrapper.connection
    # psycopg holds the lock while a statement runs. Nobody is waited for, and no pool of another
    # package is called with the lock held: it may want it too.
    if (
        not isinstance(held, psycopg.Connection)
        or wrapper.in_atomic_block
        or not held.lock.acquire(blocking=False)
    ):
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


_POLL_S: Final = 0.001

# How long sessions that were just closed may take to end.
_ENDING_S: Final = 0.2

# Who else is on a database, and which transactions were prepared there. It is asked after each test
# that commits; what is to be said of those who do not leave is read only where there are any.
_OTHERS: Final = sql.SQL(
    "SELECT ARRAY(SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) a"
    "   WHERE a.datid OPERATOR(pg_catalog.=) d.oid AND a.leader_pid IS NULL"
    "   AND a.backend_type IS DISTINCT FROM 'autovacuum worker'"
    "   AND a.pid OPERATOR(pg_catalog.<>) ALL (%s)),"
    " ARRAY(SELECT p.gid FROM pg_catalog.pg_prepared_xacts p"
    "   WHERE p.database OPERATOR(pg_catalog.=) d.datname)"
    " FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) %s::pg_catalog.name"
)


class TestDatabaseConnections:
    """The connections to one test database, which we work on by one of its aliases."""

    def __init__(self, server: Server, alias: str, name: str) -> None:
        self._server = server
        self.alias = alias
        self.name = name
        self.aliases = aliases_sharing_database([alias])

    @property
    def _has_pool(self) -> bool:
        return any(
            connections[alias].settings_dict["OPTIONS"].get("pool") for alias in self.aliases
        )

    @contextmanager
    def open_session(self) -> Iterator[Session]:
        """Work on the test database by Django's own connection, which tests use afterwards.

        Where the test at hand may not use our alias, it is another session.
        """
        wrapper = connections[self.alias]
        if wrapper.connection is None:
            # Test cases forbid an alias by putting something else in the place of this method; what
            # they leave there is the method again.
            if not ismethod(wrapper.connect):
                with self._server.session_on(self.name, "tests") as session:
                    yield session
                return
            wrapper.connect()
        session = Session(wrapper.connection)
        with session.in_autocommit():
            yield session

    def take_over_session(self) -> Session | None:
        """Return the session that a test left, as if it was new, None if it left none."""
        wrapper = connections[self.alias]
        if wrapper.connection is None or self._has_pool:
            return None
        try:
            session = Session(wrapper.connection)
            session.renew(self._server.role)
        except psycopg.Error:
            return None
        return session

    def close_connection(self) -> bool:
        """Close Django's connection, and tell whether that ends its session."""
        connections[self.alias].close()
        return not self._has_pool

    def clear_database(self, holder: Session, keep: Session | None = None) -> None:
        """Close Django's connections, and wait until nobody is connected to the test database.

        Sessions that idle are ended, but the one to keep, and prepared transactions rolled back.

        Raises:
            DatabaseBusyError: Somebody is still at work when the time to wait is over.
        """
        for alias in self.aliases:
            if keep is None or alias != self.alias:
                connections[alias].close()
        if self._has_pool:
            close_pools(self.aliases)
        close_idle_connections(self.aliases)
        if prepared := self._wait_until_alone(holder, [keep.pid] if keep else []):
            # Only a session on their database can.
            with self.open_session() as inside:
                for gid in prepared:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
            self.clear_database(holder)

    def _wait_until_alone(self, holder: Session, ours: list[int]) -> list[str]:
        """Return what transactions are prepared, once nobody else is connected."""
        deadline = time.monotonic() + _ENDING_S
        while True:
            found = holder.rows(_OTHERS, [ours, self.name])
            others, prepared = found[0] if found else ([], [])  # a test may have dropped it
            if not others:
                return list(prepared)
            if time.monotonic() > deadline:
                connections[self.alias].close()
                close_idle_connections(self.aliases)
                self._terminate_idle_and_wait(holder)
            time.sleep(_POLL_S)

    def _terminate_idle_and_wait(self, holder: Session) -> None:
        terminator = BackendTerminator(holder, [self.name], wait_s=config().wait_s, force=False)
        while present := terminator.end_idle_backends():
            if terminator.is_overdue:
                raise terminator.busy_error(present)
            time.sleep(_POLL_S)
