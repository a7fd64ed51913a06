"""Who sees an operation's progress: the browser that started it, by a cookie for that page alone.

A client that connects while its database is copied waits until that is over. But middleware asks
who sends a request before any view is reached. So a request for the page of an operation that is at
work is marked when it begins, if it has the cookie for it. The cookie of its session is left out
then, and nobody has anything to ask a database for.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any, Final

from django.conf import settings
from django.core.signals import request_started
from django.http import HttpRequest, HttpResponse, parse_cookie

from .background import KEEP_S, read_progress

PROGRESS_COOKIE: Final = "pgsnap_progress"

_SALT: Final = "django_pgsnap.progress"
_PAGE: Final = re.compile(r"/progress/(?P<token>[0-9a-f]{32})/(cancel/)?$")
_MARK: Final = "django_pgsnap.needs_no_database"


def set_progress_cookie(response: HttpResponse, token: str, page: str, *, secure: bool) -> None:
    """Give whoever started an operation the cookie for it, which its page alone gets to see."""
    response.set_signed_cookie(
        PROGRESS_COOKIE,
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
    found = request.get_signed_cookie(PROGRESS_COOKIE, "", salt=_SALT, max_age=KEEP_S)
    return bool(found == token)


def needs_no_database(request: HttpRequest) -> bool:
    """Tell whether a request was for an operation at work, and had its cookie, when it began."""
    return _MARK in getattr(request, "scope", request.META)


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
    return progress is not None and not progress.ended and not progress.is_silent


def _leave_session_out(cookies: str) -> str:
    return ";".join(
        cookie
        for cookie in cookies.split(";")
        if cookie.partition("=")[0].strip() != settings.SESSION_COOKIE_NAME
    )


request_started.connect(_mark_request, dispatch_uid=_MARK)
