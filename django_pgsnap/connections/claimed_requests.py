"""Requests that are answered without a database, since the database may be at work.

A client that connects while its database is copied waits until that is over. But middleware asks
who sends a request before any view is reached, and the watch looks behind connections even before
that. So whoever can answer without a database claims a request when it begins. The cookie of its
session is left out then, and nobody has anything to ask a database for.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from django.conf import settings
from django.core.signals import request_started
from django.http import HttpRequest

# What a server knows of a request: the environment of WSGI, or the scope of ASGI.
Given = MutableMapping[str, Any]
# Is asked with the path and the cookies of a request, as they were sent.
Claim = Callable[[str, str], bool]

_MARK: Final = "django_pgsnap.standalone"

_claims: list[Claim] = []


def register_claim(claim: Claim) -> None:
    """Have a function asked at the beginning of each request whether it claims it."""
    _claims.append(claim)
    request_started.connect(is_claimed_at_start, dispatch_uid=_MARK)


def is_claimed_at_start(
    *, environ: Given | None = None, scope: Given | None = None, **_: Any
) -> bool:
    """Tell whether a request that begins is claimed.

    Receivers are called in any order, so whoever asks first has it decided.
    """
    if environ is not None:
        given, path, cookies = environ, environ.get("PATH_INFO", ""), environ.get("HTTP_COOKIE", "")
    elif scope is not None:
        sent = [value for name, value in scope["headers"] if name == b"cookie"]
        given, path, cookies = scope, scope["path"], b"; ".join(sent).decode("latin1")
    else:
        return False
    if _MARK not in given:
        given[_MARK] = any(claim(path, cookies) for claim in _claims)
        if given[_MARK]:
            _leave_session_out(given, cookies)
    return bool(given[_MARK])


def is_claimed(request: HttpRequest) -> bool:
    """Tell whether a request was claimed when it began."""
    return bool(getattr(request, "scope", request.META).get(_MARK))


def _leave_session_out(given: Given, cookies: str) -> None:
    left = ";".join(
        cookie
        for cookie in cookies.split(";")
        if cookie.partition("=")[0].strip() != settings.SESSION_COOKIE_NAME
    )
    if "headers" in given:  # a scope
        others = [header for header in given["headers"] if header[0] != b"cookie"]
        given["headers"] = [*others, (b"cookie", left.encode("latin1"))]
    else:
        given["HTTP_COOKIE"] = left
