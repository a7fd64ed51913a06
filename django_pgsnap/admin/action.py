"""Actions: what can be done to snapshots, and what a page can say about it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.utils.functional import cached_property

from ..snapshots import preview
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot
from ..snapshots.preview import Preview
from .forms import Confirmation
from .progress import ProgressFile
from .visitor import Visitor


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
