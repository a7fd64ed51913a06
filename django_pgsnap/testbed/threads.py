"""Connections of other threads: closed before the server ends them, so that they are made anew.

A thread that outlives a test, of an executor for instance, keeps Django's connection. If that is
ended from outside, the thread finds out by an error in the next test; if Django has closed it, the
thread connects again.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final
from weakref import WeakValueDictionary

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

# All wrappers that ever connected, by id: a set cannot be read while another thread adds to it.
_wrappers: WeakValueDictionary[int, BaseDatabaseWrapper] = WeakValueDictionary()

# A fork has its parent's connections, but not the threads: to close one would end the parent's.
os.register_at_fork(after_in_child=_wrappers.clear)

_UID: Final = "django_pgsnap.testbed.threads"


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
