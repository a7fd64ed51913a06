"""What all pages have in common: who may use them, how they are drawn, how they refuse."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from django.contrib import admin
from django.http import Http404, HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from .. import standalone
from ..errors import NotEnabledError, PgsnapError, ServerUnavailableError
from ..snapshots import operation
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot

PERMISSIONS: Final = ("view", "take", "restore", "delete")


class SnapshotPages(admin.ModelAdmin):  # type: ignore[type-arg]
    """Permissions and pages of snapshots; Django's own, which expect a table, are not used."""

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Tell whether a user may look: those who may do something, may."""
        return any(self.may(request, permission) for permission in PERMISSIONS)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell whether to offer a take; not where snapshots are switched off."""
        return self.may(request, "take") and _are_on()

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Tell that nobody edits a snapshot as a form."""
        return False

    def has_delete_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Tell whether a user may delete snapshots."""
        return self.may(request, "delete")

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Tell whether a user has the permission to ``view``, ``take``, ``restore``, ``delete``."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.{permission}_snapshot"))

    def snapshots(self, found: Overview, set_ids: Iterable[str]) -> list[Snapshot]:
        """Return the snapshots that an address or a form names.

        Raises:
            Http404: There is none of one of these set ids.
        """
        known = {snapshot.set_id: snapshot for snapshot in found.snapshots}
        wanted = dict.fromkeys(set_ids)
        if not wanted.keys() <= known.keys():
            raise Http404(_("There is no such snapshot."))
        return [known[each] for each in wanted]

    def render(
        self, request: HttpRequest, template: str, title: str, *, status: int = 200, **facts: Any
    ) -> TemplateResponse:
        """Return a page in the look of the admin."""
        context = {**self._surroundings(request), "opts": self.opts, "title": title, **facts}
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request, f"admin/django_pgsnap/snapshot/{template}.html", context, status=status
        )

    def _surroundings(self, request: HttpRequest) -> dict[str, Any]:
        """Return what is on every page, the more of it the more a user may do."""
        site = self.admin_site
        if standalone.is_claimed(request):
            return {"site_title": site.site_title, "site_header": site.site_header}
        may = {permission: self.may(request, permission) for permission in PERMISSIONS}
        return {**site.each_context(request), "may": may}

    def url(self, page: str, *arguments: str) -> str:
        """Return the address of one of the pages."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}"
        return reverse(name, args=arguments, current_app=self.admin_site.name)

    def refuse(self, request: HttpRequest, title: str, error: PgsnapError) -> TemplateResponse:
        """Return the page that says why something is not possible, and what to do about it."""
        status = HTTPStatus.CONFLICT
        if isinstance(error, NotEnabledError):
            status = HTTPStatus.FORBIDDEN
        elif isinstance(error, ServerUnavailableError):
            status = HTTPStatus.SERVICE_UNAVAILABLE
        return self.render(request, "refused", title, status=status, error=error)


def _are_on() -> bool:
    try:
        operation.chosen(None)
    except PgsnapError:
        return False
    return True
