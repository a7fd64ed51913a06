"""What can be filled in: to take, to restore, and to change a snapshot."""

from collections.abc import Collection, Sequence
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import models
from ..clones.names import first_free_name, validate_name
from ..conf import config
from ..errors import InvalidNameError
from ..snapshots.context import choose_targets
from ..snapshots.queries import list_snapshots
from ..snapshots.types import Snapshot
from .session_transfer import do_sessions_outlive_restores
from .text import describe_error, describe_snapshot


def _valid_name(name: str) -> None:
    try:
        validate_name(name)
    except InvalidNameError as error:
        raise ValidationError(describe_error(error)) from error


class _SnapshotFields(forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=100,
        validators=[_valid_name],
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    note = forms.CharField(
        label=_("Note"),
        required=False,
        max_length=2000,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    pinned = forms.BooleanField(
        label=_("Pinned"),
        required=False,
        help_text=_("A pinned snapshot stays when old ones are pruned."),
    )


class _WaitFields(forms.Form):
    wait_s = forms.FloatField(
        label=_("Seconds to wait"),
        initial=lambda: config().wait_s,
        required=False,
        min_value=0,
        max_value=24 * 60 * 60,
        help_text=_("How long sessions that are at work may take to finish."),
    )
    force = forms.BooleanField(
        label=_("End sessions that are at work"),
        required=False,
        help_text=_("What they have not committed is lost."),
    )


class RestoreForm(_WaitFields):
    keep_ids_unique = forms.BooleanField(
        label=_("Give no user the id of another"),
        required=False,
        initial=True,
        help_text=_(
            "Logins are not kept in the database alone here. One that outlives the restore could "
            "come to mean another user, who is given the same id."
        ),
    )

    def __init__(self, data: Any, *, restored: Collection[str]) -> None:
        super().__init__(data)
        if not do_sessions_outlive_restores(restored):
            del self.fields["keep_ids_unique"]


class TakeForm(_WaitFields, _SnapshotFields):
    databases = forms.MultipleChoiceField(label=_("Databases"), widget=forms.CheckboxSelectMultiple)
    # Only there where a snapshot has that name, since only then it can be said what is lost.
    replace = forms.MultipleChoiceField(
        label=_("Replace"), required=False, widget=forms.CheckboxSelectMultiple
    )
    field_order = ("name", "replace", "note", "databases", "pinned", "wait_s", "force")

    def __init__(self, data: Any, *, snapshots: Sequence[Snapshot], may_replace: bool) -> None:
        """Offer all databases, each of them chosen; and whether one of the snapshots may go."""
        super().__init__(data)
        name_field = self.fields["name"]
        name_field.required = False
        name_field.help_text = _("Without a name it is called as the field proposes.")
        proposed = first_free_name(each.name for each in snapshots)
        name_field.widget.attrs |= {"placeholder": proposed, "autofocus": True}
        aliases = [target.alias for target in choose_targets(None)]
        databases: Any = self.fields["databases"]
        databases.choices = [(alias, alias) for alias in aliases]
        databases.initial = aliases
        if len(aliases) == 1:
            del self.fields["databases"]
        name = (data or {}).get("name", "").strip()
        self._existing = next((each for each in snapshots if each.name == name), None)
        if self._existing is None or not may_replace:
            del self.fields["replace"]
        else:
            replace: Any = self.fields["replace"]
            lost = gettext("Delete %s, once the new one is complete")
            replace.choices = [(self._existing.set_id, lost % describe_snapshot(self._existing))]

    def clean(self) -> None:
        """Refuse a name that a snapshot has, unless that one may go."""
        super().clean()
        if self._existing is None or self.cleaned_data.get("replace"):
            return
        text = gettext("There is a snapshot of this name already: %(lost)s. Choose another name.")
        if "replace" in self.fields:
            text = gettext(
                "There is a snapshot of this name already: %(lost)s. Choose another name, or say "
                "that it may be replaced."
            )
        self.add_error("name", text % {"lost": describe_snapshot(self._existing)})


class SnapshotForm(forms.ModelForm, _SnapshotFields):  # type: ignore[type-arg]
    """What of a snapshot can be changed."""

    class Meta:
        model = models.Snapshot
        fields = ("name",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        snapshot = self.instance.snapshot
        self.initial.update(note=snapshot.note, pinned=snapshot.pinned)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if "name" in self.changed_data and name in {each.name for each in list_snapshots()}:
            raise ValidationError(gettext("There is a snapshot “%s” already.") % name)
        return name
