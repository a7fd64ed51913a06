"""Facts about snapshots in sentences, translated, with times as the user's language writes them."""

import re
from collections.abc import Iterable
from typing import Final

from django.utils.formats import number_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..errors import PgsnapError
from ..messages import format_moment, format_size, printable, translate
from ..snapshots.status import LiveState, describe_live_state
from ..snapshots.types import Snapshot, Undo, describe_replaced_state

# What the command line calls options and subcommands are fields and pages here.
_PLACES: Final = {
    "--force": gettext_lazy("End sessions that are at work"),
    "--wait": gettext_lazy("Seconds to wait"),
    "--replace": gettext_lazy("Replace the snapshot of this name"),
    "--database": gettext_lazy("Databases"),
    "./manage.py pgsnap list": gettext_lazy("Snapshots"),
    "./manage.py pgsnap undo --list": gettext_lazy("Snapshots"),
    "./manage.py pgsnap take": gettext_lazy("Take a snapshot"),
    "./manage.py pgsnap delete": gettext_lazy("Delete"),
}
# The restore of a part, and the diff of one model, are for the command line alone.
_ELSEWHERE: Final = r"\./manage\.py pgsnap (?:restore|diff) [^)]+"
_COMMANDS: Final = re.compile("|".join([_ELSEWHERE, *_PLACES]))


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, as the user's language writes numbers."""
    return f"{number_format(seconds, 2)} s"


def read_facts(of: Snapshot | Undo) -> dict[str, str]:
    """Return the name, the moment and the size, for sentences about it."""
    moment, size = format_moment(of.taken_at), format_size(of.size_bytes)
    return {"name": of.name, "moment": moment, "size": size}


def describe_error(error: PgsnapError) -> SafeString:
    """Return what is wrong and what to do about it, in the words of the admin's fields."""
    hint = _COMMANDS.sub(_name_place, translate(error.hint))
    lines = f"{translate(error.message)}\n{hint}".strip().splitlines()
    return format_html_join(SafeString("<br>"), "{}", ((line.strip(),) for line in lines))


def _name_place(command: re.Match[str]) -> str:
    place = _PLACES.get(command[0])
    return command[0] if place is None else _("“%s”") % place


def translate_all(sentences: Iterable[str]) -> list[str]:
    """Return sentences in the user's language, each on one line."""
    return [printable(translate(each)) for each in sentences]


def describe_live(live: LiveState) -> str:
    facts = {"alias": live.alias, "state": translate(describe_live_state(live))}
    return printable(_("Live in %(alias)s: %(state)s.") % facts)


def describe_undo(undo: Undo) -> str:
    facts = {**read_facts(undo), "holds": translate(describe_replaced_state(undo))}
    if undo.by_undo:
        text = _("%(holds)s, until an undo on %(moment)s (%(size)s)")
    else:
        text = _("%(holds)s, until the restore of “%(name)s” on %(moment)s (%(size)s)")
    return printable(text % facts)


def describe_duration(seconds: float) -> str:
    return _("about %d s") % round(seconds) if seconds >= 1 else _("less than a second")


def describe_snapshot(snapshot: Snapshot) -> str:
    """Return which snapshot it is, for whoever is to lose or restore it."""
    if snapshot.pinned:
        return _("“%(name)s” of %(moment)s (%(size)s, pinned)") % read_facts(snapshot)
    return _("“%(name)s” of %(moment)s (%(size)s)") % read_facts(snapshot)
