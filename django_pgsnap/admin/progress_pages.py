"""Work in the background as the admin shows it: its page, how to cancel it, and how it ends.

The browser that started an operation sees its progress, by a cookie for that page alone. A client
that connects while its database is copied waits until that is over. But middleware asks who sends a
request before any view is reached. So a request for the page of an operation that is at work is
marked when it begins, if it has the cookie for it. The cookie of its session is left out then, and
nobody has anything to ask a database for.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, cast

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.core.signals import request_started
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, parse_cookie
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from ..errors import NotEnabledError, PgsnapError, ServerUnavailableError
from ..snapshots.queries import describe_operation, overview
from .actions import Action
from .background import (
    KEEP_S,
    Progress,
    ProgressReporter,
    forget_progress,
    read_progress,
    release_connections,
    request_cancel,
    start_work,
)
from .session_transfer import SessionTransfer, leave_alone, sign_out
from .text import describe_error, translate_all

View = Callable[..., HttpResponse]

# What is done by then is answered at once; for the rest there is a page that shows its progress.
_PATIENCE_S: Final = 1.5
_STATUSES: Final[Mapping[type[PgsnapError], HTTPStatus]] = {
    NotEnabledError: HTTPStatus.FORBIDDEN,
    ServerUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Such pages ask by themselves who is there: that may not need a database, and says why somebody is
# there no more.
_PUBLIC: Final = (csrf_exempt, login_not_required, never_cache)
_COOKIE: Final = "pgsnap_progress"
_SALT: Final = "django_pgsnap.progress"
_PAGE: Final = re.compile(r"/progress/(?P<token>[0-9a-f]{32})/(cancel/)?$")
_MARK: Final = "django_pgsnap.needs_no_database"
_LEVELS: Final = {name: level for level, name in messages.constants.DEFAULT_TAGS.items()}


class ProgressPages(admin.ModelAdmin):  # type: ignore[type-arg]
    """Does the work of actions, and has the pages that go with it."""

    def url(self, page: str, *arguments: str) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}"
        return reverse(name, args=arguments, current_app=self.admin_site.name)

    def guard(self, view: View) -> View:
        """Answer our errors with a page that says them, and have ATOMIC_REQUESTS spare the view.

        A take or a restore would wait for the transaction that ATOMIC_REQUESTS opens.
        """

        @wraps(view)
        def guarded(request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
            try:
                return view(request, *arguments, **options)
            except PgsnapError as error:
                title, said = _("This is not possible"), describe_error(error)
                status = _STATUSES.get(type(error), HTTPStatus.CONFLICT)
                return self.render(request, "refused", title, status=status, error=said)

        for alias in connections:
            guarded = transaction.non_atomic_requests(using=alias)(guarded)
        return guarded

    def render(
        self, request: HttpRequest, template: str, title: str, *, status: int = 200, **facts: Any
    ) -> TemplateResponse:
        """Return a page in the look of the admin."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "original": title,
            "has_view_permission": True,
            "media": self.media,
        }
        request.current_app = self.admin_site.name
        name = f"admin/django_pgsnap/snapshot/{template}.html"
        return TemplateResponse(request, name, {**context, **facts}, status=status)

    def perform(
        self, request: HttpRequest, action: Action, values: dict[str, Any]
    ) -> HttpResponse | PgsnapError:
        """Do what an action is for; lead to its progress if that takes a while."""
        session = SessionTransfer(request)
        release_connections()
        out = ProgressReporter(action.title, request.user)
        thread = start_work(out, lambda: action.perform(values, session, out))
        thread.join(_PATIENCE_S)
        if not thread.is_alive():
            forget_progress(out.token)
            return out.progress.error or self._conclude(request, out.progress)
        # Neither session nor messages: they may be in the database that is at work.
        leave_alone(request)
        page = self.url("progress", out.token)
        response = HttpResponseRedirect(page)
        set_progress_cookie(response, out.token, page, secure=request.is_secure())
        return response

    @method_decorator([*_PUBLIC, require_safe])
    def progress_view(self, request: HttpRequest, token: str) -> HttpResponse:
        """Show how an operation is going, or how it ended.

        Who started it needs nothing from a database for that: during a take, none would answer.
        Others have to be signed in.
        """
        progress = read_progress(token)
        own = progress if has_progress_cookie(request, token) else None
        # `_mark_request` saw that it is for this page, and took the cookie of the session away.
        is_marked = _MARK in getattr(request, "scope", request.META)
        if own is not None and is_marked:
            request.user = own.user or AnonymousUser()
            if self.admin_site.has_permission(request):
                shown = self._show(request, own, token, []).render()
                leave_alone(request)
                return cast(HttpResponse, shown)
        if own is not None and own.ended:
            if _is_poll(request):
                return HttpResponse(status=HTTPStatus.NO_CONTENT)
            if own.signed_out or self.admin_site.has_permission(request):
                forget_progress(token)
                response = self._conclude(request, own)
                response.delete_cookie(_COOKIE, path=self.url("progress", token), samesite="Strict")
                return response
        return self.admin_site.admin_view(self._watch)(request, token, progress)

    @method_decorator([*_PUBLIC, require_POST])
    def cancel_view(self, request: HttpRequest, token: str) -> HttpResponse:
        if not has_progress_cookie(request, token):
            raise PermissionDenied
        request_cancel(token)
        return HttpResponseRedirect(self.url("progress", token))

    def _conclude(self, request: HttpRequest, ended: Progress) -> HttpResponse:
        """Lead back to the list, or to the login page, with what there is to tell."""
        if ended.signed_out:
            sign_out(request)
        for level, words in ended.texts:
            messages.add_message(request, _LEVELS[level], words)
        if ended.error is not None:
            messages.error(request, describe_error(ended.error))
        there = self.url("changelist")
        if not ended.signed_out:
            return HttpResponseRedirect(there)
        messages.warning(request, ended.signed_out)
        return redirect_to_login(there, reverse("admin:login", current_app=self.admin_site.name))

    def _watch(self, request: HttpRequest, token: str, progress: Progress | None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if progress is None or progress.is_silent:
            running = translate_all(map(describe_operation, overview().underway))
            is_over = not running
        else:
            running, is_over = [], progress.ended
        if not is_over:
            return self._show(request, progress, token, running)
        if _is_poll(request):
            return HttpResponse(status=HTTPStatus.NO_CONTENT)
        if progress is None:
            progress = Progress(title="", texts=(("info", _("It is over.")),))
        elif not progress.ended:  # its process cannot say any more how it ended
            lost = _(
                "%s: the process that did it is gone. The live databases are as they were, or as "
                "they shall be."
            )
            progress = replace(progress, texts=(("warning", lost % progress.title),))
        return self._conclude(request, replace(progress, signed_out=""))

    def _show(
        self, request: HttpRequest, progress: Progress | None, token: str, running: Sequence[str]
    ) -> TemplateResponse:
        title = progress.title if progress else _("At work")
        own = token if progress and has_progress_cookie(request, token) else ""
        facts: dict[str, Any] = {"progress": progress, "running": running, "token": own}
        return self.render(request, "progress", title, **facts)


def _is_poll(request: HttpRequest) -> bool:
    """Tell whether the page's script asks, which follows no redirection."""
    return "X-Pgsnap-Poll" in request.headers


def set_progress_cookie(response: HttpResponse, token: str, page: str, *, secure: bool) -> None:
    """Give whoever started an operation the cookie for it, which its page alone gets to see."""
    response.set_signed_cookie(
        _COOKIE,
        token,
        salt=_SALT,
        max_age=KEEP_S,
        path=page,
        secure=secure,
        httponly=True,
        # Another site can make nobody press Cancel.
        samesite="Strict",
    )


def has_progress_cookie(request: HttpRequest, token: str) -> bool:
    """Tell whether a request has the cookie for the operation of this token."""
    return bool(request.get_signed_cookie(_COOKIE, "", salt=_SALT, max_age=KEEP_S) == token)


def _mark_request(
    *,
    environ: MutableMapping[str, Any] | None = None,
    scope: MutableMapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Mark what a server knows of a request: the environment of WSGI, or the scope of ASGI."""
    # All requests pass here, so their cookies are read for this page alone.
    if environ is not None and (page := _PAGE.search(environ.get("PATH_INFO", ""))):
        cookies = environ.get("HTTP_COOKIE", "")
        if _is_for_work(page["token"], cookies):
            environ.update({_MARK: True, "HTTP_COOKIE": _leave_session_out(cookies)})
    elif scope is not None and (page := _PAGE.search(scope["path"])):
        sent = [value for name, value in scope["headers"] if name == b"cookie"]
        cookies = b"; ".join(sent).decode("latin1")
        if _is_for_work(page["token"], cookies):
            others = [header for header in scope["headers"] if header[0] != b"cookie"]
            left = _leave_session_out(cookies).encode("latin1")
            scope.update({_MARK: True, "headers": [*others, (b"cookie", left)]})


def _is_for_work(token: str, cookies: str) -> bool:
    request = HttpRequest()
    request.COOKIES = parse_cookie(cookies)
    if not has_progress_cookie(request, token):
        return False
    progress = read_progress(token)
    if progress is None or progress.user is None:  # then the session has to say who it is
        return False
    return not progress.ended and not progress.is_silent


def _leave_session_out(cookies: str) -> str:
    return ";".join(
        cookie
        for cookie in cookies.split(";")
        if cookie.partition("=")[0].strip() != settings.SESSION_COOKIE_NAME
    )


request_started.connect(_mark_request, dispatch_uid=_MARK)
