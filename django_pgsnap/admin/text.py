"""Facts about snapshots in sentences, translated.

The admin's log: who did what to which snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.db import Error
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import formatting, models
from ..formatting import format_age, format_size
from ..migration_drift import Drift
from ..snapshots.queries import Overview, RunningOperation
from ..snapshots.types import Snapshot, Undo
from .background import ProgressFile
from .session_transfer import Visitor


def drift(drift: Drift) -> list[tuple[str, str]]:
    """Return how far a snapshot's migrations are from this checkout's: kinds, each in words."""
    badges = []
    if count := len(drift.missing):
        text = ngettext("%(count)d behind", "%(count)d behind", count) % {"count": count}
        badges.append(("behind", text))
    if count := len(drift.unknown):
        text = ngettext("%(count)d unknown here", "%(count)d unknown here", count)
        badges.append(("unknown", text % {"count": count}))
    return badges or [("current", _("current"))]


def spare(snapshot: Snapshot) -> str:
    """Return what state a snapshot's spare is in."""
    return {"ready": _("ready"), "building": _("being made"), "none": _("none")}[snapshot.spare]


def ago(moment: datetime) -> str:
    """Return how long ago a moment was, as part of a sentence."""
    age = format_age(moment)
    return _("just now") if age == "now" else _("%(age)s ago") % {"age": age}


def undo(undo: Undo) -> str:
    """Return what an undo holds."""
    return _("what was live before “%(name)s” took its place %(ago)s (%(size)s)") % {
        "name": formatting.printable(undo.name),
        "ago": ago(undo.taken_at),
        "size": format_size(undo.size_bytes),
    }


def underway(each: RunningOperation) -> str:
    """Return what an operation does, and for how long."""
    facts = {
        "purpose": formatting.printable(each.purpose),
        "who": formatting.printable(each.who),
        "aliases": ", ".join(each.aliases),
    }
    if each.seconds is None:
        return _("Under way on %(aliases)s: %(purpose)s (%(who)s).") % facts
    facts["seconds"] = f"{each.seconds:.0f}"
    return _("Under way on %(aliases)s: %(purpose)s (%(who)s), for %(seconds)s s.") % facts


def duration(seconds: float) -> str:
    """Return about how long something takes."""
    if seconds < 1:
        return _("less than a second")
    count = round(seconds)
    return ngettext("about a second", "about %(count)d seconds", count) % {"count": count}


def occupied(overview: Overview) -> str:
    """Return what everything occupies together, empty where there is nothing."""
    if not overview.occupied_bytes:
        return ""
    return _("Copies, spares and undo occupy %s.") % format_size(overview.occupied_bytes)


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
