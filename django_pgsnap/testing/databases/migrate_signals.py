"""Who hears of migrations: the receivers of ``pre_migrate`` and ``post_migrate``.

Where a template is cloned nothing is migrated. Still they are told, as they are by a ``migrate``
that has nothing to do: they may fill something in the process, which no template can hold. What
they write is taken back: the template has what they wrote when it was made, and not twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import ReferenceType

from django.apps import apps
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate
from django.dispatch import Signal

from ...clones.test_databases import find_database
from ...connections.reconnect import clear_caches, close_pools
from ...postgres.server import server_errors
from ...postgres.session import Session
from ...postgres.targets import get_server
from ..reset.changes import TableCounters, find_changes, read_table_counters
from . import clones, own_databases
from .own_databases import OwnDatabase

# Django's own make permissions, content types and the default site. They write nowhere but to the
# database, where the template has it all, and take as long as everything else together.
_DJANGO: Final = "django."


def tell_receivers(alias: str, verbosity: int) -> None:
    """Send the signals of a migration with nothing to do to all receivers but Django's own."""
    entries = [entry for signal in (pre_migrate, post_migrate) for entry in signal.receivers or ()]
    if all(_module(entry).startswith(_DJANGO) for entry in entries):
        return
    own = own_databases.find_own_database(alias)
    template = own.template if own is not None else None
    before = _read_counters(alias) if template is not None else {}
    with _without_djangos(pre_migrate), _without_djangos(post_migrate):
        for emit in (emit_pre_migrate_signal, emit_post_migrate_signal):
            emit(verbosity=verbosity, interactive=False, db=alias, apps=apps, plan=[])
    if own is not None and template is not None:
        changes = find_changes(before, _read_counters(alias))
        if changes.catalogs or changes.relations:
            _take_back(own, template)


def _read_counters(alias: str) -> TableCounters:
    connections[alias].ensure_connection()
    session = Session(connections[alias].connection)
    with session.in_autocommit():
        return read_table_counters(session)


def _take_back(own: OwnDatabase, template: str) -> None:
    """Clone a test database anew, once receivers have written to it.

    No transaction would do instead: none puts sequences back, and receivers may end their own.
    """
    wrapper = connections[own.alias]
    wrapper.close()
    close_pools([own.alias])
    session = own_databases.get_lock_session(get_server(wrapper))
    found = find_database(session, own.name)
    if found is None or found.comment is None:
        return
    with server_errors():
        clones.drop_test_database(session, own.name)
        clones.make_test_database(session, template, found.comment)
    # Among what Django remembers may be rows that are gone.
    clear_caches(own.alias)


@contextmanager
def _without_djangos(signal: Signal) -> Iterator[None]:
    everybody = signal.receivers or []
    djangos = [entry for entry in everybody if _module(entry).startswith(_DJANGO)]
    signal.receivers = [entry for entry in everybody if entry not in djangos]
    try:
        yield
    finally:
        # Receivers may disconnect themselves meanwhile, and connect others.
        left = signal.receivers
        known = [entry for entry in everybody if entry in djangos or entry in left]
        signal.receivers = known + [entry for entry in left if entry not in everybody]


def _module(entry: tuple[Any, ...]) -> str:
    receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
    return str(getattr(receiver, "__module__", None) or type(receiver).__module__)
