"""Maintenance sessions: connections to another database of the live database's server.

This is the only place that opens connections. A maintenance session is in autocommit, carries no
timeouts, whatever its role or database sets, and stops its statement when we are killed.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from .errors import MissingRightError, ServerUnavailableError

# What each session of ours tells others of itself begins with this.
APPLICATION_PREFIX: Final = "pgsnap "

Query = sql.SQL | sql.Composed
Parameters = Sequence[Any] | Mapping[str, Any]

_MAINTENANCE: Final = "postgres"
# A live database may itself be called postgres, as in Docker's image. A session on template1
# instead would make everybody's CREATE DATABASE fail.
_OWN_MAINTENANCE: Final = "pgsnap"

# Roles and databases can carry each of these. idle_session_timeout ends even a session that
# merely waits for its sibling. Which of them there are depends on the server's version.
_SETTINGS: Final = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    # Otherwise the checks in a message would not see what was committed since it began.
    "default_transaction_isolation": "read committed",
}
# On the maintenance database only what the server brings is to be found. On others Django's own
# view counts.
_CATALOG_ONLY: Final = {"search_path": "pg_catalog"}
_MAX_MILLISECONDS: Final = 2**31 - 1
# The server ends a statement soon after the process that sent it has died.
_STOP_WHEN_WE_DIE: Final = {"client_connection_check_interval": "500ms"}


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

    def session(self, purpose: str, *, lock_timeout_s: float = 0) -> Session:
        """Open a maintenance session.

        Args:
            purpose: What it is for, shown to others in ``pg_stat_activity``.
            lock_timeout_s: How long a statement may wait for a lock, in seconds; 0 for ever.

        Raises:
            ServerUnavailableError: The server cannot be reached or does not let us in.
        """
        settings = {**_CATALOG_ONLY, "lock_timeout": milliseconds(lock_timeout_s)}
        try:
            return Session.open(self, self.maintenance, purpose, settings)
        except ServerUnavailableError:
            if self.maintenance != _OWN_MAINTENANCE:
                raise
        # It may not be there yet. Only a live database called postgres brings us here, so there
        # is a postgres to make it from.
        with Session.open(self, _MAINTENANCE, purpose) as session:
            session.create_maintenance_database(_OWN_MAINTENANCE)
        return Session.open(self, _OWN_MAINTENANCE, purpose, settings)

    def session_on(self, database: str, purpose: str) -> Session:
        """Open a session on another database of the server, the live one for instance.

        Raises:
            ServerUnavailableError: The server cannot be reached or does not let us in.
        """
        return Session.open(self, database, purpose)


def milliseconds(seconds: float) -> str:
    """Return a time-out as the server takes it, where only 0 means for ever."""
    return str(round(min(max(seconds * 1000, 1), _MAX_MILLISECONDS)) if seconds else 0)


def maintenance_name(live_names: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """Return which database maintenance sessions go to, given the live databases' names."""
    if "dbname" in overrides:
        return str(overrides["dbname"])
    return _OWN_MAINTENANCE if _MAINTENANCE in live_names else _MAINTENANCE


class Session:
    """One connection, in autocommit, used by one thread at a time."""

    def __init__(self, connection: psycopg.Connection[TupleRow]) -> None:
        self._connection = connection

    @classmethod
    def open(
        cls,
        server: Server,
        database: str,
        purpose: str,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """Connect to a database of the server and put aside what would get in our way."""
        try:
            connection = psycopg.connect(
                **{
                    **server.parameters,
                    "dbname": database,
                    "application_name": _application_name(purpose),
                },
                autocommit=True,
                row_factory=tuple_row,
                # Behind a pooler, a prepared statement may meet a server that never saw it.
                prepare_threshold=None,
            )
        except (psycopg.Error, UnicodeError) as error:
            raise _explained(error, server, database) from _without_frames(error)
        session = cls(connection)
        try:
            session._prepare({**_SETTINGS, **settings}, server.role)
        except psycopg.Error as error:
            session.close()
            raise _explained(error, server, database) from error
        return session

    def _prepare(self, settings: Mapping[str, str], role: str) -> None:
        try:
            self.configure({**settings, **_STOP_WHEN_WE_DIE})
        except psycopg.errors.InvalidParameterValue:
            # Servers on Windows cannot tell whether a client lives (manual,
            # client_connection_check_interval).
            self.configure(settings)
        if role:
            self.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))

    def configure(self, values: Mapping[str, str]) -> None:
        """Set parameters for this session, those that the server knows."""
        one = (
            "CASE WHEN current_setting({0}, true) IS NOT NULL THEN set_config({0}, {1}, false) END"
        )
        self.rows(
            sql.SQL("SELECT {}").format(
                sql.SQL(", ").join(
                    sql.SQL(one).format(sql.Literal(name), sql.Literal(value))
                    for name, value in values.items()
                )
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of this session's backend."""
        return self._connection.info.backend_pid

    @property
    def server_version(self) -> int:
        """The server's version as a number: 150018 for 15.18."""
        return self._connection.info.server_version

    @property
    def server_name(self) -> str:
        """The server's version as it is written: ``15.18``."""
        major, minor = divmod(self.server_version, 10000)
        return f"{major}.{minor}"

    @property
    def address(self) -> str:
        """The server's IP address; empty when connected through a socket."""
        return self._connection.info.hostaddr

    @property
    def broken(self) -> bool:
        """Whether the connection was lost."""
        return self._connection.broken

    def rows(self, query: Query, parameters: Parameters | None = None) -> list[TupleRow]:
        """Run a query and return all its rows."""
        return self._connection.execute(query, parameters).fetchall()

    def value(self, query: Query, parameters: Parameters | None = None) -> Any:
        """Run a query and return the first column of its first row, None without rows."""
        row = self._connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]

    def execute(self, statement: Query) -> None:
        """Run statements that return nothing, as one message.

        Several statements in one message are one transaction: the server runs all or none, and
        needs nothing more from us to finish (manual, "Multiple Statements in a Simple Query").
        """
        self._connection.execute(statement)

    def fire(self, statement: Query) -> None:
        """Send one statement, and close without waiting for its end.

        The server finishes a statement whose client is gone, as long as it is the last one: it
        notices the loss when it sends a result.
        """
        self.configure({"client_connection_check_interval": "0"})
        pgconn = self._connection.pgconn
        pgconn.send_query(statement.as_bytes(self._connection))
        while pgconn.flush():
            pgconn.consume_input()
        self.close()

    def cancel(self) -> None:
        """Stop the statement that another thread is running on this session."""
        self._connection.cancel_safe(timeout=5.0)

    def close(self) -> None:
        """End the session, and with it its advisory locks."""
        self._connection.close()

    def create_maintenance_database(self, name: str) -> None:
        """Create a small database for maintenance sessions, unless somebody just did.

        Raises:
            MissingRightError: The role may not create databases.
        """
        try:
            self.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
            )
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return
        except psycopg.errors.InsufficientPrivilege as error:
            raise MissingRightError(
                f"The role may not create the database {name!r}, which it would work from.",
                hint=f"Let a superuser run: CREATE DATABASE {name} TEMPLATE template0;",
            ) from error
        self.execute(
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
