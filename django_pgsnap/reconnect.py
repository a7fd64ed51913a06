"""Django's side of a swap: connections to let go, and caches that went stale."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .errors import InsideTransactionError
from .signals import post_restore
from .targets import Target

# The oid that was last seen behind each (alias, database name) of this process.
_seen: dict[tuple[str, str], int] = {}


def aliases_of(targets: Iterable[Target]) -> list[str]:
    """Return every alias, mirrors included, that leads to one of these live databases."""
    places = {_place(connections[target.alias]) for target in targets}
    return [alias for alias in connections if _place(connections[alias]) in places]


def check_not_in_atomic(aliases: Iterable[str]) -> None:
    """Refuse inside ``atomic``: closing the connection would lose what it has done so far.

    Raises:
        InsideTransactionError: This thread is inside ``transaction.atomic`` on an alias.
    """
    for alias in aliases:
        if connections[alias].in_atomic_block:
            raise InsideTransactionError(
                f"This thread is inside transaction.atomic on {alias!r}, which a snapshot "
                "operation would break.",
                hint="Call it outside; in tests use TransactionTestCase, or pytest's "
                "@pytest.mark.django_db(transaction=True).",
            )


def let_go(aliases: Iterable[str]) -> None:
    """Close this thread's connections and this process' pools; Django reopens them when needed."""
    for alias in aliases:
        wrapper = connections[alias]
        wrapper.close()
        # Not close_pool(): it makes a pool where there is none. Out of the registry first, so that
        # no other thread is given a pool that is closed.
        pool = getattr(wrapper, "_connection_pools", {}).pop(alias, None)
        if pool is not None:
            pool.close()


def met(alias: str, database: str, oid: int, snapshot: object = None) -> None:
    """Take note that another database stands behind an alias; forget what was known of the old.

    Args:
        alias: The alias.
        database: The database's name, which has not changed.
        oid: Its oid, which has.
        snapshot: The snapshot that was restored, None where that is not known.
    """
    _seen[alias, database] = oid
    _forget(alias)
    post_restore.send(sender=None, using=alias, snapshot=snapshot)


def watch() -> None:
    """Keep this process working when another one restores a database under it.

    A request on a connection that a swap has ended would fail. Health checks make Django try
    persistent and pooled connections before it uses them for a request.
    """
    for alias in connections:
        if connections[alias].vendor == "postgresql":
            connections.settings[alias]["CONN_HEALTH_CHECKS"] = True
    connection_created.connect(_look_behind, dispatch_uid="django_pgsnap")


def _look_behind(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """See whether a new connection leads to another database than the last one did."""
    if connection.vendor != "postgresql" or connection.alias not in connections:
        return
    # Past Django's own cursor, which would log the query and count it.
    with connection.connection.cursor() as cursor:
        cursor.execute("SELECT oid, datname FROM pg_database WHERE datname = current_database()")
        oid, database = cursor.fetchone()
    last_oid = _seen.setdefault((connection.alias, database), oid)
    if last_oid != oid:
        met(connection.alias, database, oid)


def _forget(alias: str) -> None:
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
    for known_by_alias in getattr(connections[alias], "_type_infos", {}).values():
        known_by_alias.pop(alias, None)


def _place(wrapper: BaseDatabaseWrapper) -> tuple[str, str, str]:
    settings = wrapper.settings_dict
    options = settings["OPTIONS"]
    return (
        str(settings["HOST"] or options.get("host", "")),
        str(settings["PORT"] or options.get("port", "")),
        str(settings["NAME"]),
    )
