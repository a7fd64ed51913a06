"""Acting: the page that says what will happen, and the work itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from ..errors import PgsnapError
from ..snapshots import listing
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot
from .action import Action
from .following import ProgressPages
from .visitor import Visitor
from .work import Job, stand_aside

# What is done by then is answered at once; for the rest there is a page that shows its progress.
_PATIENCE_S: Final = 1.5


class ActionPages(ProgressPages):
    """The pages that do something. A GET only shows what would be done."""

    def act(
        self, request: HttpRequest, kind: type[Action], set_id: str | None = None
    ) -> HttpResponse:
        """Answer with the page of an action, or do it once it is confirmed."""
        if not self.may(request, kind.permission):
            raise PermissionDenied
        try:
            found = listing.overview()
            return self._act(request, kind(found, self._chosen(request, found, kind, set_id)))
        except PgsnapError as error:
            return self.refuse(request, _("Snapshots"), error)

    def _act(self, request: HttpRequest, action: Action) -> HttpResponse:
        confirmed = request.method == "POST" and "confirmed" in request.POST
        form = action.form(request.POST if confirmed else None)
        if confirmed and form.is_valid():
            visitor, values = Visitor(request), form.cleaned_data
            stand_aside()
            job = Job(action.title, lambda file: action.perform(values, visitor, file))
            ended = job.result(_PATIENCE_S)
            if ended is None:
                return self.to_progress(request, job.token)
            if not ended.failed:
                return self.conclude(request, ended)
            form.add_error(None, ended.texts[-1][1])
        return self.render(
            request,
            "action",
            action.title,
            action=action,
            form=form,
            # Worked out here, since what goes wrong in a template is no page any more.
            consequences=action.consequences(),
            preview=action.preview,
        )

    def _chosen(
        self, request: HttpRequest, found: Overview, kind: type[Action], set_id: str | None
    ) -> list[Snapshot]:
        """Return the snapshots that a request is about."""
        if not kind.needs_snapshots:
            return []
        chosen = self.snapshots(
            found, request.POST.getlist("set_id") if set_id is None else [set_id]
        )
        if not chosen:
            raise PgsnapError(_("No snapshot was chosen."), hint=_("Tick some in the list."))
        _check_names(chosen, found)
        return chosen


def _check_names(chosen: Iterable[Snapshot], found: Overview) -> None:
    """Refuse a snapshot whose name also means another one: what is done is done by name."""
    names = Counter(snapshot.name for snapshot in found.snapshots)
    for snapshot in chosen:
        if names[snapshot.name] > 1:
            raise PgsnapError(
                _("There are two snapshots “%s”, since a replacement was interrupted.")
                % snapshot.name,
                hint=_(
                    "On the command line the newest complete one is meant: delete or rename it."
                ),
            )
