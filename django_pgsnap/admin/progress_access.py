"""Tickets: who started an operation may see how it is going, without any database being asked.

A ticket is a signed cookie, valid for the page of one operation. While that operation is at work
its page needs nothing else, neither a session nor a user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from django.core import signing
from django.http import HttpRequest, HttpResponse, parse_cookie

from ..connections.claimed_requests import register_claim
from . import background

_NAME: Final = "pgsnap_progress"
_SALT: Final = "django_pgsnap.progress"
_AGE_S: Final = 60 * 60
_PAGE: Final = re.compile(r"/progress/(?P<token>[0-9a-f]{32})/$")


def give(request: HttpRequest, response: HttpResponse, token: str, page: str) -> None:
    """Send a ticket for the operation of this token, which its page alone gets to see."""
    response.set_cookie(
        _NAME,
        _signer().sign(token),
        max_age=_AGE_S,
        path=page,
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def take_back(response: HttpResponse, page: str) -> None:
    """Have a ticket forgotten that has served its turn."""
    response.delete_cookie(_NAME, path=page, samesite="Lax")


def is_valid(cookies: Mapping[str, str], token: str) -> bool:
    """Tell whether there is a ticket for the operation of this token among the cookies."""
    try:
        return _signer().unsign(cookies.get(_NAME, ""), max_age=_AGE_S) == token
    except signing.BadSignature:
        return False


def _signer() -> signing.TimestampSigner:
    # Not as Django signs cookies: how it makes their salt is its own business.
    return signing.TimestampSigner(salt=_SALT)


def _claims(path: str, cookies: str) -> bool:
    """Claim a request for the page of an operation that is at work, if it comes with a ticket."""
    page = _PAGE.search(path)
    if page is None or not is_valid(parse_cookie(cookies), page["token"]):
        return False
    found = background.read(page["token"])
    return found is not None and not found.progress.ended and not found.is_silent


register_claim(_claims)
