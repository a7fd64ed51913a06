"""Connections to a server: their statements, and what they put aside that would get in our way.

A session is in autocommit, carries no timeouts, whatever its role or database sets, finds nothing
but what the server brings unless a statement names the schema, and stops its statement when we are
killed.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import fields
from selectors import EVENT_READ, DefaultSelector
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import TupleRow

Query = sql.SQL | sql.Composed
Parameters = Sequence[Any] | Mapping[str, Any]
Result = TypeVar("Result")

# What each session of ours tells others of itself begins with this.
APPLICATION_PREFIX: Final = "pgsnap "
# Sessions for this purpose only read, and give way to every other operation.
DIFF_PURPOSE: Final = "diff"

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
    # From now on every function, operator and type is the server's own.
    "search_path": "pg_catalog",
}
_PREPARED_AFTER: Final = 5
# The server ends a statement soon after the process that sent it has died.
_STOP_WHEN_WE_DIE: Final = {"client_connection_check_interval": "500ms"}

_SET_KNOWN: Final = sql.SQL(
    "CASE WHEN pg_catalog.current_setting({0}, true) IS NOT NULL"
    " THEN pg_catalog.set_config({0}, {1}, false) END"
)
# The first statement of a session may meet functions that somebody else has put into the database
# under the names of the server's. So it qualifies all that it uses, and sets nothing where it did
# not meet the process that was promised: what is set in a pooler's session, others get.
_IDENTITY: Final = sql.SQL(
    "(SELECT system_identifier FROM pg_catalog.pg_control_system()),"
    " extract(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text,"
    " pg_catalog.pg_is_in_recovery()"
)
_FIRST_STATEMENT: Final = sql.SQL(
    "SELECT {identity}, pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid},"
    " current_user OPERATOR(pg_catalog.<>) session_user,"
    " coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), ''),"
    " pg_catalog.current_schemas(true)::pg_catalog.text[],"
    " CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid} THEN ROW({settings}) END"
)

# What DISCARD ALL is made of (manual), which can share no message with other statements.
_RENEW: Final = sql.SQL(
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; UNLISTEN *;"
    " SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES;"
    " {assume}; SELECT pg_catalog.pg_stat_force_next_flush()"
)

_IDENTIFY: Final = sql.SQL(
    "SELECT {}, (SELECT oid FROM pg_catalog.pg_database WHERE datname"
    " OPERATOR(pg_catalog.=) pg_catalog.current_database())"
).format(_IDENTITY)

# Whether we act as another role because of what is set for the database, and of that alone.
_DATABASE_SETS_ROLE: Final = sql.SQL(
    "SELECT pg_catalog.bool_or(s.setrole OPERATOR(pg_catalog.=) 0)"
    " AND NOT pg_catalog.bool_or(s.setrole OPERATOR(pg_catalog.<>) 0)"
    " FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d"
    " ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
    " JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) session_user,"
    " pg_catalog.unnest(s.setconfig) AS c (setting)"
    " WHERE s.setrole OPERATOR(pg_catalog.=) 0 AND s.setdatabase OPERATOR(pg_catalog.=) d.oid"
    " AND setting OPERATOR(pg_catalog.=) pg_catalog.concat('role=', current_user)"
    " OR s.setrole OPERATOR(pg_catalog.=) r.oid AND pg_catalog.starts_with(setting, 'role=')"
    " AND s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0, d.oid]::pg_catalog.oid[])"
)


class PoolerError(Exception):
    """A connection pooler is between us and the server."""


class ServerIdentity(NamedTuple):
    """Which server a session has met, whatever the address by which it came."""

    system: int  # identifier of the cluster; a standby's is that of its primary
    started: str  # when the server was started, in seconds since the epoch
    is_standby: bool


class Session(AbstractContextManager["Session"]):
    """One connection, in autocommit, used by one thread at a time."""

    identity: ServerIdentity
    server_address: str  # where the server was met by its own account; empty by a socket
    schemas: Sequence[str]  # the search path of the database, as the role has it
    _is_another_role: bool

    def __init__(self, connection: psycopg.Connection[TupleRow]) -> None:
        self._connection = connection
        self.pid = connection.info.backend_pid
        self.address = connection.info.hostaddr  # the server's; empty by a socket
        self.server_version = connection.info.server_version  # as a number: 150018 for 15.18

    def prepare(self, settings: Mapping[str, str], role: str) -> None:
        """Put aside what would get in our way, set parameters, and assume a role if it is named."""
        # Names, comments and settings of others are in whatever encoding their writer had.
        for name in ("text", "name", "varchar"):
            self._connection.adapters.register_loader(name, _AnyTextLoader)
        settings = {**_SETTINGS, **settings}
        try:
            self._send_first_statement({**settings, **_STOP_WHEN_WE_DIE})
        except psycopg.errors.InvalidParameterValue:
            # Servers on Windows cannot tell whether a client lives (manual,
            # client_connection_check_interval).
            self._send_first_statement(settings)
        if role:
            self.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        # Our role may be set up to act as another one; a database may not decide that.
        elif self._is_another_role and self.value(_DATABASE_SETS_ROLE):
            self.execute(sql.SQL("SET ROLE NONE"))

    def _send_first_statement(self, settings: Mapping[str, str]) -> None:
        assignments = _set_all(settings)
        first = _FIRST_STATEMENT.format(identity=_IDENTITY, settings=assignments, pid=self.pid)
        (found,) = self.rows(first)
        *identity, is_ours, self._is_another_role, self.server_address, self.schemas, _ = found
        if not is_ours:
            raise PoolerError
        self.identity = ServerIdentity(*identity)

    def identify(self) -> tuple[ServerIdentity, int]:
        """Return which server the session is on, and its database's oid; nothing is set."""
        ((*identity, oid),) = self.rows(_IDENTIFY)
        return ServerIdentity(*identity), oid

    def configure(self, values: Mapping[str, str]) -> None:
        """Set parameters for this session, those that the server knows."""
        self.rows(sql.SQL("SELECT {}").format(_set_all(values)))

    def prepare_repeated(self) -> None:
        """Have the server plan a statement once that comes again and again."""
        self._connection.prepare_threshold = _PREPARED_AFTER

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def server_release(self) -> str:
        """The server's version as it is written: ``15.18``."""
        major, minor = divmod(self.server_version, 10000)
        return f"{major}.{minor}"

    @property
    def broken(self) -> bool:
        return self._connection.broken

    def rows(self, query: Query, parameters: Parameters | None = None) -> list[TupleRow]:
        return self._connection.execute(query, parameters).fetchall()

    def column(self, query: Query, parameters: Parameters | None = None) -> list[Any]:
        """Run a query and return the first column of all its rows."""
        return [row[0] for row in self.rows(query, parameters)]

    def values(
        self, kind: type[Result], query: Query, parameters: Parameters | None = None
    ) -> list[Result]:
        """Run a query and return its rows as values of a dataclass, whose fields its columns are.

        Fields that the query has no columns for are those at the end, which have defaults.
        """
        names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
        rows = self.rows(query, parameters)
        return [kind(**dict(zip(names, row, strict=False))) for row in rows]

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
        self.send(statement)
        self.close()

    def send(self, statement: Query) -> None:
        """Send one statement without waiting for its end, which `finish` does."""
        pgconn = self._connection.pgconn
        pgconn.send_query(statement.as_bytes(self._connection))
        while pgconn.flush():
            pgconn.consume_input()

    def fileno(self) -> int:
        """Return the socket, for waiting until there is something to read."""
        return self._connection.fileno()

    @property
    def is_running(self) -> bool:
        """Whether a statement was sent whose end `finish` has not taken note of."""
        return self._connection.info.transaction_status == TransactionStatus.ACTIVE

    @property
    def busy(self) -> bool:
        """Whether what was sent is still under way."""
        pgconn = self._connection.pgconn
        pgconn.consume_input()
        return bool(pgconn.is_busy())

    def finish(self) -> None:
        """Wait for the end of what was sent, and raise what it failed with."""
        failed: psycopg.Error | None = None
        # get_result() alone would keep other threads waiting, and Ctrl-C.
        with suppress(psycopg.OperationalError):
            while self.busy:
                _wait_until_readable([self])
        while (result := self._connection.pgconn.get_result()) is not None:
            # What follows a first error only says that the connection is lost.
            if result.status == ExecStatus.FATAL_ERROR and failed is None:
                encoding = self._connection.info.encoding
                failed = psycopg.errors.error_from_result(result, encoding=encoding)
        if failed is not None:
            raise failed if failed.sqlstate else psycopg.OperationalError(str(failed))

    def transaction(self) -> AbstractContextManager[object]:
        """Return a context in which all statements happen together, or none does."""
        return self._connection.transaction()

    @contextmanager
    def in_autocommit(self) -> Iterator[None]:
        """Have every statement be a transaction of its own, whatever was set before."""
        before = self._connection.autocommit
        self._connection.autocommit = True
        try:
            yield
        finally:
            if not self._connection.closed:
                self._connection.autocommit = before

    def renew(self, role: str) -> None:
        """Make a session as it was when it began, and assume a role again, if there is one.

        The server's counts of what it did are complete then.
        """
        self._connection.rollback()
        assume = sql.SQL("SET ROLE {}").format(sql.Identifier(role)) if role else sql.SQL("")
        with self.in_autocommit():
            self.execute(_RENEW.format(assume=assume))

    def copy(self, query: Query) -> AbstractContextManager[psycopg.Copy]:
        """Return a context in which a ``COPY`` is read or written."""
        return self._connection.cursor().copy(query)

    def copy_texts(self, query: Query, columns: int) -> list[tuple[str | None, ...]]:
        """Return the rows of a ``COPY … TO STDOUT`` of so many columns, all as text."""
        with self.copy(query) as copy:
            copy.set_types(["text"] * columns)
            return list(copy.rows())

    def cancel(self) -> None:
        """Stop the statement that another thread is running on this session."""
        self._connection.cancel_safe(timeout=5.0)

    def close(self) -> None:
        """End the session, and with it its advisory locks."""
        self._connection.close()


class _AnyTextLoader(Loader):
    """Loads what others have written in whatever encoding; it matters only where it is ours."""

    def load(self, data: Buffer) -> str:
        text = bytes(data)
        try:
            return text.decode()
        except UnicodeDecodeError:
            return text.decode("latin1")


def _wait_until_readable(sessions: Iterable[Session], seconds: float | None = None) -> None:
    # select() would refuse the sockets of a process that has more than 1,024 files open.
    with DefaultSelector() as selector:
        for session in sessions:
            selector.register(session, EVENT_READ)
        selector.select(seconds)


def _set_all(values: Mapping[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(_SET_KNOWN.format(*each) for each in values.items())


# A CREATE DATABASE that is stopped again while it removes its files leaves them.
_CANCEL_AGAIN_S: Final = 2.0
# What each statement that has ended failed with, by its session.
_Ended = dict[Session, psycopg.Error | None]


def run_together(
    work: Sequence[tuple[Session, Query]], *, meanwhile: Callable[[], float | None], every_s: float
) -> list[BaseException | None]:
    """Run one statement on each session, all at the same time.

    When one fails the others are cancelled, and so they are when ``meanwhile`` raises, or when
    the user presses Ctrl-C. No statement is under way any more when this returns or raises.

    While they run, ``meanwhile`` is called again and again, which must use other sessions: each
    time after so many seconds, or what it has returned. Returned is what each statement raised,
    None for those that succeeded.
    """
    sessions = [session for session, _ in work]
    # Ctrl-C may come between any two steps. So what is under way is not noted here: libpq knows.
    ended: _Ended = {}
    cancel_again_at: dict[Session, float] = {}
    try:
        _send(work, ended)
        _wait(sessions, ended, every_s)
        while len(ended) < len(work) and not any(ended.values()):
            _wait(sessions, ended, meanwhile() or every_s)
        _cancel(sessions, ended, cancel_again_at)
    except BaseException:
        # Ctrl-C may come while the rest is cancelled, too.
        _cancel(sessions, ended, cancel_again_at)
        raise
    not_sent = psycopg.errors.QueryCanceled("another one failed before it was sent")
    return [ended.get(session, not_sent) for session in sessions]


def _send(work: Sequence[tuple[Session, Query]], ended: _Ended) -> None:
    for session, statement in work:
        try:
            session.send(statement)
        except psycopg.Error as error:
            ended[session] = error
            return


def _cancel(
    sessions: Sequence[Session], ended: _Ended, cancel_again_at: dict[Session, float]
) -> None:
    # A request to cancel that overtakes its statement is lost, so it is repeated.
    while running := [session for session in sessions if session.is_running]:
        for session in running:
            # The end of one statement is no reason to ask for that of another again.
            if cancel_again_at.get(session, 0.0) <= time.monotonic():
                with suppress(psycopg.Error):
                    session.cancel()
                cancel_again_at[session] = time.monotonic() + _CANCEL_AGAIN_S
        _wait(sessions, ended, _CANCEL_AGAIN_S)


def _wait(sessions: Sequence[Session], ended: _Ended, seconds: float) -> None:
    """Wait until one of the statements under way has ended, so many seconds at most."""
    _wait_until_readable([session for session in sessions if session.is_running], seconds)
    for session in sessions:
        if session not in ended and (session.is_running or session.broken):
            try:
                if not session.busy:
                    session.finish()
                    ended[session] = None
            except psycopg.Error as error:
                ended[session] = error


def start_in_thread(work: Callable[[], Result]) -> Future[Result]:
    """Begin some work in a thread that keeps nobody from ending the process."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
