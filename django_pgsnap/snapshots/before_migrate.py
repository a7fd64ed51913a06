"""The snapshot that ``migrate`` takes by itself, where ``PGSNAP["BEFORE_MIGRATE"]`` says so."""

from datetime import UTC, datetime
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import connections
from django.db.models.signals import pre_migrate

from ..conf import config, run_databases
from ..errors import NotEnabledError, PgsnapError
from ..reporting import Reporter
from ..safety import is_in_tests
from .manage import delete
from .queries import list_snapshots
from .take import take

_PREFIX: Final = "before-migrate-"
# How many of these snapshots stay; those that are pinned do not count.
_KEPT: Final = 3
_NOTE: Final = "taken automatically before migrate"

_OID: Final = "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
# The databases that this process has migrated, by alias and oid; a restored one has another oid.
_migrated: Final[set[tuple[str, int]]] = set()


def watch_migrations() -> None:
    """Have a snapshot taken before a process migrates a database, if there is anything to apply.

    A project with a schema for each tenant runs ``migrate`` many times, and Django tells of each
    app.
    """
    pre_migrate.connect(_take_before, dispatch_uid="django_pgsnap.before_migrate")


def _take_before(*, using: str, **told: Any) -> None:
    connection = connections[using]
    is_wanted = told.get("plan") and not is_in_tests() and config().before_migrate
    # A clone of ``pgsnap run`` is there to try things on, and that command holds its lock.
    if not is_wanted or connection.vendor != "postgresql" or using in run_databases():
        return
    with connection.cursor() as cursor:
        cursor.execute(_OID)
        place = using, int(cursor.fetchone()[0])
    if place in _migrated:
        return
    _migrated.add(place)
    # Tables may be there before the first migration, made by other means.
    if not connection.introspection.table_names():
        return  # there is nothing to go back to
    name = f"{_PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S.%f}"
    try:
        take(name, databases=[using], note=_NOTE)
    except NotEnabledError:
        return
    except PgsnapError as error:
        _migrated.discard(place)
        raise CommandError(
            f"No migration was applied, since no snapshot could be taken before: {error}"
        ) from error
    try:
        _rotate(using)
    except PgsnapError as error:
        Reporter().warn(f"More snapshots of earlier migrations stay than need be: {error}")
    if (stdout := told.get("stdout")) is not None and told.get("verbosity", 1):
        stdout.write(f"Took {name!r}. To go back: ./manage.py pgsnap restore {name}")


def _rotate(using: str) -> None:
    taken = [
        each.name
        for each in list_snapshots(databases=[using])
        if each.name.startswith(_PREFIX)
        and each.note == _NOTE
        and each.aliases == (using,)
        and not each.pinned
    ]
    if old := taken[_KEPT:]:
        delete(*old)
