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
        cookies = environ.get("HTTP_COOKIE", "")
        if _decide(environ, environ.get("PATH_INFO", ""), cookies):
            environ["HTTP_COOKIE"] = _without_session(cookies)
        return bool(environ[_MARK])
    if scope is not None:
        headers = [(name, value.decode("latin1")) for name, value in scope["headers"]]
        cookies = "; ".join(value for name, value in headers if name == b"cookie")
        if _decide(scope, scope["path"], cookies):
            others = [header for header in scope["headers"] if header[0] != b"cookie"]
            scope["headers"] = [*others, (b"cookie", _without_session(cookies).encode("latin1"))]
        return bool(scope[_MARK])
    return False


def is_claimed(request: HttpRequest) -> bool:
    """Tell whether a request was claimed when it began."""
    return bool(getattr(request, "scope", request.META).get(_MARK))


def _decide(given: Given, path: str, cookies: str) -> bool:
    """Decide a request that is not decided yet, and tell whether it is claimed by that."""
    if _MARK in given:
        return False
    given[_MARK] = any(claim(path, cookies) for claim in _claims)
    return bool(given[_MARK])


def _without_session(cookies: str) -> str:
    return ";".join(
        cookie
        for cookie in cookies.split(";")
        if cookie.partition("=")[0].strip() != settings.SESSION_COOKIE_NAME
    )
