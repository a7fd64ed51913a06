"""Arrivals: another database has taken the place behind an alias, and what was known is stale.

A database is known by its oid, which stays through a rename. As long as a session lives, the name
it connected to still leads to its database, since a swap waits until no session is left. So only
new connections have to be looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from django.apps import apps
from django.db import connections
from psycopg.pq import TransactionStatus

from .signals import post_restore


@dataclass(frozen=True, kw_only=True)
class Arrival:
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
_met: dict[tuple[str, str], int] = {}

# What restores of this process bring, until a thread has met it. Where no swap follows, nobody
# ever does.
_expected: dict[tuple[str, str], Arrival] = {}

# Held while it is decided who meets an arrival, so that it is told once. Not while it is told:
# receivers may wait for locks of their own, held by threads that wait for this one.
_meeting: Final = Lock()

_WHERE: Final = "SELECT datname, oid FROM pg_database WHERE datname = current_database()"


def expect(arrivals: Iterable[Arrival]) -> None:
    """Take note of what a swap will bring, since another thread may be the first to meet it."""
    _expected.update({arrival.place: arrival for arrival in arrivals})


def meet_expected(arrivals: Iterable[Arrival]) -> None:
    """Meet what a swap has brought, unless another thread did."""
    with _meeting:
        unmet = [arrival for arrival in arrivals if _expected.get(arrival.place) is arrival]
        for arrival in unmet:
            _meet(arrival)
    _tell(unmet)


def look(alias: str, connection: Any) -> bool:
    """See what a driver's connection leads to, and meet it if it is not what was met last.

    Returns:
        Whether it had been another one, so that the connection may have been set up from caches
        that were stale.
    """
    found = _behind(alias, connection)
    if _met.setdefault(found.place, found.oid) == found.oid:
        return False
    with _meeting:
        # Once more: meanwhile another thread may have met something newer than this.
        found = _behind(alias, connection)
        is_first = _met.get(found.place) != found.oid
        if is_first:
            _meet(found)
    _tell([found] if is_first else [])
    return True


def aliases_met() -> list[str]:
    """Return the aliases that this process has been connected to."""
    return list(dict.fromkeys(alias for alias, _ in list(_met) if alias in connections))


def renew(alias: str, name: str) -> None:
    """Have the next database in a place taken for the one before, which nobody is told of.

    That is what test runners do: to the tests it is always the same.
    """
    with _meeting:
        _met.pop((alias, name), None)
        _expected.pop((alias, name), None)
        clear_caches(alias)


def forget() -> None:
    """Forget what was met, as if nothing had ever been connected to."""
    _met.clear()
    _expected.clear()


def _behind(alias: str, connection: Any) -> Arrival:
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    # The driver's own cursor: Django's would log the query, and count it.
    with connection.cursor() as cursor:
        cursor.execute(_WHERE)
        name, oid = cursor.fetchone()
    if idle and not connection.autocommit:
        # With AUTOCOMMIT off, the query has begun a transaction, which would stand in the way of
        # the next restore.
        connection.rollback()
    found = Arrival(alias=alias, name=name, oid=oid)
    expected = _expected.get(found.place)
    return expected if expected is not None and expected.oid == oid else found


def _meet(arrival: Arrival) -> None:
    _expected.pop(arrival.place, None)
    clear_caches(arrival.alias)
    # Not before: who finds it noted relies on fresh caches.
    _met[arrival.place] = arrival.oid


def _tell(arrivals: Iterable[Arrival]) -> None:
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
