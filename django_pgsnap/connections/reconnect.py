"""Reconnecting: Django's connections to live databases, before and after a swap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from ..aliases import iter_postgresql_wrappers
from ..errors import InsideTransactionError
from ..postgres.backends import wait_until_backends_gone
from ..postgres.server import are_known_as_one
from ..postgres.session import Session
from ..postgres.targets import get_server


def aliases_sharing_database(aliases: Iterable[str]) -> list[str]:
    """Return every alias, mirrors included, that leads to the live database of one of these."""
    wanted = set(aliases)
    places = {wrapper.alias: _place(wrapper) for wrapper in iter_postgresql_wrappers()}
    leading = [place for alias, place in places.items() if alias in wanted]
    return [
        alias
        for alias, (address, name) in places.items()
        if any(name == each and are_known_as_one(address, other) for other, each in leading)
    ]


def check_not_in_atomic(aliases: Iterable[str]) -> None:
    """Refuse inside a transaction: closing the connection would lose what it has done so far.

    Raises:
        InsideTransactionError: This thread is inside ``transaction.atomic`` on an alias, or has a
            transaction open there without autocommit.
    """
    for alias in aliases:
        if connections[alias].in_atomic_block:
            raise InsideTransactionError(
                "This thread is inside transaction.atomic on {alias!r}, which a snapshot "
                "operation would break.",
                hint="Call it outside; in tests use TransactionTestCase, or pytest's "
                "@pytest.mark.django_db(transaction=True).",
                alias=alias,
            )
        if _has_open_transaction(connections[alias]):
            raise InsideTransactionError(
                "This thread has a transaction open on {alias!r}, which a snapshot operation "
                "would discard: autocommit is off.",
                hint="Commit it or roll it back first.",
                alias=alias,
            )


def _has_open_transaction(wrapper: BaseDatabaseWrapper) -> bool:
    connection = wrapper.connection
    return connection is not None and connection.info.transaction_status in (
        TransactionStatus.INTRANS,
        TransactionStatus.INERROR,
        TransactionStatus.ACTIVE,
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
    """Close this thread's connections, and wait until the server has noticed.

    What goes back to a pool stays there, and is ended like any other session.

    Args:
        aliases: The aliases to leave.
        watcher: A maintenance session.
        databases: Names of the databases behind them.
    """
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
    from django.db.backends.postgresql.base import DatabaseWrapper

    # Other backends have other pools by this name. Not wrapper.pool, which makes one.
    pools: dict[str, Any] = vars(DatabaseWrapper).get("_connection_pools", {})
    if getattr(wrapper, "_connection_pools", None) is not pools:
        return None
    pool = pools.get(wrapper.alias)
    return None if pool is None or pool.closed else pool


def _place(wrapper: BaseDatabaseWrapper) -> tuple[tuple[str, str, str], str]:
    return get_server(wrapper).address, str(wrapper.settings_dict["NAME"])
