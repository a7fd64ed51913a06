"""Who hears of migrations: the receivers of ``pre_migrate`` and ``post_migrate``.

Where a template is cloned nothing is migrated. Still they are told, as they are by a ``migrate``
that has nothing to do: they may fill something in the process, which no template can hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import ReferenceType

from django.apps import apps
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db.models.signals import post_migrate, pre_migrate
from django.dispatch import Signal

# Django's own make permissions, content types and the default site. They write nowhere but to the
# database, where the template has it all, and take as long as everything else together.
_DJANGO: Final = "django."

_SIGNALS: Final = (pre_migrate, post_migrate)


def modules() -> set[str]:
    """Return the names of the modules that the receivers are in."""
    return {_module(entry) for signal in _SIGNALS for entry in signal.receivers or ()}


def tell(alias: str, verbosity: int) -> None:
    """Send the signals of a migration with nothing to do to all receivers but Django's own."""
    if all(module.startswith(_DJANGO) for module in modules()):
        return
    with _without_djangos(pre_migrate), _without_djangos(post_migrate):
        for emit in (emit_pre_migrate_signal, emit_post_migrate_signal):
            emit(verbosity=verbosity, interactive=False, db=alias, apps=apps, plan=[])


@contextmanager
def _without_djangos(signal: Signal) -> Iterator[None]:
    everybody = signal.receivers
    signal.receivers = [
        entry for entry in everybody or () if not _module(entry).startswith(_DJANGO)
    ]
    try:
        yield
    finally:
        signal.receivers = everybody


def _module(entry: tuple[Any, ...]) -> str:
    receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
    return str(getattr(receiver, "__module__", None) or type(receiver).__module__)
