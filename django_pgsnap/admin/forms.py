"""What can be filled in before something is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from ..clones.names import validate_name
from ..errors import InvalidNameError

_NOTE_MAX = 2000


def _valid_name(name: str) -> None:
    try:
        validate_name(name)
    except InvalidNameError as error:
        raise ValidationError(str(error)) from error


def _name_field(**options: Any) -> forms.CharField:
    return forms.CharField(
        label=_("Name"),
        max_length=100,
        validators=[_valid_name],
        help_text=_("Letters, digits, “.”, “_”, “-” and “/”."),
        widget=forms.TextInput(
            attrs={"class": "vTextField", "autocomplete": "off", "spellcheck": "false"}
        ),
        **options,
    )


def _note_field() -> forms.CharField:
    return forms.CharField(
        label=_("Note"),
        required=False,
        max_length=_NOTE_MAX,
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )


def _force_field() -> forms.BooleanField:
    return forms.BooleanField(
        label=_("End busy sessions too"),
        required=False,
        help_text=_("What they have not committed is lost. (--force)"),
    )


class Confirmation(forms.Form):
    """Nothing to fill in."""


class TakeForm(forms.Form):
    """What a new snapshot is to be."""

    name = _name_field(required=False)
    note = _note_field()
    databases = forms.MultipleChoiceField(label=_("Databases"), widget=forms.CheckboxSelectMultiple)
    pinned = forms.BooleanField(
        label=_("Pin it"), required=False, help_text=_("Pruning leaves it.")
    )
    replace = forms.BooleanField(
        label=_("Take the place of a snapshot of the same name"),
        required=False,
        help_text=_("The old one goes when the new one is complete. (--replace)"),
    )
    force = _force_field()

    def __init__(self, *args: Any, aliases: Sequence[str], suggestion: str, **options: Any) -> None:
        """Offer these aliases, all of them chosen, and this name."""
        super().__init__(*args, **options)
        self.fields["name"].widget.attrs["placeholder"] = suggestion
        databases = self.fields["databases"]
        databases.choices = [(alias, alias) for alias in aliases]  # type: ignore[attr-defined]
        databases.initial = list(aliases)
        if len(aliases) == 1:
            del self.fields["databases"]


class RestoreForm(forms.Form):
    """How a restore or an undo is to go about it."""

    force = _force_field()


class RenameForm(forms.Form):
    """A snapshot's new name."""

    name = _name_field()


class NoteForm(forms.Form):
    """A snapshot's new note."""

    note = _note_field()
