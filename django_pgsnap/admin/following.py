"""Following: the page that shows how an operation is going, and what it says when that is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from .. import standalone
from ..errors import PgsnapError
from ..snapshots import listing
from . import progress, ticket, wording
from .pages import SnapshotPages
from .progress import Found, Progress
from .visitor import leave_alone, sign_out

_LEVELS: Final = {name: level for level, name in messages.constants.DEFAULT_TAGS.items()}


class ProgressPages(SnapshotPages):
    """The pages that lead from an operation that has begun to the list, once it is over."""

    def progress(self, request: HttpRequest, token: str) -> HttpResponse:
        """Show how an operation is going, or how it ended.

        Who started it needs nothing from a database for that: during a take, none would answer.
        Others have to be signed in.
        """
        found = progress.read(token)
        if found is not None and standalone.is_claimed(request):
            return self._show(request, found)
        if found is not None and found.progress.ended and ticket.is_valid(request.COOKIES, token):
            response = self.conclude(request, found.progress)
            ticket.take_back(response, self.url("progress", token))
            return response
        return self.admin_site.admin_view(self._watch)(request, found)

    def to_progress(self, request: HttpRequest, token: str) -> HttpResponse:
        """Lead who started an operation to its page."""
        # Neither session nor messages: they may be in the database that is at work.
        leave_alone(request)
        page = self.url("progress", token)
        response = HttpResponseRedirect(page)
        ticket.give(request, response, token, page)
        return response

    def conclude(self, request: HttpRequest, ended: Progress) -> HttpResponse:
        """Lead back to the list, or to the login page, with what there is to tell."""
        if ended.signed_out:
            sign_out(request)
        for level, text in ended.texts:
            messages.add_message(request, _LEVELS[level], text)
        there = self.url("changelist")
        if not ended.signed_out:
            return HttpResponseRedirect(there)
        messages.warning(request, ended.signed_out)
        login = reverse("admin:login", current_app=self.admin_site.name)
        return redirect_to_login(there, login)

    def _watch(self, request: HttpRequest, found: Found | None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            if found is None:
                return self._look_at_servers(request)
            if found.is_silent and not listing.overview().underway:
                found = replace(found, progress=_lost(found.progress))
        except PgsnapError as error:
            return self.refuse(request, _("Snapshots"), error)
        if found.progress.ended:
            return self.conclude(request, replace(found.progress, signed_out=""))
        return self._show(request, found)

    def _show(self, request: HttpRequest, found: Found) -> HttpResponse:
        return self.render(request, "progress", found.progress.title, progress=found.progress)

    def _look_at_servers(self, request: HttpRequest) -> HttpResponse:
        """Show what is under way in processes that leave no file here."""
        at_work = listing.overview().underway
        if not at_work:
            messages.info(request, _("It is over."))
            return HttpResponseRedirect(self.url("changelist"))
        return self.render(
            request, "progress", _("Under way"), underway=list(map(wording.underway, at_work))
        )


def _lost(last_heard: Progress) -> Progress:
    """Return how an operation ended whose process cannot say so any more."""
    text = _(
        "%s: the process that did it is gone. The live databases are as they were, or as they "
        "shall be."
    )
    return replace(last_heard, ended=True, texts=(("warning", text % last_heard.title),))
