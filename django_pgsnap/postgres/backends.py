"""The backends on live databases, and how idle ones are ended and busy ones waited for."""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from ..errors import DatabaseBusyError
from ..messages import Message, describe_wait, join_messages, message
from ..reporting import Reporter
from .server import Server
from .session import APPLICATION_PREFIX, DIFF_PURPOSE, Session

_POLL_S: Final = 0.001
BUSY_HINT: Final = message(
    "Finish or close them, wait longer with --wait, or end them with --force."
)
# How long an ended session may take to clear up and leave.
_LEAVING_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A server process on a live database."""

    pid: int
    database: str
    user: str  # its role; empty for a background process
    application: str
    client: str  # the client's address; empty for a socket
    kind: str  # ``client backend``, ``logical replication worker``, …
    # ``idle``, ``active``, ``idle in transaction``, …; None where we may not see it.
    state: str | None
    seconds: float | None  # how long its last statement or transaction has run; None where unknown
    endable: bool

    @property
    def is_client(self) -> bool:
        """Whether a client is behind it, rather than the server itself."""
        return self.kind == "client backend"

    @property
    def is_idle(self) -> bool:
        """Whether it is a client's and has nothing to lose.

        An operation of ours may work from a database that is another project's live one. Its
        sessions idle between two statements, and are gone when it is over.
        """
        ours = self.application.startswith(APPLICATION_PREFIX)
        return self.is_client and self.state == "idle" and not ours

    @property
    def gives_way(self) -> bool:
        """Whether it is a diff of ours, which loses nothing when it is ended at any time."""
        return self.is_client and self.application.startswith(
            f"{APPLICATION_PREFIX}{DIFF_PURPOSE} "
        )

    @property
    def description(self) -> Message:
        """Who it is and what it does, without how long, which changes while one reads."""
        if not self.is_client:
            return message("pid {pid}: {kind}", pid=self.pid, kind=self.kind)
        return message(
            "pid {pid}: role {role!r}{application}{client}, {state}",
            pid=self.pid,
            role=self.user,
            application=f" ({self.application})" if self.application else "",
            client=message(" from {address}", address=self.client) if self.client else "",
            state=self.state or message("in a state we may not see"),
        )

    def __str__(self) -> Message:
        """Return who it is, what it does, and for how long."""
        if not self.is_client or self.seconds is None:
            return self.description
        return message(
            "{session} for {seconds:.0f} s", session=self.description, seconds=self.seconds
        )


# The server cancels autovacuum by itself where it is in the way, and parallel workers end with
# their leader. Others may end a session as pg_terminate_backend allows (manual, "Server
# Signaling Functions"). This is asked twice in each restore, and the function takes a new session
# half the time that the view pg_stat_activity takes it.
_BACKENDS: Final = sql.SQL(
    "SELECT a.pid, d.datname, coalesce(r.rolname, ''), coalesce(a.application_name, ''),"
    " coalesce(host(a.client_addr), ''), coalesce(a.backend_type, 'client backend'), a.state,"
    " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start))::float,"
    " current_setting('is_superuser')::bool OR (NOT coalesce(r.rolsuper, true)"
    "   AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))"
    " FROM pg_stat_get_activity(NULL) a JOIN pg_database d ON d.oid = a.datid"
    " LEFT JOIN pg_roles r ON r.oid = a.usesysid"
    " WHERE d.datname = ANY(%s) AND a.leader_pid IS NULL"
    " AND a.backend_type IS DISTINCT FROM 'autovacuum worker'"
    " AND a.pid <> pg_backend_pid() ORDER BY a.pid"
)


def read_backends(session: Session, databases: Iterable[str]) -> list[Backend]:
    """Return the processes on these databases that are in the way of a copy or a swap."""
    return session.values(Backend, _BACKENDS, [list(databases)])


@contextmanager
def open_temporary_session(
    server: Server, watcher: Session, database: str, purpose: str
) -> Iterator[Session]:
    """Yield a session on a live database, and wait afterwards until its backend is gone.

    A backend is there for a moment after its client has closed, and is counted until then.
    """
    with server.session_on(database, purpose) as session:
        yield session
    wait_until_backends_gone(watcher, [database], {session.pid})


def wait_until_backends_gone(
    watcher: Session, databases: Sequence[str], pids: Collection[int] | None = None
) -> None:
    """Wait until backends on these databases are gone whose clients have closed; None for all."""
    deadline = time.monotonic() + _LEAVING_S
    while any(pids is None or each.pid in pids for each in read_backends(watcher, databases)):
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_S)


def end_diffs(session: Session, databases: Sequence[str]) -> None:
    """End the sessions of diffs that read these databases, which is in the way of others."""
    readers = {each.pid for each in read_backends(session, databases) if each.gives_way}
    for pid in readers:
        # Another role's diff we may not be allowed to end; then it takes the time it takes.
        with suppress(psycopg.errors.InsufficientPrivilege):
            session.rows(sql.SQL("SELECT pg_terminate_backend(%s)"), [pid])
    if readers:
        wait_until_backends_gone(session, databases, readers)


_TERMINATE_POLL_S: Final = 0.005
# What is over sooner than this is waited for with the lock in hand that keeps newcomers out.
_BRIEF_S: Final = 0.1
# How many of those that are waited for are named while they are.
_NAMED: Final = 3

# A client that has been idle for less may be about to send its next statement: in autocommit,
# Django's clients are idle between any two statements of a request.
_BETWEEN_STATEMENTS_S: Final = 0.02

# A client may have begun a transaction since we looked.
_TERMINATE: Final = sql.SQL(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(%(pid)s)"
    " WHERE %(force)s OR (state = 'idle'"
    " AND state_change <= clock_timestamp() - make_interval(secs => %(idle_s)s))"
)


@dataclass
class BlockedTimer:
    """Decides when to release waiting connections.

    A connected client may itself be waiting for one of them: it has a transaction in one database,
    and connects to another before it ends that.
    """

    empty_since: float = field(default_factory=time.monotonic)

    def is_over(self, present: Collection[Backend]) -> bool:
        """Tell whether backends have been present for too long, given those present now."""
        if not present:
            self.empty_since = time.monotonic()
        return time.monotonic() - self.empty_since > _BRIEF_S


@dataclass(eq=False)
class BackendTerminator:
    """Ends idle backends on databases, and waits for busy ones."""

    session: Session
    databases: Collection[str]
    _: KW_ONLY
    wait_s: float
    force: bool  # whether busy backends are ended at once
    reporter: Reporter = field(default_factory=Reporter)
    ended: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.wait_s
        self._reported: list[Message] = []
        self._first_seen: dict[int, float] = {}

    def empty_databases(self) -> bool:
        """End idle backends, wait for busy ones, and tell whether none is left.

        One that seems to be between two statements is left alone, as long as that is brief.
        Clients that reconnect at once never leave a database quite empty. Where no backend has been
        busy for long it is enough to have tried: the lock that a copy or a swap waits for keeps
        new connections out. As long as one is busy for longer, none is ended.

        Raises:
            DatabaseBusyError: Some still work, or may not be ended by us, when the time is over.
        """
        calm_since = math.inf
        while present := read_backends(self.session, self.databases):
            now = time.monotonic()
            working = [backend for backend in present if not self._may_end(backend)]
            if working and self.is_overdue:
                raise self.busy_error(working)
            lasting = [backend for backend in working if self._lasts(backend, now)]
            if lasting:
                self._report_wait(lasting)
                self.reporter.still_waiting()
                calm_since = now
            elif now - calm_since > _BRIEF_S:
                return False
            else:
                calm_since = min(calm_since, now)
                # Without time to wait, the next look might find it at work.
                self._end_all(present, idle_s=0.0 if self.is_overdue else _BETWEEN_STATEMENTS_S)
            time.sleep(_TERMINATE_POLL_S)
        return True

    def end_idle_backends(self) -> list[Backend]:
        """End what may be ended now, and return what was there, and may not have left yet."""
        present = read_backends(self.session, self.databases)
        waiting_for = self._end_all(present)
        if waiting_for and self.is_overdue:
            raise self.busy_error(waiting_for)
        return present

    @property
    def remaining_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    @property
    def is_overdue(self) -> bool:
        return not self.remaining_s

    def busy_error(self, left: Sequence[Backend]) -> DatabaseBusyError:
        databases = ", ".join(repr(name) for name in self.databases)
        lines = join_messages("\n  ", ["", *left])
        return DatabaseBusyError(
            "Other sessions are using {databases}, after a wait of {wait_s:g} s:{lines}",
            hint=self._hint(left),
            databases=databases,
            wait_s=self.wait_s,
            lines=lines,
        )

    def _report_wait(self, waited_for: Sequence[Backend]) -> None:
        who = [backend.description for backend in waited_for]
        if who == self._reported:
            return
        self._reported = who
        named = who[:_NAMED]
        if more := len(who[_NAMED:]):
            named.append(message("{count} more", count=more))
        self.reporter.wait(describe_wait(self.wait_s, join_messages("; ", named)))

    def _end_all(self, present: Sequence[Backend], *, idle_s: float = 0.0) -> list[Backend]:
        """End those idle for so many seconds, and those that are forced; return all others."""
        return [each for each in present if not (self._may_end(each) and self._end(each, idle_s))]

    def _may_end(self, backend: Backend) -> bool:
        is_forced = self.force and backend.is_client
        return (backend.is_idle or backend.gives_way or is_forced) and backend.endable

    def _end(self, backend: Backend, idle_s: float) -> bool:
        if backend.pid in self.ended:
            return True
        force = self.force or backend.gives_way
        parameters = {"pid": backend.pid, "force": force, "idle_s": idle_s}
        with suppress(psycopg.errors.InsufficientPrivilege):
            if self.session.rows(_TERMINATE, parameters):
                self.ended.add(backend.pid)
        return backend.pid in self.ended

    def _lasts(self, backend: Backend, now: float) -> bool:
        seen_for = now - self._first_seen.setdefault(backend.pid, now)
        # One that we cannot see or cannot end may be between two of many short transactions.
        known = backend.seconds if backend.endable else None
        return (seen_for if known is None else known) > _BRIEF_S

    def _hint(self, left: Sequence[Backend]) -> Message:
        if not all(backend.is_client for backend in left):
            return message(
                "Stop the background processes named above first; they start again by themselves."
            )
        me = self.session.value(sql.SQL("SELECT quote_ident(current_user)"))
        if not all(backend.endable for backend in left):
            return message(
                "Some belong to roles whose sessions yours may not end. Close them, or let a "
                "superuser run: GRANT pg_signal_backend, pg_read_all_stats TO {me}; "
                "(a superuser's own sessions only a superuser can end).",
                me=me,
            )
        if any(backend.state is None for backend in left):
            return message(
                "To see what they do, let a superuser run: GRANT pg_read_all_stats TO {me}; "
                "or end them all with --force.",
                me=me,
            )
        return BUSY_HINT
