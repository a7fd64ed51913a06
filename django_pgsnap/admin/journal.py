"""The admin's log: who did what to which snapshot."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.db import Error
from django.utils.translation import gettext as _

from .. import models
from ..snapshots.model import Snapshot
from .progress import ProgressFile
from .visitor import Visitor

__all__ = ["ADDITION", "CHANGE", "DELETION", "keys", "record"]


def record(
    visitor: Visitor,
    snapshots: Iterable[tuple[str, str]],
    flag: int,
    message: str,
    file: ProgressFile,
) -> None:
    """Write what was done into the log of the database that is live now.

    Args:
        visitor: Who did it; nothing is written where that database does not know them.
        snapshots: Set id and name of each.
        flag: ``ADDITION``, ``CHANGE`` or ``DELETION``.
        message: What was done.
        file: Where to say that it could not be written.
    """
    user_id = getattr(visitor.user, "pk", None)
    if user_id is None:
        return
    objects = [models.Snapshot(set_id=set_id, name=name) for set_id, name in snapshots]
    try:
        LogEntry.objects.log_actions(user_id, objects, flag, message)
    except Error as error:
        file.warn(_("Nothing was written into the admin's log: %s") % str(error).strip())


def keys(snapshots: Iterable[Snapshot]) -> list[tuple[str, str]]:
    """Return set id and name of each snapshot."""
    return [(each.set_id, each.name) for each in snapshots]
