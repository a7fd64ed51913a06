"""Servers: where they are, and how to get a session on one of their databases.

This is the only place that opens connections.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from ..errors import MissingRightError, ServerError, ServerUnavailableError
from .session import APPLICATION_PREFIX, Session

_MAINTENANCE: Final = "postgres"
# A live database may itself be called postgres, as in Docker's image. A session on template1
# instead would make everybody's CREATE DATABASE fail.
_OWN_MAINTENANCE: Final = "pgsnap"

# On the maintenance database only what the server brings is to be found. On others Django's own
# view counts.
_CATALOG_ONLY: Final = {"search_path": "pg_catalog"}
_MAX_MILLISECONDS: Final = 2**31 - 1
_MOMENT_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL server as one role of ours sees it.

    Attributes:
        host: Host name, socket directory, or empty for libpq's default.
        port: Port as text, or empty for libpq's default.
        user: Role that connects, or empty for libpq's default.
        role: Role that is assumed after connecting (``OPTIONS["assume_role"]``), or empty.
        maintenance: Name of the maintenance database.
        parameters: All connection parameters but the database's name, the password among them.
    """

    host: str
    port: str
    user: str
    role: str
    maintenance: str
    parameters: Mapping[str, Any] = field(compare=False, repr=False)

    def __str__(self) -> str:
        where = f"{self.host or 'the local socket'}{':' if self.port else ''}{self.port}"
        return f"{where} as {self.user}" if self.user else where

    def session(self, purpose: str, *, lock_timeout_s: float | None = None) -> Session:
        """Open a maintenance session.

        Args:
            purpose: What it is for, shown to others in ``pg_stat_activity``.
            lock_timeout_s: How long a statement may wait for a lock, in seconds; None for ever.
                Who does not want to wait waits for a moment, too: many locks are held for less.

        Raises:
            ServerUnavailableError: The server cannot be reached or does not let us in.
        """
        settings = dict(_CATALOG_ONLY)
        if lock_timeout_s is not None:
            settings["lock_timeout"] = milliseconds(max(lock_timeout_s, _MOMENT_S))
        try:
            return self._open(self.maintenance, purpose, settings)
        except ServerUnavailableError:
            if self.maintenance != _OWN_MAINTENANCE:
                raise
        # It may not be there yet. Only a live database called postgres brings us here, so there
        # is a postgres to make it from.
        with self._open(_MAINTENANCE, purpose) as session:
            _create_maintenance_database(session, _OWN_MAINTENANCE)
        return self._open(_OWN_MAINTENANCE, purpose, settings)

    def session_on(self, database: str, purpose: str) -> Session:
        """Open a session on another database of the server, the live one for instance.

        Raises:
            ServerUnavailableError: The server cannot be reached or does not let us in.
        """
        return self._open(database, purpose)

    def _open(
        self, database: str, purpose: str, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Session:
        try:
            connection = psycopg.connect(
                # No variable holds them: pages that explain errors show variables.
                **{
                    **self.parameters,
                    "dbname": database,
                    "application_name": _application_name(purpose),
                },
                autocommit=True,
                row_factory=tuple_row,
                # Behind a pooler, a prepared statement may meet a server that never saw it.
                prepare_threshold=None,
            )
        except (psycopg.Error, UnicodeError) as error:
            raise _explained(error, self, database) from _without_frames(error)
        session = Session(connection)
        try:
            session.prepare(settings, self.role)
        except psycopg.Error as error:
            session.close()
            raise _explained(error, self, database) from error
        return session


def milliseconds(seconds: float) -> str:
    """Return a time-out as the server takes it, where only 0 means for ever."""
    return str(round(min(max(seconds * 1000, 1), _MAX_MILLISECONDS)) if seconds else 0)


def maintenance_name(live_names: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """Return which database maintenance sessions go to, given the live databases' names."""
    if "dbname" in overrides:
        return str(overrides["dbname"])
    return _OWN_MAINTENANCE if _MAINTENANCE in live_names else _MAINTENANCE


def _create_maintenance_database(session: Session, name: str) -> None:
    """Create a small database for maintenance sessions, unless somebody just did.

    Raises:
        MissingRightError: The role may not create databases.
    """
    try:
        session.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
        )
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingRightError(
            f"The role may not create the database {name!r}, which it would work from.",
            hint=f"Let a superuser run: CREATE DATABASE {name} TEMPLATE template0;",
        ) from error
    session.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            sql.Identifier(name),
            sql.Literal("Where django_pgsnap connects while it replaces other databases."),
        )
    )


def _application_name(purpose: str) -> str:
    # PostgreSQL keeps 63 bytes, and turns what is not printable ASCII into question marks or such.
    # Some of that would not even reach it, nor would it let in who says much more.
    name = f"{APPLICATION_PREFIX}{purpose} ({_user()}@{socket.gethostname()}:{os.getpid()})"
    return "".join(character if " " <= character <= "~" else "?" for character in name[:63])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _without_frames(error: Exception) -> Exception:
    """Take away from an error the frames of the driver that raised it.

    The password is among their variables, and pages that explain errors show those.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _explained(error: Exception, server: Server, database: str) -> ServerUnavailableError:
    text = str(error).strip()
    return ServerUnavailableError(
        f"Cannot connect to database {database!r} of the server at {server}: {text}",
        hint=_connection_hint(text),
    )


_ROLE_TROUBLE: Final = re.compile(r'role ".*" (does not exist|is not permitted to log in)')


def _connection_hint(text: str) -> str:
    # libpq has no error codes for a failed connection, so its words must do. Where the server
    # speaks another language, the last hint is shown.
    if "set role" in text:
        return "Check USER and OPTIONS['assume_role'] of the alias in DATABASES."
    if "password" in text or _ROLE_TROUBLE.search(text):
        return "Check USER and PASSWORD of the alias in DATABASES."
    if "too many" in text or "connection slots" in text:
        return "Close some clients, or raise the limit of connections that the message names."
    if "pg_hba.conf" in text or "permission denied" in text or "does not exist" in text:
        return (
            "Let the role connect to it, or name another database in PGSNAP['MAINTENANCE'], "
            "as {'dbname': '…'}."
        )
    return "Start the server, or correct HOST and PORT of the alias in DATABASES."


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what the server says, and nobody expected, into an error of ours."""
    try:
        yield
    except psycopg.Error as error:
        # What libpq says by itself goes over several lines.
        cause = error.diag.message_primary or " ".join(str(error).split()).rstrip(".")
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        raise ServerError(
            f"The server refused, or the connection was lost: {cause}{code}. Each live database "
            "is as it was, or as it shall be.",
            hint=error.diag.message_hint
            or "See the server's log, and what ./manage.py pgsnap list shows.",
        ) from error
