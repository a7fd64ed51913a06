"""The actions that clients of the live databases notice: take, restore and undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .. import names
from .. import wording as plain
from ..conf import config
from ..drift import Code
from ..errors import NothingToUndoError
from ..snapshots import operation, preview
from ..snapshots import restore as restoring
from ..snapshots import undo as undoing
from ..snapshots.model import Undo
from ..snapshots.take import take
from . import journal, wording
from .action import Action
from .forms import RestoreForm, TakeForm
from .progress import ProgressFile
from .visitor import Visitor


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
        aliases = [target.alias for target in operation.chosen(None)]
        suggestion = names.first_free(each.name for each in self.overview.snapshots)
        return TakeForm(data, aliases=aliases, suggestion=suggestion)

    def consequences(self) -> list[str]:
        assert self.preview is not None  # noqa: S101  # it ends sessions
        size_bytes = self.preview.size_bytes
        expected_s = preview.expected_take_s(self.overview.snapshots, size_bytes)
        lines = [
            _("%(databases)s are copied as of one moment: %(size)s.")
            % {
                "databases": ", ".join(live.alias for live in self.preview.databases),
                "size": plain.size(size_bytes),
            }
            if len(self.preview.databases) > 1
            else _("The live database is copied: %(size)s.") % {"size": plain.size(size_bytes)}
        ]
        if expected_s is not None:
            lines.append(_("That takes %s.") % wording.duration(expected_s))
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
            "size": plain.size(snapshot.size_bytes),
            "seconds": plain.seconds(snapshot.seconds),
        }
        file.tell("success", _("Took “%(name)s”: %(size)s in %(seconds)s.") % facts)
        journal.record(visitor, journal.keys([snapshot]), journal.ADDITION, _("Taken."), file)
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
                "ago": wording.ago(self.snapshot.taken_at),
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
            % {"name": snapshot.name, "ago": wording.ago(snapshot.taken_at)},
        )
        journal.record(visitor, journal.keys([snapshot]), journal.CHANGE, _("Restored."), file)
        return signed_out

    def _duration(self) -> str:
        if self.snapshot.spare == "ready":
            return _("A spare stands ready, so it takes milliseconds.")
        if self.snapshot.spare == "building":
            return _("A spare is being made. The restore waits for it.")
        return _(
            "No spare stands ready, so %(size)s are copied first, which takes %(duration)s."
        ) % {
            "size": plain.size(self.snapshot.size_bytes),
            "duration": wording.duration(self.snapshot.seconds),
        }

    def _undo(self) -> list[str]:
        if not config().undo:
            return [_("What is live now is lost: the settings say that no undo is kept.")]
        lines = [_("What is live now becomes the undo.")]
        if self.overview.undos:
            lines.append(
                _("It takes the place of the present undo: %s. That is lost then.")
                % wording.undo(self.overview.undos[0])
            )
        return lines

    def _drift(self) -> list[str]:
        drift = Code().drift(self.snapshot.migrations)
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
            _("This becomes live again: %s.") % wording.undo(self._undo),
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
        keys = journal.keys(about) or [(undone.set_id, undone.name)]
        journal.record(visitor, keys[:1], journal.CHANGE, done, file)
        return signed_out
