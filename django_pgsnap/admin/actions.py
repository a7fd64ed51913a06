"""Actions: what can be done to snapshots, and what a page can say about it beforehand.

The actions that clients of the live databases notice: take, restore and undo.

The actions that nobody but who does them notices: rename, annotate, pin and delete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .. import formatting as plain
from ..clones.names import first_free_name
from ..conf import config
from ..errors import NothingToUndoError
from ..migration_drift import KnownMigrations
from ..snapshots import manage, preview
from ..snapshots import restore as restoring
from ..snapshots import undo as undoing
from ..snapshots.context import choose_targets
from ..snapshots.preview import Preview, expected_take_s
from ..snapshots.queries import Overview
from ..snapshots.take import take
from ..snapshots.types import Snapshot, Undo
from . import text
from .background import ProgressFile
from .forms import Confirmation, NoteForm, RenameForm, RestoreForm, TakeForm
from .session_transfer import Visitor


class Action:
    """One thing to do, for the snapshots that it is about.

    Attributes:
        permission: What it takes: ``take``, ``restore`` or ``delete``.
        form_class: What can be filled in.
        button: What the button says.
        needs_snapshots: Whether it is about snapshots that there are.
        dangerous: Whether the button warns.
        ends_sessions: Whether clients of the live databases lose their connections.
    """

    permission: ClassVar[str]
    form_class: ClassVar[type[forms.Form]] = Confirmation
    button: Any
    needs_snapshots: ClassVar[bool] = True
    dangerous: ClassVar[bool] = False
    ends_sessions: ClassVar[bool] = False

    def __init__(self, overview: Overview, snapshots: Sequence[Snapshot]) -> None:
        """Take note of what there is, and of the snapshots that it is about."""
        self.overview = overview
        self.snapshots = snapshots

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that it is about, for actions on a single one."""
        return self.snapshots[0]

    @property
    def name(self) -> str:
        """That snapshot's name."""
        return self.snapshot.name

    @property
    def title(self) -> str:
        """Its heading."""
        raise NotImplementedError

    def consequences(self) -> list[str]:
        """Return what will happen, a sentence each."""
        return []

    def form(self, data: Any = None) -> forms.Form:
        """Return the form, filled with these data."""
        return self.form_class(data)

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        """Do it, and return why the visitor has to sign in again, empty where they need not."""
        raise NotImplementedError

    @property
    def aliases(self) -> Sequence[str] | None:
        """The live databases that it is about, None for all."""
        return None

    @cached_property
    def preview(self) -> Preview | None:
        """What it would meet on the live databases."""
        return preview.preview(databases=self.aliases) if self.ends_sessions else None


class Take(Action):
    """Take a snapshot."""

    permission = "take"
    form_class = TakeForm
    button = gettext_lazy("Take snapshot")
    needs_snapshots = False
    ends_sessions = True

    @property
    def title(self) -> str:
        return _("Take a snapshot")

    def form(self, data: Any = None) -> forms.Form:
        aliases = [target.alias for target in choose_targets(None)]
        suggestion = first_free_name(each.name for each in self.overview.snapshots)
        return TakeForm(data, aliases=aliases, suggestion=suggestion)

    def consequences(self) -> list[str]:
        assert self.preview is not None  # noqa: S101  # it ends sessions
        size_bytes = self.preview.size_bytes
        expected_s = expected_take_s(self.overview.snapshots, size_bytes)
        lines = [
            _("%(databases)s are copied as of one moment: %(size)s.")
            % {
                "databases": ", ".join(live.alias for live in self.preview.databases),
                "size": plain.format_size(size_bytes),
            }
            if len(self.preview.databases) > 1
            else _("The live database is copied: %(size)s.")
            % {"size": plain.format_size(size_bytes)}
        ]
        if expected_s is not None:
            lines.append(_("That takes %s.") % text.duration(expected_s))
        lines.append(_("Clients that connect meanwhile wait, and then carry on."))
        return lines

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        snapshot = take(
            values["name"] or None,
            databases=values.get("databases"),
            note=values["note"],
            pin=values["pinned"],
            replace=values["replace"],
            force=values["force"],
            reporter=file,
        )
        facts = {
            "name": snapshot.name,
            "size": plain.format_size(snapshot.size_bytes),
            "seconds": plain.format_seconds(snapshot.seconds),
        }
        file.tell("success", _("Took “%(name)s”: %(size)s in %(seconds)s.") % facts)
        text.record(visitor, text.keys([snapshot]), text.ADDITION, _("Taken."), file)
        return ""


_STAY_SIGNED_IN = gettext_lazy(
    "You stay signed in if you are there with the same password. If not, you are asked to log in."
)


class Restore(Action):
    """Bring the live databases back to a snapshot."""

    permission = "restore"
    form_class = RestoreForm
    button = gettext_lazy("Restore")
    ends_sessions = True

    @property
    def title(self) -> str:
        return _("Restore “%s”") % self.name

    @property
    def aliases(self) -> Sequence[str] | None:
        return self.snapshot.aliases

    def consequences(self) -> list[str]:
        return [
            _("%(databases)s: everything goes back to how it was %(ago)s, at %(moment)s UTC.")
            % {
                "databases": ", ".join(self.snapshot.aliases),
                "ago": text.ago(self.snapshot.taken_at),
                "moment": f"{self.snapshot.taken_at:%Y-%m-%d %H:%M:%S}",
            },
            self._duration(),
            *self._undo(),
            *self._drift(),
            str(_STAY_SIGNED_IN),
        ]

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        snapshot = restoring.restore(
            self.name, force=values["force"], reporter=file, last_look=visitor.look
        )
        signed_out = visitor.arrive()
        file.tell(
            "success",
            _("Restored “%(name)s” of %(ago)s.")
            % {"name": snapshot.name, "ago": text.ago(snapshot.taken_at)},
        )
        text.record(visitor, text.keys([snapshot]), text.CHANGE, _("Restored."), file)
        return signed_out

    def _duration(self) -> str:
        if self.snapshot.spare == "ready":
            return _("A spare stands ready, so it takes milliseconds.")
        if self.snapshot.spare == "building":
            return _("A spare is being made. The restore waits for it.")
        return _(
            "No spare stands ready, so %(size)s are copied first, which takes %(duration)s."
        ) % {
            "size": plain.format_size(self.snapshot.size_bytes),
            "duration": text.duration(self.snapshot.seconds),
        }

    def _undo(self) -> list[str]:
        if not config().undo:
            return [_("What is live now is lost: the settings say that no undo is kept.")]
        lines = [_("What is live now becomes the undo.")]
        if self.overview.undos:
            lines.append(
                _("It takes the place of the present undo: %s. That is lost then.")
                % text.undo(self.overview.undos[0])
            )
        return lines

    def _drift(self) -> list[str]:
        drift = KnownMigrations().drift(self.snapshot.migrations)
        lines = []
        if count := len(drift.missing):
            lines.append(
                ngettext(
                    "It lacks %(count)d migration of this checkout: run migrate afterwards.",
                    "It lacks %(count)d migrations of this checkout: run migrate afterwards.",
                    count,
                )
                % {"count": count}
            )
        if count := len(drift.unknown):
            lines.append(
                ngettext(
                    "It has %(count)d migration that this checkout does not know.",
                    "It has %(count)d migrations that this checkout does not know.",
                    count,
                )
                % {"count": count}
            )
        return lines


class UndoLast(Action):
    """Swap back what the last restore replaced."""

    permission = "restore"
    form_class = RestoreForm
    button = gettext_lazy("Undo the last restore")
    needs_snapshots = False
    ends_sessions = True

    @cached_property
    def _undo(self) -> Undo:
        if not self.overview.undos:
            raise NothingToUndoError(
                _("There is nothing to undo: no restore has left an undo."),
                hint=_("There may be snapshots to restore."),
            )
        return self.overview.undos[0]

    @property
    def title(self) -> str:
        return _("Undo the last restore")

    @property
    def aliases(self) -> Sequence[str] | None:
        return self._undo.aliases

    def consequences(self) -> list[str]:
        return [
            _("This becomes live again: %s.") % text.undo(self._undo),
            _("It takes milliseconds."),
            _("What is live now becomes the undo, so that undoing once more is the redo."),
            str(_STAY_SIGNED_IN),
        ]

    def perform(self, values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        undone = undoing.undo(force=values["force"], reporter=file, last_look=visitor.look)
        signed_out = visitor.arrive()
        done = _("Swapped back what was live before “%s” took its place.") % undone.name
        file.tell("success", _("%s Undo again to redo.") % done)
        about = [each for each in self.overview.snapshots if each.name == undone.name]
        keys = text.keys(about) or [(undone.set_id, undone.name)]
        text.record(visitor, keys[:1], text.CHANGE, done, file)
        return signed_out


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
        snapshot = manage.rename(self.name, new)
        done = _("Renamed “%(old)s” to “%(new)s”.") % {"old": self.name, "new": new}
        file.tell("success", done)
        text.record(visitor, text.keys([snapshot]), text.CHANGE, done, file)
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
        snapshot = manage.annotate(self.name, values["note"])
        file.tell("success", _("Changed the note of “%s”.") % self.name)
        text.record(visitor, text.keys([snapshot]), text.CHANGE, _("Changed the note."), file)
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
        snapshot = manage.pin(self.name, pinned=not self.snapshot.pinned)
        done = (_("Pinned “%s”.") if snapshot.pinned else _("Unpinned “%s”.")) % self.name
        file.tell("success", done)
        text.record(visitor, text.keys([snapshot]), text.CHANGE, done, file)
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
        size = plain.format_size(sum(each.size_bytes for each in self.snapshots))
        lines = [
            _("Their copies and spares are dropped, and the disk space is given back: %s.") % size,
            _("There is no undo for this. The live databases stay as they are."),
        ]
        pinned = [each.name for each in self.snapshots if each.pinned]
        if pinned:
            lines.append(_("Pinned, and deleted all the same: %s.") % ", ".join(pinned))
        return lines

    def perform(self, _values: dict[str, Any], visitor: Visitor, file: ProgressFile) -> str:
        gone = manage.delete(*(each.name for each in self.snapshots), reporter=file)
        done = _("Deleted %s.") % ", ".join(f"“{each.name}”" for each in gone)
        file.tell("success", done)
        text.record(visitor, text.keys(gone), text.DELETION, "", file)
        return ""
