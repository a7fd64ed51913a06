"""Reconnecting: Django's connections to live databases, before and after a swap.

Before it this process lets go of them. After it every process notices that another database has
taken the place behind an alias, and that sessions were ended.

A database is known by its oid, which stays through a rename. As long as a session lives, the name
it connected to still leads to its database, since a swap waits until no session is left. So only
new connections have to be looked at, and those that the server has ended are made anew.

That is soon enough for queries, but not for rows that Django gives from memory, content types and
sites: before it does, the connection is looked at, too.
"""

import select
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Any, Final

import psycopg
from django.apps import apps
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import Manager
from django.utils.module_loading import import_string
from psycopg.pq import TransactionStatus

from ..conf import iter_postgresql_wrappers
from ..errors import InsideTransactionError
from ..messages import message
from ..postgres.backends import wait_until_backends_gone
from ..postgres.session import Session
from ..reporting import Reporter
from ..signals import post_restore

_NO_TRANSACTION: Final = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


def check_not_in_atomic(aliases: Iterable[str]) -> None:
    """Refuse inside transactions of this thread, which a closed connection would lose."""
    for alias in aliases:
        wrapper = connections[alias]
        if wrapper.in_atomic_block:
            raise InsideTransactionError(
                "This thread is inside transaction.atomic on {alias!r}, which a snapshot "
                "operation would break.",
                hint="Call it outside; in tests use TransactionTestCase, or pytest's "
                "@pytest.mark.django_db(transaction=True).",
                alias=alias,
            )
        held = wrapper.connection
        if held is not None and held.info.transaction_status not in _NO_TRANSACTION:
            raise InsideTransactionError(
                "This thread has a transaction open on {alias!r}, which a snapshot operation "
                "would discard: autocommit is off.",
                hint="Commit it or roll it back first.",
                alias=alias,
            )


def close_connections(aliases: Iterable[str]) -> None:
    """Close this thread's connections; Django reopens them when needed.

    Pools stay open. They belong to all threads, and closing one would fail those that wait for a
    connection; what idles in a pool is ended like any other session.
    """
    for alias in aliases:
        connections[alias].close()


def close_pools(aliases: Iterable[str]) -> None:
    """Close this process' pools; Django makes new ones when needed."""
    for alias in aliases:
        if get_open_pool(connections[alias]) is not None:
            connections[alias].close_pool()  # type: ignore[attr-defined]


def close_and_wait(aliases: Sequence[str], watcher: Session, databases: Sequence[str]) -> None:
    """Close this thread's connections, and wait until the server has noticed."""
    wrappers = [connections[alias] for alias in aliases]
    ours = {
        wrapper.connection.info.backend_pid
        for wrapper in wrappers
        if wrapper.connection is not None and get_open_pool(wrapper) is None
    }
    close_connections(aliases)
    wait_until_backends_gone(watcher, databases, ours)


def repair_pools(aliases: Iterable[str]) -> None:
    """Have this process' pools replace the connections that were ended.

    A pool would find out by itself, but only one connection at a time, and it waits for a second,
    then two, then four between one and the next.
    """
    for alias in aliases:
        pool = get_open_pool(connections[alias])
        if pool is not None:
            pool.check()


def get_open_pool(wrapper: BaseDatabaseWrapper) -> Any:
    """Return Django's own open pool behind an alias, None without one."""
    # Other backends have other pools by this name. Not wrapper.pool, which makes one.
    pools: dict[str, Any] = vars(DatabaseWrapper).get("_connection_pools", {})
    if getattr(wrapper, "_connection_pools", None) is not pools:
        return None
    pool = pools.get(wrapper.alias)
    return None if pool is None or pool.closed else pool


@dataclass(frozen=True, kw_only=True)
class DatabaseReplaced:
    """A database that takes the place behind an alias."""

    alias: str
    name: str  # the database's name, which is that of the one before
    oid: int  # its oid, which is not
    snapshot: object = None  # the snapshot that was restored, None where that is not known

    @property
    def place(self) -> tuple[str, str]:
        """What it takes; test runners lead one alias to databases of several names."""
        return self.alias, self.name


# Which database this process last found in each place.
_known_oids: dict[tuple[str, str], int] = {}

# What restores of this process bring, until a thread has found it there. Where no swap follows,
# none ever does.
_announced: dict[tuple[str, str], DatabaseReplaced] = {}

# Held while it is decided which thread sends post_restore, so that it is sent once. Not while it is
# sent: receivers may wait for locks of their own, held by threads that wait for this one.
_deciding: Final = Lock()

# How often caches were cleared, by alias. Wrappers keep how often that was when they connected:
# what was set up from older caches is stale.
_clearings: Counter[str] = Counter()
_SET_UP_AFTER: Final = "pgsnap_set_up_after"

# It runs where the search path may lead to functions and operators of others.
_DATABASE: Final = (
    "SELECT datname, oid FROM pg_catalog.pg_database"
    " WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
)


def announce_restore(databases: Iterable[DatabaseReplaced]) -> None:
    """Take note of what a swap will bring, since another thread may be the first to find it."""
    _announced.update({database.place: database for database in databases})


def handle_announced_restore(databases: Iterable[DatabaseReplaced], reporter: Reporter) -> None:
    """Clear caches and send post_restore, unless another thread did; warn of failed receivers."""
    with _deciding:
        new = [each for each in databases if _announced.get(each.place) is each]
        for database in new:
            _handle_restore(database)
    _send_post_restore(new, reporter)


def check_oid(alias: str, connection: Any) -> None:
    """See which database a connection leads to; of a new one tell whoever must know."""
    _send_post_restore(_note_database(alias, connection), Reporter())


def _note_database(alias: str, connection: Any) -> list[DatabaseReplaced]:
    """Note which database a connection leads to, and return it if no thread has found it before."""
    found = _read_database(alias, connection)
    if _known_oids.setdefault(found.place, found.oid) == found.oid:
        return []
    with _deciding:
        # Once more: meanwhile another thread may have found something newer than this.
        found = _read_database(alias, connection)
        if _known_oids.get(found.place) == found.oid:
            return []
        _handle_restore(found)
    return [found]


def accept_silently(alias: str, name: str) -> None:
    """Accept the next database under this name without sending post_restore.

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


def _handle_restore(database: DatabaseReplaced) -> None:
    _announced.pop(database.place, None)
    clear_caches(database.alias)
    # Not before: who finds it noted relies on fresh caches.
    _known_oids[database.place] = database.oid


def _send_post_restore(databases: Iterable[DatabaseReplaced], reporter: Reporter) -> None:
    for database in databases:
        facts = {"using": database.alias, "snapshot": database.snapshot}
        for receiver, outcome in post_restore.send_robust(sender=None, **facts):
            if isinstance(outcome, Exception):
                name = getattr(receiver, "__qualname__", None)
                reporter.warn(
                    message(
                        "The receiver {receiver} of post_restore failed for {alias!r}: "
                        "{kind}: {error}",
                        receiver=f"{receiver.__module__}.{name}" if name else repr(receiver),
                        alias=database.alias,
                        kind=type(outcome).__name__,
                        error=outcome,
                    )
                )


_CONTENT_TYPES: Final = ("get_by_natural_key", "get_for_id", "get_for_model", "get_for_models")
_FROM_MEMORY: Final = {
    "django.contrib.contenttypes.models.ContentType": _CONTENT_TYPES,
    "django.contrib.sites.models.Site": ("get_current",),
}


def _find_cached_lookups() -> Iterator[tuple[Any, Sequence[str]]]:
    """Yield the managers that give rows from memory, and their methods that do."""
    for model, names in _FROM_MEMORY.items():
        if apps.is_installed(model.partition(".models.")[0]):
            yield import_string(model).objects, names


def clear_caches(alias: str) -> None:
    """Have Django forget what it remembers of a database's contents."""
    _clearings[alias] += 1
    for manager, _ in _find_cached_lookups():
        manager.clear_cache()
    # Types get new oids when an extension is created anew.
    if hooks := sys.modules.get("django.contrib.postgres.signals"):
        hooks.get_hstore_oids.cache_clear()
        hooks.get_citext_oids.cache_clear()
    # PostGIS keeps what it knows of its types in its wrappers' class.
    registries: Mapping[str, dict[str, object]] = getattr(connections[alias], "_type_infos", {})
    for known_by_alias in registries.values():
        known_by_alias.pop(alias, None)


# A connection is set up again when a restore comes in between. Restores do not follow so closely.
_SET_UPS: Final = 10

# The attribute by which a lookup of ours has Django's.
_DJANGO_LOOKUP: Final = "pgsnap_django_lookup"

# Coroutines may not connect, nor may tests that Django's test cases or pytest-django keep from a
# database. They are given what is in memory all the same.
_FORBIDDEN: Final = (SynchronousOnlyOperation, AssertionError, RuntimeError)

_django_connect: Final = DatabaseWrapper.connect
_django_close_if_unhealthy: Final = DatabaseWrapper.close_if_health_check_failed


def watch_connections() -> None:
    """Look behind each connection that Django makes, and for the end of those that it keeps.

    Django asks whether a connection is still usable once in a request at most, and a loop, a shell
    or a thread never makes one. All cursors and transactions pass by these two methods.
    """
    for wrapper in iter_postgresql_wrappers():
        if wrapper.settings_dict["OPTIONS"].get("pool"):
            # A connection that a pool gives is looked at in any case. The pool's own check would
            # discard one ended connection after the other, with longer and longer pauses.
            wrapper.settings_dict["CONN_HEALTH_CHECKS"] = False
        if wrapper.connection is not None:  # another app's ready() has used it
            check_oid(wrapper.alias, wrapper.connection)
            wrapper.close()
    # Backends of others inherit from it.
    DatabaseWrapper.connect = _connect  # type: ignore[method-assign,assignment]
    DatabaseWrapper.close_if_health_check_failed = _close_if_ended  # type: ignore[method-assign,assignment]
    for manager, names in _find_cached_lookups():
        for name in names:
            lookup = getattr(type(manager), name)
            if not hasattr(lookup, _DJANGO_LOOKUP):
                setattr(type(manager), name, _look_first(lookup))


def is_ended(wrapper: BaseDatabaseWrapper) -> bool:
    """Tell whether the server has ended a connection outside transactions, or whether it is stale.

    With AUTOCOMMIT off, a request may leave a transaction, in which the next one must not begin.
    An idle session has nothing to say, so its socket is not readable. Only where it is, which may
    also be a notification, a round trip shows which of them it is.
    """
    held: Any = getattr(wrapper.connection, "driver_connection", wrapper.connection)
    if wrapper.in_atomic_block or not isinstance(held, psycopg.Connection):
        return False
    if held.closed:
        return True
    is_idle = held.pgconn.transaction_status == TransactionStatus.IDLE
    if is_idle and _is_stale(wrapper):
        return True
    # Django sets this back when a request begins.
    begins: bool = not wrapper.health_check_done  # type: ignore[attr-defined]
    if not (is_idle or begins) or not _is_readable(held.fileno()):
        return False
    usable = wrapper.is_usable()
    if usable and is_idle and not held.autocommit:
        held.rollback()
    return not usable


def _is_readable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _is_stale(wrapper: BaseDatabaseWrapper) -> bool:
    """Tell whether a connection was set up from caches that were cleared since."""
    now = _clearings[wrapper.alias]
    return bool(getattr(wrapper, _SET_UP_AFTER, now) != now)


@wraps(_django_close_if_unhealthy)
def _close_if_ended(wrapper: BaseDatabaseWrapper) -> None:
    if is_ended(wrapper):
        wrapper.close()
        repair_pools([wrapper.alias])
    _django_close_if_unhealthy(wrapper)
    wrapper.health_check_done = True  # type: ignore[attr-defined]


def _look_first(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """Return a lookup that first sees whether what is in memory is still true."""

    @wraps(lookup)
    def look(manager: Manager[Any], *arguments: Any, **named: Any) -> Any:
        wrapper = connections[manager.db]
        # What is in memory was read by way of a connection that was looked at.
        if isinstance(wrapper, DatabaseWrapper) and not wrapper.in_atomic_block:
            with suppress(*_FORBIDDEN):
                try:
                    wrapper.close_if_health_check_failed()
                    wrapper.ensure_connection()
                except (DatabaseError, InterfaceError):
                    wrapper.close()  # the next query tries for itself
        return lookup(manager, *arguments, **named)

    setattr(look, _DJANGO_LOOKUP, lookup)
    return look


@wraps(_django_connect)
def _connect(wrapper: BaseDatabaseWrapper) -> None:
    """Connect, and once more where what the connection was set up from proves to be stale.

    The oids of types, for instance, may have been read from the database before, by this thread or
    by another one, and be found in a cache.
    """
    # Copies of a wrapper, for other databases, are none of ours.
    if wrapper.alias not in connections:
        return _django_connect(wrapper)
    new: list[DatabaseReplaced] = []
    try:
        for _ in range(_SET_UPS):
            setattr(wrapper, _SET_UP_AFTER, _clearings[wrapper.alias])
            _connect_past_swap(wrapper)
            if _is_current(wrapper, new) and not _is_stale(wrapper):
                break
            wrapper.close()
            repair_pools([wrapper.alias])
    finally:
        _send_post_restore(new, Reporter())


def _connect_past_swap(wrapper: BaseDatabaseWrapper) -> None:
    """Connect, and once more where a swap renamed the database at that moment."""
    try:
        _django_connect(wrapper)
    except psycopg.OperationalError as error:
        # libpq gives no code of it. In other languages the error stands, as for other clients.
        if "It seems to have just been dropped or renamed." not in str(error):
            raise
        _django_connect(wrapper)


def _is_current(wrapper: BaseDatabaseWrapper, new: list[DatabaseReplaced]) -> bool:
    """Note another database behind a new connection; tell whether the server has not ended it."""
    held: Any = wrapper.connection
    try:
        new += _note_database(wrapper.alias, held)
    except psycopg.OperationalError:
        if not held.closed:
            raise
        # What it has read while it was set up may be in a cache now, though a restore came since.
        clear_caches(wrapper.alias)
        return False
    return True
