"""The snapshots in the admin: their addresses, the list, and a page for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from ..drift import Code
from ..errors import NotEnabledError, PgsnapError
from ..snapshots import listing
from ..snapshots.carried import carried
from . import housekeeping, replacing, wording
from .acting import ActionPages
from .action import Action
from .changelist import ChangeList
from .rows import Row

View = Callable[..., HttpResponse]


class SnapshotAdmin(ActionPages):
    """Snapshots in the admin."""

    def get_urls(self) -> list[URLPattern]:
        """Return the pages' addresses. A snapshot is addressed by its set id, which stays."""
        pages: list[tuple[str, str, View]] = [
            ("", "changelist", require_safe(self.changelist_view)),
            ("add/", "add", self._acting(replacing.Take)),
            ("undo/", "undo", self._acting(replacing.UndoLast)),
            ("delete/", "delete_selected", self._acting(housekeeping.Delete)),
            ("<slug:set_id>/change/", "change", require_safe(self.detail_view)),
            ("<slug:set_id>/restore/", "restore", self._acting(replacing.Restore)),
            ("<slug:set_id>/rename/", "rename", self._acting(housekeeping.Rename)),
            ("<slug:set_id>/note/", "note", self._acting(housekeeping.Annotate)),
            ("<slug:set_id>/pin/", "pin", self._acting(housekeeping.Pin)),
            ("<slug:set_id>/delete/", "delete", self._acting(housekeeping.Delete)),
        ]
        guarded = [(route, name, self.admin_site.admin_view(view)) for route, name, view in pages]
        # It asks by itself who is there: that may not need a database, and says why somebody
        # is there no more.
        unguarded = login_not_required(never_cache(require_safe(self.progress)))
        progress = ("progress/<slug:token>/", "progress", unguarded)
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path(route, _outside_transactions(view), name=f"{prefix}_{name}")
            for route, name, view in [*guarded, progress]
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list of snapshots, or that there are none here."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        title = _("Snapshots")
        try:
            found = listing.overview()
        except NotEnabledError as error:
            return self.render(request, "refused", title, error=error)
        except PgsnapError as error:
            return self.refuse(request, title, error)
        return self.render(
            request,
            "list",
            title,
            changelist=ChangeList(found, request.GET),
            overview=found,
            underway=list(map(wording.underway, found.underway)),
            undo=wording.undo(found.undos[0]) if found.undos else "",
            occupied=wording.occupied(found),
            **(extra_context or {}),
        )

    def detail_view(self, request: HttpRequest, set_id: str) -> HttpResponse:
        """Show all that is known of one snapshot."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            snapshot = self.snapshots(listing.overview(), [set_id])[0]
            parts = zip(snapshot.members, carried(snapshot), strict=True)
        except PgsnapError as error:
            return self.refuse(request, _("Snapshots"), error)
        row = Row(snapshot=snapshot, drift=Code().drift(snapshot.migrations))
        return self.render(
            request, "detail", snapshot.name, row=row, snapshot=snapshot, parts=list(parts)
        )

    def _acting(self, kind: type[Action]) -> View:
        view = partial(self.act, kind=kind)
        return require_http_methods(["GET", "HEAD", "POST"])(update_wrapper(view, self.act))


def _outside_transactions(view: View) -> View:
    """Have ATOMIC_REQUESTS spare a view: a take or a restore would wait for its transaction."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view
