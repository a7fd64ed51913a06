"""Arrivals: another database has taken the place behind an alias, and what was known is stale.

A database is known by its oid, which stays through a rename. As long as a session lives, the name
it connected to still leads to its database, since a swap waits until no session is left. So only
new connections have to be looked at.

The watch: a process keeps answering when another one restores a database under it.

Every new connection is looked at. That is soon enough for queries, but not for a request that
begins with something cached: so each request begins with a look, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import psycopg
from django.apps import apps
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

from ..aliases import iter_postgresql_wrappers
from ..conf import config
from ..signals import post_restore
from .claimed_requests import is_claimed_at_start
from .reconnect import aliases_sharing_database, get_open_pool, repair_pools


@dataclass(frozen=True, kw_only=True)
class DatabaseReplaced:
    """A database that takes the place behind an alias.

    Attributes:
        alias: The alias.
        name: The database's name, which is that of the one before.
        oid: Its oid, which is not.
        snapshot: The snapshot that was restored, None where that is not known.
    """

    alias: str
    name: str
    oid: int
    snapshot: object = None

    @property
    def place(self) -> tuple[str, str]:
        """What it takes; test runners lead one alias to databases of several names."""
        return self.alias, self.name


# Which database this process last met in each place.
_known_oids: dict[tuple[str, str], int] = {}

# What restores of this process bring, until a thread has met it. Where no swap follows, nobody
# ever does.
_announced: dict[tuple[str, str], DatabaseReplaced] = {}

# Held while it is decided who meets an arrival, so that it is told once. Not while it is told:
# receivers may wait for locks of their own, held by threads that wait for this one.
_deciding: Final = Lock()

_DATABASE: Final = (
    "SELECT datname, oid FROM pg_catalog.pg_database"
    " WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
)


def announce_restore(arrivals: Iterable[DatabaseReplaced]) -> None:
    """Take note of what a swap will bring, since another thread may be the first to meet it."""
    _announced.update({arrival.place: arrival for arrival in arrivals})


def handle_announced_restore(arrivals: Iterable[DatabaseReplaced]) -> None:
    """Meet what a swap has brought, unless another thread did."""
    with _deciding:
        unmet = [arrival for arrival in arrivals if _announced.get(arrival.place) is arrival]
        for arrival in unmet:
            _handle_restore(arrival)
    _send_post_restore(unmet)


def check_oid(alias: str, connection: Any) -> bool:
    """See what a driver's connection leads to, and meet it if it is not what was met last.

    Returns:
        Whether it had been another one, so that the connection may have been set up from caches
        that were stale.
    """
    found = _read_database(alias, connection)
    if _known_oids.setdefault(found.place, found.oid) == found.oid:
        return False
    with _deciding:
        # Once more: meanwhile another thread may have met something newer than this.
        found = _read_database(alias, connection)
        is_first = _known_oids.get(found.place) != found.oid
        if is_first:
            _handle_restore(found)
    _send_post_restore([found] if is_first else [])
    return True


def connected_aliases() -> list[str]:
    """Return the aliases that this process has been connected to."""
    return list(dict.fromkeys(alias for alias, _ in list(_known_oids) if alias in connections))


def accept_silently(alias: str, name: str) -> None:
    """Have the next database in a place taken for the one before, which nobody is told of.

    That is what test runners do: to the tests it is always the same.
    """
    with _deciding:
        _known_oids.pop((alias, name), None)
        _announced.pop((alias, name), None)
        clear_caches(alias)


def _read_database(alias: str, connection: Any) -> DatabaseReplaced:
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    # The driver's own cursor: Django's would log the query, and count it.
    with connection.cursor() as cursor:
        cursor.execute(_DATABASE)
        name, oid = cursor.fetchone()
    if idle and not connection.autocommit:
        # With AUTOCOMMIT off, the query has begun a transaction, which would stand in the way of
        # the next restore.
        connection.rollback()
    found = DatabaseReplaced(alias=alias, name=name, oid=oid)
    expected = _announced.get(found.place)
    return expected if expected is not None and expected.oid == oid else found


def _handle_restore(arrival: DatabaseReplaced) -> None:
    _announced.pop(arrival.place, None)
    clear_caches(arrival.alias)
    # Not before: who finds it noted relies on fresh caches.
    _known_oids[arrival.place] = arrival.oid


def _send_post_restore(arrivals: Iterable[DatabaseReplaced]) -> None:
    for arrival in arrivals:
        post_restore.send(sender=None, using=arrival.alias, snapshot=arrival.snapshot)


def clear_caches(alias: str) -> None:
    """Have Django forget what it remembers of a database's contents."""
    if apps.is_installed("django.contrib.contenttypes"):
        from django.contrib.contenttypes.models import ContentType

        ContentType.objects.clear_cache()
    if apps.is_installed("django.contrib.sites"):
        from django.contrib.sites.models import Site

        Site.objects.clear_cache()
    # Types get new oids when an extension is created anew.
    if hooks := sys.modules.get("django.contrib.postgres.signals"):
        hooks.get_hstore_oids.cache_clear()
        hooks.get_citext_oids.cache_clear()
    # PostGIS keeps what it knows of its types in its wrappers' class.
    registries: Mapping[str, dict[str, object]] = getattr(connections[alias], "_type_infos", {})
    for known_by_alias in registries.values():
        known_by_alias.pop(alias, None)


_DISPATCH_UID: Final = "django_pgsnap"

# How long to wait for a connection of a pool, in seconds: one that takes longer has either none to
# spare, or nothing but ended ones to give. The second time those have been replaced.
_POOL_S: Final = (0.1, 1.0)


def watch_connections() -> None:
    """Begin to look behind connections, and have Django check those that it uses again.

    Health checks let a request do with connections that a swap has ended, persistent and pooled
    ones, whenever in its course it comes to use one.
    """
    for wrapper in iter_postgresql_wrappers():
        wrapper.settings_dict["CONN_HEALTH_CHECKS"] = True
        if wrapper.connection is not None:  # another app's ready() has used it
            check_oid(wrapper.alias, wrapper.connection)
            wrapper.close()
    connection_created.connect(_check_new_connection, dispatch_uid=_DISPATCH_UID)
    # Neither the test client's requests, which may be forbidden to connect, nor those for static
    # files: both have handlers of their own.
    for handler in (WSGIHandler, ASGIHandler):
        request_started.connect(_check_before_request, sender=handler, dispatch_uid=_DISPATCH_UID)


def _check_new_connection(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """See whether a new connection leads to another database than the last one did."""
    if connection.vendor != "postgresql" or connection.alias not in connections:
        return
    try:
        stale = check_oid(connection.alias, connection.connection)
    except psycopg.OperationalError:
        if not connection.connection.closed:
            raise
        stale = True  # ended just after it was opened
    if stale:
        # It was set up from stale caches, with the oids of types for instance.
        connection.close()
        repair_pools([connection.alias])
        connection.connect()


def _check_before_request(**request: Any) -> None:
    """See, before a request begins, whether what it will find cached is still true."""
    if is_claimed_at_start(**request):
        return
    databases = config().databases
    watched = connected_aliases()
    if databases is not None:
        restorable = set(aliases_sharing_database(databases))
        watched = [alias for alias in watched if alias in restorable]
    for alias in watched:
        wrapper = connections[alias]
        try:
            if pool := get_open_pool(wrapper):
                _check_pool(alias, pool)
            elif not wrapper.in_atomic_block:
                _check_wrapper(wrapper)
        except (DatabaseError, InterfaceError):
            # The request will try for itself, if it needs the database at all.
            wrapper.close()


def _check_wrapper(wrapper: BaseDatabaseWrapper) -> None:
    if wrapper.connection is not None:
        try:
            check_oid(wrapper.alias, wrapper.connection)
        except psycopg.Error:
            wrapper.close()
    if wrapper.connection is None:
        # Not ensure_connection(), which test cases forbid in the threads of a live server, too.
        with wrapper.wrap_database_errors:
            wrapper.connect()
    # The request may come to use it only after a swap.
    wrapper.health_check_done = False  # type: ignore[attr-defined]


def _check_pool(alias: str, pool: Any) -> None:
    """Borrow a connection for a moment only, since the request may need none."""
    for timeout_s in _POOL_S:
        with suppress(psycopg.Error), pool.connection(timeout=timeout_s) as connection:
            check_oid(alias, connection)
            return
        repair_pools([alias])
