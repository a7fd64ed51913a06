"""Facts about snapshots in sentences, translated."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import wording
from ..drift import Drift
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot, Undo
from ..snapshots.underway import Underway


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
    age = wording.age(moment)
    return _("just now") if age == "now" else _("%(age)s ago") % {"age": age}


def undo(undo: Undo) -> str:
    """Return what an undo holds."""
    return _("what was live before “%(name)s” took its place %(ago)s (%(size)s)") % {
        "name": wording.printable(undo.name),
        "ago": ago(undo.taken_at),
        "size": wording.size(undo.size_bytes),
    }


def underway(each: Underway) -> str:
    """Return what an operation does, and for how long."""
    facts = {
        "purpose": wording.printable(each.purpose),
        "who": wording.printable(each.who),
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
    return _("Copies, spares and undo occupy %s.") % wording.size(overview.occupied_bytes)
