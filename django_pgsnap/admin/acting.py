"""Acting: the page that says what will happen, the work itself, and how it is going."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from ..errors import PgsnapError
from ..snapshots import listing
from ..snapshots.listing import Overview
from ..snapshots.model import Snapshot
from . import progress, wording
from .action import Action
from .pages import SnapshotPages
from .progress import Found, Progress
from .visitor import Visitor, leave_alone, sign_out
from .work import Job, stand_aside

# What is done by then is answered at once; for the rest there is a page that shows its progress.
_PATIENCE_S: Final = 1.5
# An operation that has written nothing for so long is looked for on the server.
_SILENCE_S: Final = 10.0
_COOKIE: Final = "pgsnap_progress"
_COOKIE_SALT: Final = "django_pgsnap.progress"
_COOKIE_AGE_S: Final = 60 * 60
_LEVELS: Final = {name: level for level, name in messages.constants.DEFAULT_TAGS.items()}


class ActionPages(SnapshotPages):
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

    def progress(self, request: HttpRequest, token: str) -> HttpResponse:
        """Show how an operation is going, or how it ended.

        Who started it needs nothing from a database for that: during a take, none would answer.
        Others have to be signed in.
        """
        found = progress.read(token)
        started_here = token == request.get_signed_cookie(
            _COOKIE, default=None, salt=_COOKIE_SALT, max_age=_COOKIE_AGE_S
        )
        if found is None or not started_here:
            return self.admin_site.admin_view(self._watch)(request, found)
        if found.progress.ended:
            return self._conclude(request, found.progress)
        leave_alone(request)
        return self._show(request, found)

    def _act(self, request: HttpRequest, action: Action) -> HttpResponse:
        confirmed = request.method == "POST" and "confirmed" in request.POST
        form = action.form(request.POST if confirmed else None)
        if confirmed and form.is_valid():
            visitor, values = Visitor(request), form.cleaned_data
            stand_aside()
            job = Job(action.title, lambda file: action.perform(values, visitor, file))
            ended = job.result(_PATIENCE_S)
            if ended is None:
                return self._to_progress(request, job.token)
            if not ended.failed:
                return self._conclude(request, ended)
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

    def _to_progress(self, request: HttpRequest, token: str) -> HttpResponse:
        # Neither session nor messages: they may be in the database that is at work.
        response = HttpResponseRedirect(self.url("progress", token))
        response.set_signed_cookie(
            _COOKIE,
            token,
            salt=_COOKIE_SALT,
            max_age=_COOKIE_AGE_S,
            path=self.url("changelist"),
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
        return response

    def _watch(self, request: HttpRequest, found: Found | None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if found is None:
            return self._look_at_servers(request)
        if found.progress.ended:
            return self._conclude(request, replace(found.progress, signed_out=False))
        return self._show(request, found)

    def _show(self, request: HttpRequest, found: Found) -> HttpResponse:
        if found.silent_s > _SILENCE_S and not listing.overview().underway:
            lost = _(
                "%s: the process that did it is gone. The live databases are as they were, or "
                "as they shall be."
            )
            text = ("warning", lost % found.progress.title)
            return self._conclude(request, replace(found.progress, texts=(text,)))
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

    def _conclude(self, request: HttpRequest, ended: Progress) -> HttpResponse:
        if ended.signed_out:
            sign_out(request)
        for level, text in ended.texts:
            messages.add_message(request, _LEVELS[level], text)
        there = self.url("changelist")
        if not ended.signed_out:
            return HttpResponseRedirect(there)
        messages.warning(
            request,
            _(
                "You are signed out: the restored database does not have you with the same name "
                "and password. Log in as somebody whom it has."
            ),
        )
        login = reverse("admin:login", current_app=self.admin_site.name)
        return redirect_to_login(there, login)


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
