"""The visitor: who asks for a restore, and whether they stay signed in over it.

A restored database brings its own users and sessions. The visitor's session is carried over as it
is, and only if Django would accept it there: the same name behind the same primary key, and a
session hash that matches that user's password. No user is inserted, nothing is signed anew.
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


class Visitor:
    """Who sent a request, with what is needed to recognise them in another database."""

    def __init__(self, request: HttpRequest) -> None:
        """Take note of the request's session and user."""
        self._session: SessionBase = request.session
        self._data: dict[str, Any] = dict(request.session.items())
        self._username = request.user.get_username()
        self._row: AbstractBaseSession | None = None
        self.user: AbstractBaseUser | AnonymousUser | None = request.user

    @property
    def _is_by_session(self) -> bool:
        # Something else may say who sends a request: a middleware, a proxy.
        return auth.SESSION_KEY in self._data

    def pack(self) -> None:
        """Read the session's row, if it is in a database."""
        if isinstance(self._session, DatabaseSession) and self._session.session_key:
            rows = self._session.model._default_manager.using(self._database)  # noqa: SLF001
            self._row = rows.filter(pk=self._session.session_key).first()

    def arrive(self) -> bool:
        """Carry the session over to the database that is live now, or end it.

        Returns:
            Whether the visitor has to sign in again.
        """
        self.user = None
        if not self._is_by_session:
            return False
        # A restored database may be older than a table or a column.
        with suppress(Error):
            user = self._recognised()
            if user is not None:
                if self._row is not None:
                    self._row.save(using=self._database)
                self.user = user
                return False
        with suppress(Error):
            self._session.delete(self._session.session_key)
        return True

    @property
    def _database(self) -> str:
        if not isinstance(self._session, DatabaseSession):
            raise TypeError(self._session)
        return router.db_for_write(self._session.model)

    def _recognised(self) -> AbstractBaseUser | None:
        request = HttpRequest()
        request.session = _Copy(self._data)  # type: ignore[assignment]
        user = auth.get_user(request)
        # The hash is of the password alone: users without one would all match.
        if isinstance(user, AnonymousUser) or user.get_username() != self._username:
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
    sign_out(request)
