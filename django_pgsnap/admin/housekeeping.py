"""The actions that nobody but who does them notices: rename, annotate, pin and delete."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .. import wording as plain
from ..snapshots import housekeeping
from . import journal
from .action import Action
from .forms import NoteForm, RenameForm
from .progress import ProgressFile
from .visitor import Visitor


class Rename(Action):
    """Give a snapshot another name."""

    permission = "take"
    form_class = RenameForm
    button = gettext_lazy("Rename")

    @property
    def title(self) -> str:
        return _("Rename “%s”") % self.name

    def form(self, data: Any = None) -> forms.Form:
        return RenameForm(data, initial={"name": self.name})

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        new = values["name"]
        snapshot = housekeeping.rename(self.name, new)
        done = _("Renamed “%(old)s” to “%(new)s”.") % {"old": self.name, "new": new}
        file.tell("success", done)
        journal.record(visitor, journal.keys([snapshot]), journal.CHANGE, done, file)
        return ""


class Annotate(Action):
    """Change a snapshot's note."""

    permission = "take"
    form_class = NoteForm
    button = gettext_lazy("Save note")

    @property
    def title(self) -> str:
        return _("Note of “%s”") % self.name

    def form(self, data: Any = None) -> forms.Form:
        return NoteForm(data, initial={"note": self.snapshot.note})

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        snapshot = housekeeping.annotate(self.name, values["note"])
        file.tell("success", _("Changed the note of “%s”.") % self.name)
        journal.record(
            visitor, journal.keys([snapshot]), journal.CHANGE, _("Changed the note."), file
        )
        return ""


class Pin(Action):
    """Keep a snapshot from being pruned, or allow it again."""

    permission = "take"

    @property
    def button(self) -> str:
        return _("Unpin") if self.snapshot.pinned else _("Pin")

    @property
    def title(self) -> str:
        return (_("Unpin “%s”") if self.snapshot.pinned else _("Pin “%s”")) % self.name

    def consequences(self) -> list[str]:
        if self.snapshot.pinned:
            return [_("It may then be pruned, as snapshots that are not pinned.")]
        return [_("Pruning then leaves it. Nothing else changes.")]

    def perform(self, _values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        snapshot = housekeeping.pin(self.name, pinned=not self.snapshot.pinned)
        done = (_("Pinned “%s”.") if snapshot.pinned else _("Unpinned “%s”.")) % self.name
        file.tell("success", done)
        journal.record(visitor, journal.keys([snapshot]), journal.CHANGE, done, file)
        return ""


class Delete(Action):
    """Delete snapshots."""

    permission = "delete"
    button = gettext_lazy("Delete for good")
    dangerous = True

    @property
    def title(self) -> str:
        count = len(self.snapshots)
        if count == 1:
            return _("Delete “%s”") % self.name
        return ngettext("Delete %(count)d snapshot", "Delete %(count)d snapshots", count) % {
            "count": count
        }

    def consequences(self) -> list[str]:
        size = plain.size(sum(each.size_bytes for each in self.snapshots))
        lines = [
            _("Their copies and spares are dropped, and the disk space is given back: %s.") % size,
            _("There is no undo for this. The live databases stay as they are."),
        ]
        pinned = [each.name for each in self.snapshots if each.pinned]
        if pinned:
            lines.append(_("Pinned, and deleted all the same: %s.") % ", ".join(pinned))
        return lines

    def perform(self, _values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        gone = housekeeping.delete(*(each.name for each in self.snapshots), reporter=file)
        done = _("Deleted %s.") % ", ".join(f"“{each.name}”" for each in gone)
        file.tell("success", done)
        journal.record(visitor, journal.keys(gone), journal.DELETION, "", file)
        return ""
