"""Facts about snapshots in sentences, translated, with times as the user's language writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.utils.formats import date_format, number_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..errors import PgsnapError
from ..messages import format_size, printable, translate
from ..snapshots.queries import Overview, RunningOperation
from ..snapshots.status import LiveState
from ..snapshots.types import Snapshot, Undo

# What the command line calls options are fields here.
_FIELDS: Final = {
    "--force": gettext_lazy("End sessions that are at work"),
    "--wait": gettext_lazy("Seconds to wait"),
    "--replace": gettext_lazy("Replace the snapshot of this name"),
    "--database": gettext_lazy("Databases"),
    "pgsnap list": gettext_lazy("Snapshots"),
    "pgsnap take": gettext_lazy("Take a snapshot"),
    "pgsnap delete": gettext_lazy("Delete"),
}


def format_moment(moment: datetime) -> str:
    """Return a moment in local time."""
    return date_format(localtime(moment), "DATETIME_FORMAT")


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, as the user's language writes numbers."""
    return f"{number_format(seconds, 2)} s"


def read_facts(of: Snapshot | Undo) -> dict[str, str]:
    """Return the name, the moment and the size, for sentences about it."""
    moment, size = format_moment(of.taken_at), format_size(of.size_bytes)
    return {"name": of.name, "moment": moment, "size": size}


def describe_error(error: PgsnapError) -> SafeString:
    """Return what is wrong and what to do about it, in the words of the admin's fields."""
    hint = translate(error.hint)
    for option, label in _FIELDS.items():
        hint = hint.replace(option, _("“%s”") % label)
    lines = f"{translate(error.message)}\n{hint}".strip().splitlines()
    return format_html_join(SafeString("<br>"), "{}", ((line.strip(),) for line in lines))


def describe_live(live: LiveState) -> str:
    """Return what is live in a database, and since when."""
    facts: dict[str, Any] = {"alias": live.alias, "holds": _("your work")}
    if live.size_bytes is None:
        return _("%(alias)s: the database is missing, or may not be looked at.") % facts
    if live.since is None:
        return _("Live in %(alias)s: %(holds)s. Nothing was restored yet.") % facts
    if live.based_on:
        facts["holds"] = f"“{printable(live.based_on)}”"
    facts |= {"moment": format_moment(live.since), "count": live.rows_written}
    if live.rows_written is None:
        return _("Live in %(alias)s: %(holds)s since %(moment)s, perhaps changed.") % facts
    if not live.rows_written:
        return _("Live in %(alias)s: %(holds)s since %(moment)s, unchanged.") % facts
    text = ngettext(
        "Live in %(alias)s: %(holds)s since %(moment)s, %(count)d row written.",
        "Live in %(alias)s: %(holds)s since %(moment)s, %(count)d rows written.",
        live.rows_written,
    )
    return text % facts


def describe_undo(undo: Undo) -> str:
    """Return what a replaced state holds, and what replaced it."""
    holds = _("your work")
    if undo.based_on:
        text = _("“%s” as restored") if undo.is_unwritten else _("“%s” and your work since")
        holds = text % printable(undo.based_on)
    facts = {**read_facts(undo), "holds": holds, "name": printable(undo.name)}
    if undo.by_undo:
        return _("%(holds)s, until an undo on %(moment)s (%(size)s)") % facts
    return _("%(holds)s, until the restore of “%(name)s” on %(moment)s (%(size)s)") % facts


def describe_operation(each: RunningOperation) -> str:
    """Return what an operation does, and for how long."""
    facts = {
        "purpose": printable(each.purpose),
        "who": printable(each.who),
        "aliases": ", ".join(each.aliases),
    }
    if each.seconds is None:
        return _("At work on %(aliases)s: %(purpose)s (%(who)s).") % facts
    facts["seconds"] = f"{each.seconds:.0f}"
    return _("At work on %(aliases)s for %(seconds)s s: %(purpose)s (%(who)s).") % facts


def describe_duration(seconds: float) -> str:
    """Return about how long something takes."""
    if seconds < 1:
        return _("less than a second")
    count = round(seconds)
    return ngettext("about %(count)d second", "about %(count)d seconds", count) % {"count": count}


def describe_occupied(overview: Overview) -> str:
    """Return what everything occupies together, empty where there is nothing."""
    if not overview.occupied_bytes:
        return ""
    size = format_size(overview.occupied_bytes)
    return _("All snapshots, their prepared clones and the replaced states occupy %s.") % size


def describe_snapshot(snapshot: Snapshot) -> str:
    """Return which snapshot it is, for whoever is to lose or restore it."""
    if snapshot.pinned:
        return _("“%(name)s” of %(moment)s (%(size)s, pinned)") % read_facts(snapshot)
    return _("“%(name)s” of %(moment)s (%(size)s)") % read_facts(snapshot)
