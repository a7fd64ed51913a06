"""The watch: a process keeps answering when another one restores a database under it.

Every new connection is looked at. That is soon enough for queries, but not for a request that
begins with something cached: so each request begins with a look, too.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import psycopg
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from . import aliases, arrivals, reconnect, standalone
from .conf import config

_UID: Final = "django_pgsnap"

# How long to wait for a connection of a pool, in seconds: one that takes longer has either none to
# spare, or nothing but ended ones to give. The second time those have been replaced.
_POOL_S: Final = (0.1, 1.0)


def watch() -> None:
    """Begin to look behind connections, and have Django check those that it uses again.

    Health checks let a request do with connections that a swap has ended, persistent and pooled
    ones, whenever in its course it comes to use one.
    """
    for wrapper in aliases.postgresql():
        wrapper.settings_dict["CONN_HEALTH_CHECKS"] = True
        if wrapper.connection is not None:  # another app's ready() has used it
            arrivals.look(wrapper.alias, wrapper.connection)
            wrapper.close()
    connection_created.connect(_look_behind, dispatch_uid=_UID)
    # Neither the test client's requests, which may be forbidden to connect, nor those for static
    # files: both have handlers of their own.
    for handler in (WSGIHandler, ASGIHandler):
        request_started.connect(_look_ahead, sender=handler, dispatch_uid=_UID)


def _look_behind(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """See whether a new connection leads to another database than the last one did."""
    if connection.vendor != "postgresql" or connection.alias not in connections:
        return
    try:
        stale = arrivals.look(connection.alias, connection.connection)
    except psycopg.OperationalError:
        if not connection.connection.closed:
            raise
        stale = True  # ended just after it was opened
    if stale:
        # It was set up from stale caches, with the oids of types for instance.
        connection.close()
        reconnect.mend_pools([connection.alias])
        connection.connect()


def _look_ahead(**request: Any) -> None:
    """See, before a request begins, whether what it will find cached is still true."""
    if standalone.begins_claimed(**request):
        return
    databases = config().databases
    watched = arrivals.aliases_met()
    if databases is not None:
        restorable = set(reconnect.aliases_of(databases))
        watched = [alias for alias in watched if alias in restorable]
    for alias in watched:
        wrapper = connections[alias]
        try:
            if pool := reconnect.pool_of(wrapper):
                _look_through_pool(alias, pool)
            elif not wrapper.in_atomic_block:
                _look_through(wrapper)
        except (DatabaseError, InterfaceError):
            # The request will try for itself, if it needs the database at all.
            wrapper.close()


def _look_through(wrapper: BaseDatabaseWrapper) -> None:
    if wrapper.connection is not None:
        try:
            arrivals.look(wrapper.alias, wrapper.connection)
        except psycopg.Error:
            wrapper.close()
    if wrapper.connection is None:
        # Not ensure_connection(), which test cases forbid in the threads of a live server, too.
        with wrapper.wrap_database_errors:
            wrapper.connect()
    # The request may come to use it only after a swap.
    wrapper.health_check_done = False  # type: ignore[attr-defined]


def _look_through_pool(alias: str, pool: Any) -> None:
    """Borrow a connection for a moment only, since the request may need none."""
    for timeout_s in _POOL_S:
        with suppress(psycopg.Error), pool.connection(timeout=timeout_s) as connection:
            arrivals.look(alias, connection)
            return
        reconnect.mend_pools([alias])
