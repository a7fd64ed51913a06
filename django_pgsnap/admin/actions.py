"""What takes a while: to take, to restore, to undo, to delete. What their pages say, and do."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

from django import forms
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.db import Error
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .. import models
from ..conf import config
from ..errors import DatabaseBusyError, OperationRunningError, PgsnapError, SnapshotExistsError
from ..messages import format_size, printable
from ..reporting import logger
from ..snapshots import manage
from ..snapshots.restore import restore, undo
from ..snapshots.status import Preview, expected_take_s, preview
from ..snapshots.take import take
from ..snapshots.types import KnownMigrations, Snapshot, Undo, describe_drift
from .background import ProgressReporter
from .forms import RestoreForm, TakeForm
from .session_transfer import SessionTransfer, do_sessions_outlive_restores
from .text import (
    describe_duration,
    describe_snapshot,
    describe_undo,
    format_duration,
    read_facts,
    translate_all,
)

# At which field of the form an error stands.
ERROR_FIELDS: Final[Mapping[type[PgsnapError], str]] = {
    SnapshotExistsError: "name",
    DatabaseBusyError: "force",
    OperationRunningError: "wait_s",
}

Values = dict[str, Any]
# What an action was about, what to tell of it, and what to log.
Done = tuple[Sequence[Snapshot | Undo], str, str]


class Action:
    """One thing to do to the live databases with these aliases, all if there are none."""

    permission: ClassVar[str]  # ``take``, ``restore`` or ``delete``
    button: Any
    replaces_live: ClassVar[bool] = False
    log_flag: ClassVar[int] = CHANGE  # as what the admin's log counts it

    def __init__(self, title: str, aliases: Sequence[str] = ()) -> None:
        self.title, self.aliases = title, aliases

    @cached_property
    def preview(self) -> Preview:
        """What it would meet on the live databases."""
        return preview(databases=self.aliases or None)

    def describe_consequences(self) -> list[str]:
        """Return what will happen, a sentence each."""
        raise NotImplementedError

    def build_form(self, data: Any) -> forms.Form:
        return RestoreForm(data, restored=self.aliases)

    def perform(self, values: Values, session: SessionTransfer, out: ProgressReporter) -> str:
        """Do it, and return why the visitor has to sign in again, empty where they need not."""
        session.keep_ids_unique = values.get("keep_ids_unique", False)
        options = {"wait_s": values.get("wait_s"), "force": values.get("force"), "reporter": out}
        if self.replaces_live:
            options["last_look"] = session.look
        found, told, done = self._do(values, options)
        signed_out = session.arrive(self.aliases) if self.replaces_live else ""
        out.tell("success", told)
        for each in found:
            self._log(session, each, done, out)
        return signed_out

    def _do(self, values: Values, options: dict[str, Any]) -> Done:
        raise NotImplementedError

    def _log(
        self, session: SessionTransfer, about: Snapshot | Undo, done: str, out: ProgressReporter
    ) -> None:
        """Write down who did what: in Python's log, and in the admin's log of the live database.

        Python's log is outside of any database that a restore replaces. The admin's log shows the
        text in its recent actions; not where the live database does not know the user.
        """
        logger.warning("Snapshot %r: %s by %r in the admin", about.name, done, session.username)
        user_id = getattr(session.user, "pk", None)
        if user_id is None:
            return
        name = about.name if self.log_flag == DELETION else f"{about.name}: {done}"
        row = models.Snapshot(set_id=about.set_id, name=name)
        try:
            LogEntry.objects.log_actions(user_id, [row], self.log_flag, done)
        except Error as error:
            out.warn(_("Nothing was written into the admin's log: %s") % str(error).strip())


class Take(Action):
    permission = "take"
    button = gettext_lazy("Take snapshot")
    log_flag = ADDITION

    def __init__(self, snapshots: Sequence[Snapshot], *, may_replace: bool) -> None:
        super().__init__(_("Take a snapshot"))
        self._snapshots, self._may_replace = snapshots, may_replace

    def build_form(self, data: Any) -> forms.Form:
        return TakeForm(data, snapshots=self._snapshots, may_replace=self._may_replace)

    def describe_consequences(self) -> list[str]:
        size_bytes = self.preview.size_bytes
        databases = ", ".join(self.preview.aliases)
        facts = {"databases": databases, "size": format_size(size_bytes)}
        lines = [_("Copied as of one moment: %(databases)s (%(size)s).") % facts]
        if (expected_s := expected_take_s(self._snapshots, size_bytes)) is not None:
            lines.append(_("That takes %s.") % describe_duration(expected_s))
        return [*lines, _("Clients that connect meanwhile wait until it is done.")]

    def _do(self, values: Values, options: dict[str, Any]) -> Done:
        snapshot = take(
            values["name"] or None,
            databases=values.get("databases"),
            note=values["note"],
            pin=values["pinned"],
            replace=bool(values.get("replace")),
            **options,
        )
        facts = {**read_facts(snapshot), "seconds": format_duration(snapshot.seconds)}
        return [snapshot], _("Took “%(name)s”: %(size)s in %(seconds)s.") % facts, _("taken")


class Restore(Action):
    permission = "restore"
    replaces_live = True
    button = gettext_lazy("Restore")

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(_("Restore “%s”") % snapshot.name, snapshot.aliases)
        self.snapshot = snapshot

    def describe_consequences(self) -> list[str]:
        databases = ", ".join(self.snapshot.aliases)
        facts = {"databases": databases, "snapshot": describe_snapshot(self.snapshot)}
        lost = _("What is live now is lost: the settings say that no replaced state is kept.")
        return [
            _("All that is in %(databases)s goes back to %(snapshot)s.") % facts,
            self._describe_duration(),
            _describe_kept() if config().undo else lost,
            *translate_all(describe_drift(KnownMigrations().drift(self.snapshot.migrations))),
            *_describe_logins(self.aliases),
        ]

    def _do(self, _values: Values, options: dict[str, Any]) -> Done:
        snapshot = restore(self.snapshot, **options)
        told = _("Restored “%(name)s” (%(moment)s).") % read_facts(snapshot)
        return [snapshot], told, _("restored")

    def _describe_duration(self) -> str:
        if self.snapshot.spare == "ready":
            return _("Its spare is ready, so that takes milliseconds.")
        if self.snapshot.spare == "building":
            return _("Its spare is being made. The restore waits for that.")
        size, duration = self.snapshot.size_bytes, describe_duration(self.snapshot.seconds)
        facts = {"size": format_size(size), "duration": duration}
        return _("%(size)s are copied first, which takes %(duration)s.") % facts


class BringBack(Action):
    """Undo: swap back a state that a restore or an undo replaced."""

    permission = "restore"
    replaces_live = True
    button = gettext_lazy("Bring back")

    def __init__(self, undo: Undo) -> None:
        super().__init__(_("Bring back a replaced state"), undo.aliases)
        self._undo = undo

    def describe_consequences(self) -> list[str]:
        return [
            _("This becomes live again: %s.") % describe_undo(self._undo),
            _("It takes milliseconds."),
            _describe_kept(),
            *_describe_logins(self.aliases),
        ]

    def _do(self, _values: Values, options: dict[str, Any]) -> Done:
        undone = undo(set_id=self._undo.set_id, **options)
        return [undone], _("Live again: %s.") % describe_undo(undone), _("brought back")


class Delete(Action):
    """Delete snapshots; Django's own pages say beforehand what is lost."""

    permission = "delete"
    log_flag = DELETION

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots
        self._names = ", ".join(_("“%s”") % printable(each.name) for each in snapshots)
        super().__init__(_("Delete %s") % self._names)

    def _do(self, _values: Values, options: dict[str, Any]) -> Done:
        manage.delete(*self._snapshots, force=True, reporter=options["reporter"])
        return self._snapshots, _("Deleted: %s.") % self._names, _("deleted")


def _describe_kept() -> str:
    text = _("What is live now is kept, and can be brought back. Replaced states that stay: %d.")
    return text % max(config().undo, 1)


def _describe_logins(restored: Collection[str]) -> list[str]:
    lines = [
        _(
            "Users, passwords and permissions come back as they were then: whoever was a superuser "
            "is one again, and whoever came later is not there."
        )
    ]
    if do_sessions_outlive_restores(restored):
        lines.append(_("Others stay logged in where they are there with the same password."))
    elif config().keep_sessions:
        lines.append(_("Logins of others come back, too, also those that have ended since."))
    else:
        lines.append(_("Others have to log in again."))
    return [*lines, _("You stay logged in if you are there with the same password.")]
