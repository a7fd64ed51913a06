"""Servers: where they are, and how to get a session on one of their databases.

This is the only place that opens connections. It does so as Django does for a database that no
alias names: by a copy of the alias' wrapper, so whatever a backend does to get in, it does here.
"""

import getpass
import itertools
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import psycopg
from django.core.exceptions import SynchronousOnlyOperation
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from ..errors import MissingRightError, ServerError, ServerUnavailableError
from ..messages import message
from .session import APPLICATION_PREFIX, PoolerError, ServerIdentity, Session

_MAINTENANCE: Final = "postgres"
# A live database may itself be called postgres, as in Docker's image. A session on template1
# instead would make everybody's CREATE DATABASE fail.
_OWN_MAINTENANCE: Final = ("pgsnap", "pgsnap_maintenance")
_OWN_COMMENT: Final = "Where django_pgsnap connects while it replaces other databases."
_IS_OWN: Final = sql.SQL(
    "SELECT FROM pg_database WHERE datname = %s AND pg_get_userbyid(datdba) = current_user"
    " AND shobj_description(oid, 'pg_database') = %s"
)

_MAX_MILLISECONDS: Final = 2**31 - 1
_MOMENT_S: Final = 0.1

# The copy of a wrapper gets an alias that nobody has: pools are known by their aliases, and one
# would give a connection to whichever database was asked for first.
_numbers: Final = itertools.count(1)

# By which address this process last met which server.
_met: Final[dict[tuple[str, str, str], ServerIdentity]] = {}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL server as one role of ours sees it; what is empty is libpq's default."""

    service: str = ""  # name of a libpq service, or empty
    host: str
    port: str
    user: str
    role: str  # role that is assumed after connecting (``OPTIONS["assume_role"]``), or empty
    maintenance: str
    wrapper: type[BaseDatabaseWrapper] = field(compare=False, repr=False)
    # The alias' settings, with what ``PGSNAP["MAINTENANCE"]`` changes.
    settings: Mapping[str, Any] = field(compare=False, repr=False)

    def __str__(self) -> str:
        default = f"the service {self.service!r}" if self.service else "the local socket"
        where = f"{self.host or default}{':' if self.port else ''}{self.port}"
        return f"{where} as {self.user}" if self.user else where

    @cached_property
    def address(self) -> tuple[str, str, str]:
        """By which strings it is reached; others may lead to the same server."""
        return self.service, self.host, self.port

    @property
    def identity(self) -> object:
        """What all addresses of one server have in common, once this process has met it by them."""
        return _met.get(self.address, self.address)

    def session(
        self,
        purpose: str,
        *,
        lock_timeout_s: float | None = None,
        before_creating: Callable[[Session], object] | None = None,
    ) -> Session:
        """Open a maintenance session.

        Before the maintenance database is created, ``before_creating`` is given a session, and may
        refuse. Without it none is, and where it is missing the session is on ``postgres``. A
        statement waits for a lock at least a moment, for many locks are held for less.

        Raises:
            MissingRightError: The maintenance database is somebody else's, or cannot be created.
            ServerUnavailableError: The server cannot be reached or does not let us in.
        """
        settings = {}
        if lock_timeout_s is not None:
            settings["lock_timeout"] = milliseconds(max(lock_timeout_s, _MOMENT_S))
        if self.maintenance not in _OWN_MAINTENANCE:
            return self.session_on(self.maintenance, purpose, settings)
        try:
            return self._open_own(purpose, settings)
        except ServerUnavailableError:
            # Only a live database called postgres brings us here, so there is one.
            session = self.session_on(_MAINTENANCE, purpose, settings)
            if session.rows(_EXISTS, [self.maintenance]):
                session.close()
                # Somebody may just have made it.
                return self._open_own(purpose, settings)
        if before_creating is None:
            return session
        with session:
            before_creating(session)
            _create_maintenance_database(session, self.maintenance)
        return self._open_own(purpose, settings)

    def identify(self, database: str) -> tuple[ServerIdentity, int]:
        """Return which server a database is on, and its oid, without setting anything there."""
        # A pooler may keep its session on the database, which is then to be ended like any other.
        with Session(self._connect(database, "django_pgsnap, comparing servers")) as session:
            try:
                return session.identify()
            except psycopg.Error as error:
                raise _explained(error, self, database) from error

    def is_same_as(self, other: "Server") -> bool:
        """Tell whether another address leads the same role to the same server, as far as known."""
        roles_match = (self.user, self.role) == (other.user, other.role)
        return roles_match and self.identity == other.identity

    def _open_own(self, purpose: str, settings: Mapping[str, str]) -> Session:
        session = self.session_on(self.maintenance, purpose, settings)
        if owner := session.value(_FOREIGN_OWNER):
            session.close()
            raise MissingRightError(
                "The database {maintenance!r}, which we would work from, belongs to the role "
                "{role}, who could have prepared it to act in our name.",
                hint="Let a superuser run: DROP DATABASE {maintenance}; or name another "
                "database in PGSNAP['MAINTENANCE'], as {{'dbname': '…'}}.",
                maintenance=self.maintenance,
                role=owner,
            )
        return session

    def session_on(
        self, database: str, purpose: str, settings: Mapping[str, str] | None = None
    ) -> Session:
        """Open a session on any database of the server, the live one for instance."""
        session = Session(self._connect(database, _application_name(purpose)))
        try:
            session.prepare(settings or {}, self.role)
        except psycopg.Error as error:
            session.close()
            raise _explained(error, self, database) from error
        except PoolerError:
            session.close()
            raise ServerUnavailableError(
                "Between us and the server at {server} is a connection pooler such as PgBouncer, "
                "which may give each statement another session.",
                hint="Lead maintenance sessions past it, to the server itself: PGSNAP = "
                "{{'MAINTENANCE': {{'host': '…', 'port': '…'}}}}.",
                server=self,
            ) from None
        _note_identity(self.address, session.identity)
        return session

    def _connect(self, database: str, application_name: str) -> psycopg.Connection[TupleRow]:
        # No variable holds passwords: pages that explain errors show variables.
        try:
            wrapper = self._copy_wrapper(database, application_name)
            found = wrapper.get_new_connection(wrapper.get_connection_params())
        except Exception as error:  # noqa: BLE001  # a backend of others may raise anything
            raise _explained(error, self, database) from _without_frames(error)
        if hasattr(found, "driver_connection"):  # SQLAlchemy's pools give proxies
            proxy, found = found, found.driver_connection
            proxy.info = {}  # detach() wants its own, which django-db-connection-pool replaces
            proxy.detach()
        if not isinstance(found, psycopg.Connection):
            found.close()
            raise ServerUnavailableError(
                "The backend of the server at {server} connects by {module}.",
                hint="Use a database backend that connects by psycopg 3.",
                server=self,
                module=type(found).__module__,
            )
        found.autocommit = True
        # Otherwise psycopg's BEGIN would name what the alias' OPTIONS say.
        found.isolation_level = None
        # Behind a pooler, a prepared statement may meet a server that never saw it.
        found.prepare_threshold = None
        found.cursor_factory = psycopg.Cursor
        found.row_factory = tuple_row
        return found

    def _copy_wrapper(self, database: str, application_name: str) -> BaseDatabaseWrapper:
        options = {**self.settings["OPTIONS"], "application_name": application_name}
        options.pop("pool", None)
        settings = {**self.settings, "NAME": database, "OPTIONS": options}
        wrapper = self.wrapper(settings, f"__pgsnap_{next(_numbers)}__")
        if kinds := getattr(wrapper, "_type_infos", None):
            # PostGIS looks its types up on each new connection. The database may be somebody
            # else's, who has given the functions that this uses other meanings.
            known = {kind: {wrapper.alias: None} for kind in kinds}
            setattr(wrapper, "_type_infos", known)  # noqa: B010  # in PostGIS' wrapper only
        return wrapper


def _note_identity(address: tuple[str, str, str], now: ServerIdentity) -> None:
    before = _met.get(address, now)
    if (before.system, before.is_standby) == (now.system, now.is_standby):
        # A server that was started anew is so at its other addresses, too.
        _met.update({other: now for other, known in _met.copy().items() if known == before})
    _met[address] = now


def milliseconds(seconds: float) -> str:
    """Return a time-out as the server takes it, where only 0 means for ever."""
    return str(round(min(max(seconds * 1000, 1), _MAX_MILLISECONDS)) if seconds else 0)


def maintenance_name(live_names: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """Return which database maintenance sessions go to, given the live databases' names."""
    if "dbname" in overrides:
        return str(overrides["dbname"])
    candidates = (_MAINTENANCE, *_OWN_MAINTENANCE)
    return next(name for name in candidates if name not in live_names)


_EXISTS: Final = sql.SQL("SELECT oid FROM pg_database WHERE datname = %s")
_FOREIGN_OWNER: Final = sql.SQL(
    "SELECT quote_ident(rolname) FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba"
    " WHERE datname = current_database() AND NOT rolsuper"
    " AND rolname NOT IN (session_user, current_user)"
)


def _create_maintenance_database(session: Session, name: str) -> None:
    database = sql.Identifier(name)
    try:
        session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(database))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingRightError(
            "The role may not create the database {name!r}, which it would work from.",
            hint="Let a superuser run: CREATE DATABASE {name} TEMPLATE template0;",
            name=name,
        ) from error
    session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, _OWN_COMMENT))


def drop_maintenance_database(server: Server) -> bool:
    """Drop the small database that our role made to work from, and tell whether it is gone.

    It stays while somebody works from it. Only a live database called postgres has us make it, so
    there is a postgres to drop it from.
    """
    name = server.maintenance
    if name not in _OWN_MAINTENANCE:
        return False
    with server.session_on(_MAINTENANCE, "purge") as session:
        if not session.rows(_IS_OWN, [name, _OWN_COMMENT]):
            return False
        try:
            session.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.ObjectInUse:
            return False
    return True


def _application_name(purpose: str) -> str:
    # PostgreSQL keeps 63 bytes, and turns what is not printable ASCII into question marks or such.
    # Some of that would not even reach it, nor would it let in who says much more.
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = str(os.getuid())
    name = f"{APPLICATION_PREFIX}{purpose} ({user}@{socket.gethostname()}:{os.getpid()})"
    return "".join(character if " " <= character <= "~" else "?" for character in name[:63])


def _without_frames(error: Exception) -> Exception:
    """Take away from an error the frames of the driver that raised it.

    The password is among their variables, and pages that explain errors show those.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _explained(error: Exception, server: Server, database: str) -> ServerUnavailableError:
    text = str(error).strip() or type(error).__name__
    hint = next(hint for words, hint in _HINTS.items() if re.search(words, text))
    if database != server.maintenance and text.endswith(f'"{database}" does not exist'):
        hint = message(
            "Restore a snapshot to make it again, or correct NAME of the alias in DATABASES."
        )
    return ServerUnavailableError(
        "Cannot connect to database {database!r} of the server at {server}: {text}",
        hint=hint,
        database=database,
        server=server,
        text=text,
    )


_ASYNC_HINT: Final = message("Call it by sync_to_async, or in a thread.")
# libpq has no error codes for a failed connection, so its words must do. Where the server speaks
# another language, the last hint is shown.
_HINTS: Final = {
    "async context": _ASYNC_HINT,
    "set role": message("Check USER and OPTIONS['assume_role'] of the alias in DATABASES."),
    'password|role ".*" (does not exist|is not permitted to log in)': message(
        "Check USER and PASSWORD of the alias in DATABASES."
    ),
    "too many|connection slots": message(
        "Close some clients, or raise the limit of connections that the message names."
    ),
    "pg_hba.conf|permission denied|does not exist": message(
        "Let the role connect to it, or name another database in PGSNAP['MAINTENANCE'], "
        "as {'dbname': '…'}."
    ),
    "": message("Start the server, or correct HOST and PORT of the alias in DATABASES."),
}


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what the server says, and nobody expected, into an error of ours."""
    try:
        yield
    except SynchronousOnlyOperation as error:
        raise ServerError(str(error), hint=_ASYNC_HINT) from error
    except psycopg.errors.UntranslatableCharacter as error:
        cause = error.diag.message_primary
        raise ServerError(
            "The encoding of the maintenance database cannot hold it: {cause}.",
            hint="Leave such characters out of the note, or name a database in UTF8 in "
            "PGSNAP['MAINTENANCE'], as {{'dbname': '…'}}.",
            cause=cause,
        ) from error
    except psycopg.Error as error:
        # What libpq says by itself goes over several lines.
        cause = error.diag.message_primary or " ".join(str(error).split()).rstrip(".")
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        raise ServerError(
            "The server refused, or the connection was lost: {cause}{code}. Each live database "
            "is as it was, or as it shall be.",
            hint=message(error.diag.message_hint or "")
            or message("See the server's log, and what ./manage.py pgsnap list shows."),
            cause=cause,
            code=code,
        ) from error
