"""Session transfer: whether whoever asks for a restore stays signed in over it.

A restored database brings its own users and sessions. The visitor's session is carried over as it
is right before the swap, and only if Django would accept it there: the same name behind the same
primary key, and a session hash that matches that user's password. No user is inserted, nothing is
signed anew. Whoever has signed out by then, or has another password, is not signed in again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import Error, router
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _


class SessionTransfer:
    """Who sent a request, with what is needed to recognise them in another database.

    Attributes:
        username: Their name.
        user: Who that is in the database that is live now, None where it does not know them.
    """

    def __init__(self, request: HttpRequest) -> None:
        """Take note of the request's session and user."""
        self._session: SessionBase = request.session
        self._data: dict[str, Any] = dict(request.session.items())
        self.username = request.user.get_username()
        self._row: AbstractBaseSession | None = None
        self._holds = True
        self.user: AbstractBaseUser | AnonymousUser | None = request.user

    @property
    def _is_by_session(self) -> bool:
        # Something else may say who sends a request: a middleware, a proxy.
        return auth.SESSION_KEY in self._data

    def look(self) -> None:
        """See whether the session still holds, as the last thing before the swap."""
        if not self._is_by_session:
            return
        self._holds = False
        # Where it cannot be seen, it is taken for ended.
        with suppress(Error):
            data = self._stored()
            if self._recognised(data) is not None:
                self._data, self._holds = data, True

    def arrive(self) -> str:
        """Carry the session over to the database that is live now, or end it.

        Returns:
            Why the visitor has to sign in again; empty where they need not.
        """
        self.user = None
        if not self._is_by_session:
            return ""
        # A restored database may be older than a table or a column.
        with suppress(Error):
            self.user = self._recognised(self._data)
            if self.user is not None and self._holds:
                if self._row is not None:
                    self._row.save(using=self._database)
                return ""
        with suppress(Error):
            self._session.delete(self._session.session_key)
        if not self._holds:
            return _("You are signed out: your session ended while the restore was at work.")
        return _(
            "You are signed out: the restored database does not have you with the same name "
            "and password. Log in as somebody whom it has."
        )

    @property
    def _database(self) -> str:
        if not isinstance(self._session, DatabaseSession):
            raise TypeError(self._session)
        return router.db_for_write(self._session.model)

    def _stored(self) -> dict[str, Any]:
        """Return what the session holds now; where it is in a database, take its row along."""
        if not isinstance(self._session, DatabaseSession):
            return dict(type(self._session)(self._session.session_key).items())
        rows = self._session.model._default_manager.using(self._database)  # noqa: SLF001
        now = timezone.now()
        self._row = rows.filter(pk=self._session.session_key, expire_date__gt=now).first()
        return self._row.get_decoded() if self._row is not None else {}

    def _recognised(self, data: dict[str, Any]) -> AbstractBaseUser | None:
        """Return whom Django takes the owner of a session for, if that is the visitor."""
        request = HttpRequest()
        request.session = _Copy(data)  # type: ignore[assignment]
        user = auth.get_user(request)
        # The hash is of the password alone: users without one would all match.
        if isinstance(user, AnonymousUser) or user.get_username() != self.username:
            return None
        return user


class _Copy(dict[str, Any]):
    """A session's data, for Django to look at without anything being stored."""

    def flush(self) -> None:
        self.clear()

    def cycle_key(self) -> None:
        """Keep the key: the session itself gets a new one at its next request."""


def sign_out(request: HttpRequest) -> None:
    """Make a request nobody's, without asking any database."""
    request.session = type(request.session)()
    request.user = AnonymousUser()


def leave_alone(request: HttpRequest) -> None:
    """Make a request nobody's, without that its sender is signed out."""
    # With the cookie gone from it, the session's middleware has nothing to save or to delete.
    request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
    if settings.CSRF_USE_SESSIONS:
        request.META["CSRF_COOKIE_NEEDS_UPDATE"] = False
    sign_out(request)
