"""What all pages have in common: who may use them, how they are drawn, how they refuse.

Following: the page that shows how an operation is going, and what it says when that is over.

Acting: the page that says what will happen, and the work itself.

The snapshots in the admin: their addresses, the list, and a page for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, update_wrapper
from http import HTTPStatus
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from ..connections.claimed_requests import is_claimed
from ..errors import NotEnabledError, PgsnapError, ServerUnavailableError
from ..migration_drift import KnownMigrations
from ..snapshots.context import choose_targets
from ..snapshots.queries import Overview, overview, read_carried_properties
from ..snapshots.types import Snapshot
from . import background, progress_access, text
from . import text as text_module
from .actions import Action, Annotate, Delete, Pin, Rename, Restore, Take, UndoLast
from .background import Found, Job, Progress, stand_aside
from .changelist import ChangeList, Row
from .progress_access import is_valid, take_back
from .session_transfer import Visitor, leave_alone, sign_out

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
        if is_claimed(request):
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
        choose_targets(None)
    except PgsnapError:
        return False
    return True


_LEVELS: Final = {name: level for level, name in messages.constants.DEFAULT_TAGS.items()}


class ProgressPages(SnapshotPages):
    """The pages that lead from an operation that has begun to the list, once it is over."""

    def progress(self, request: HttpRequest, token: str) -> HttpResponse:
        """Show how an operation is going, or how it ended.

        Who started it needs nothing from a database for that: during a take, none would answer.
        Others have to be signed in.
        """
        found = background.read(token)
        if found is not None and is_claimed(request):
            return self._show(request, found)
        if found is not None and found.progress.ended and is_valid(request.COOKIES, token):
            response = self.conclude(request, found.progress)
            take_back(response, self.url("progress", token))
            return response
        return self.admin_site.admin_view(self._watch)(request, found)

    def to_progress(self, request: HttpRequest, token: str) -> HttpResponse:
        """Lead who started an operation to its page."""
        # Neither session nor messages: they may be in the database that is at work.
        leave_alone(request)
        page = self.url("progress", token)
        response = HttpResponseRedirect(page)
        progress_access.give(request, response, token, page)
        return response

    def conclude(self, request: HttpRequest, ended: Progress) -> HttpResponse:
        """Lead back to the list, or to the login page, with what there is to tell."""
        if ended.signed_out:
            sign_out(request)
        for level, words in ended.texts:
            messages.add_message(request, _LEVELS[level], words)
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
            if found.is_silent and not overview().underway:
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
        at_work = overview().underway
        if not at_work:
            messages.info(request, _("It is over."))
            return HttpResponseRedirect(self.url("changelist"))
        return self.render(
            request, "progress", _("Under way"), underway=list(map(text_module.underway, at_work))
        )


def _lost(last_heard: Progress) -> Progress:
    """Return how an operation ended whose process cannot say so any more."""
    text = _(
        "%s: the process that did it is gone. The live databases are as they were, or as they "
        "shall be."
    )
    return replace(last_heard, ended=True, texts=(("warning", text % last_heard.title),))


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
            found = overview()
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


View = Callable[..., HttpResponse]


class SnapshotAdmin(ActionPages):
    """Snapshots in the admin."""

    def get_urls(self) -> list[URLPattern]:
        """Return the pages' addresses. A snapshot is addressed by its set id, which stays."""
        pages: list[tuple[str, str, View]] = [
            ("", "changelist", require_safe(self.changelist_view)),
            ("add/", "add", self._acting(Take)),
            ("undo/", "undo", self._acting(UndoLast)),
            ("delete/", "delete_selected", self._acting(Delete)),
            ("<slug:set_id>/change/", "change", require_safe(self.detail_view)),
            ("<slug:set_id>/restore/", "restore", self._acting(Restore)),
            ("<slug:set_id>/rename/", "rename", self._acting(Rename)),
            ("<slug:set_id>/note/", "note", self._acting(Annotate)),
            ("<slug:set_id>/pin/", "pin", self._acting(Pin)),
            ("<slug:set_id>/delete/", "delete", self._acting(Delete)),
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
            found = overview()
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
            underway=list(map(text.underway, found.underway)),
            undo=text.undo(found.undos[0]) if found.undos else "",
            occupied=text.occupied(found),
            **(extra_context or {}),
        )

    def detail_view(self, request: HttpRequest, set_id: str) -> HttpResponse:
        """Show all that is known of one snapshot."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            snapshot = self.snapshots(overview(), [set_id])[0]
            parts = zip(snapshot.members, read_carried_properties(snapshot), strict=True)
        except PgsnapError as error:
            return self.refuse(request, _("Snapshots"), error)
        row = Row(snapshot=snapshot, drift=KnownMigrations().drift(snapshot.migrations))
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
