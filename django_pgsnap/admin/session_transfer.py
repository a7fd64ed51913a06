"""Session transfer: whether whoever asks for a restore stays signed in over it.

A restored database brings its own users and sessions. The visitor's session is carried over as it
is right before the swap, and only if Django would accept it there: the same name behind the same
primary key, and a session hash that matches that user's password. No user is inserted, nothing is
signed anew. Whoever has signed out by then, or has another password, is not signed in again.

Sessions of others that come back with a restored database are deleted, since they may have been
ended for a reason. Those that are kept elsewhere outlive the restore, and could come to mean
another user who is given the same id.
"""

from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cached_db import SessionStore as CachedDatabaseSession
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieSession
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import Error, connections, router
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from ..conf import config
from ..postgres.targets import aliases_sharing_database


class SessionTransfer:
    """Who sent a request, with what is needed to recognise them in another database."""

    def __init__(self, request: HttpRequest) -> None:
        self._session: SessionBase = request.session
        self._data: dict[str, Any] = dict(request.session.items())
        # Something else may say who sends a request: a middleware, a proxy.
        self._is_by_session = auth.SESSION_KEY in self._data
        self.username = request.user.get_username()
        self._row: AbstractBaseSession | None = None
        self._holds = True
        self._last_id: int | None = None
        # Who that is in the database that is live now, None where it does not know them.
        self.user: AbstractBaseUser | AnonymousUser | None = request.user
        self.keep_ids_unique = False  # whether no id of a user is to be given twice

    def look(self) -> None:
        """See whether the session still holds, as the last thing before the swap."""
        if self.keep_ids_unique:
            self._last_id = _ask_users(f"SELECT {_LAST_ID}")
        if not self._is_by_session:
            return
        self._holds = False
        # Where it cannot be seen, it is taken for ended.
        with suppress(Error):
            data = self._stored()
            if self._recognised(data) is not None:
                self._data, self._holds = data, True

    def arrive(self, restored: Collection[str]) -> str:
        """Carry the session over to these aliases, or end it and return why."""
        if self._last_id is not None:
            go_on = f"SELECT pg_catalog.setval({_SEQUENCE}, GREATEST(%(last_id)s, {_LAST_ID}))"
            _ask_users(go_on, last_id=self._last_id)
        session = self._session
        if not config().keep_sessions and isinstance(session, DatabaseSession):
            with suppress(Error):
                if _are_in(type(session), restored):
                    _rows_of(session).exclude(pk=session.session_key).delete()
        self.user = None
        if not self._is_by_session:
            return ""
        # A restored database may be older than a table or a column.
        with suppress(Error):
            self.user = self._recognised(self._data)
            if self.user is not None and self._holds:
                if self._row is not None:
                    self._row.save(using=router.db_for_write(type(self._row)))
                return ""
        with suppress(Error):
            session.delete(session.session_key)
        if not self._holds:
            return _("You are signed out: your session ended while the restore was at work.")
        return _(
            "You are signed out: the restored database does not have you with the same name "
            "and password. Log in as somebody whom it has."
        )

    def _stored(self) -> dict[str, Any]:
        """Return what the session holds now; where it is in a database, take its row along."""
        if not isinstance(self._session, DatabaseSession):
            return dict(type(self._session)(self._session.session_key).items())
        now = timezone.now()
        found = _rows_of(self._session)
        self._row = found.filter(pk=self._session.session_key, expire_date__gt=now).first()
        return self._row.get_decoded() if self._row is not None else {}

    def _recognised(self, data: dict[str, Any]) -> AbstractBaseUser | None:
        """Return whom Django takes the owner of a session for, if that is the visitor."""
        request = HttpRequest()
        request.session = CookieSession()  # stores nothing by itself
        request.session.update(data)
        user = auth.get_user(request)
        # The hash is of the password alone: users without one would all match.
        if isinstance(user, AnonymousUser) or user.get_username() != self.username:
            return None
        return user


def _rows_of(session: DatabaseSession) -> QuerySet[AbstractBaseSession]:
    return session.model._default_manager.using(router.db_for_write(session.model))  # noqa: SLF001


def do_sessions_outlive_restores(restored: Collection[str]) -> bool:
    """Tell whether sessions are kept elsewhere than in databases that are restored alone."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    return not _are_in(store, restored) or issubclass(store, CachedDatabaseSession)


def _are_in(store: type[SessionBase], aliases: Collection[str]) -> bool:
    """Tell whether sessions are kept in one of the databases that these aliases lead to."""
    if not issubclass(store, DatabaseSession):
        return False
    alias = router.db_for_write(store.get_model_class())
    return alias in aliases or alias in aliases_sharing_database(aliases)


# It is NULL where a project gives ids in another way, and so is what comes of it.
_SEQUENCE: Final = "pg_catalog.pg_get_serial_sequence(%(table)s, %(column)s)::pg_catalog.regclass"
_LAST_ID: Final = f"pg_catalog.pg_sequence_last_value({_SEQUENCE})"


def _ask_users(query: str, **values: Any) -> Any:
    """Ask something about the sequence of the users' ids, None where that cannot be."""
    options = auth.get_user_model()._meta  # noqa: SLF001
    connection = connections[router.db_for_write(auth.get_user_model())]
    table = connection.ops.quote_name(options.db_table)
    with suppress(Error), connection.cursor() as cursor:
        cursor.execute(query, {"table": table, "column": options.pk.column, **values})
        return cursor.fetchone()[0]
    return None


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
