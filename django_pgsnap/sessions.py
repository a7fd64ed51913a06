"""The sessions on a live database: who they are, and what they do."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from .server import Server
from .session import APPLICATION_PREFIX, Session

_POLL_S: Final = 0.001
# How long an ended session may take to clear up and leave.
_LEAVING_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A server process on a live database.

    Attributes:
        pid: Process id.
        database: The live database's name.
        user: Its role; empty for a background process.
        application: What the client calls itself.
        client: The client's address; empty for a socket.
        kind: ``client backend``, ``logical replication worker``, ….
        state: ``idle``, ``active``, ``idle in transaction``, …; None where we may not see it.
        seconds: Since when its last statement or transaction runs; None where unknown.
        endable: Whether our role may end it.
    """

    pid: int
    database: str
    user: str
    application: str
    client: str
    kind: str
    state: str | None
    seconds: float | None
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
    def description(self) -> str:
        """Who it is and what it does, without how long, which changes while one reads."""
        if not self.is_client:
            return f"pid {self.pid}: {self.kind}"
        client = f" from {self.client}" if self.client else ""
        application = f" ({self.application})" if self.application else ""
        state = self.state or "in a state we may not see"
        return f"pid {self.pid}: role {self.user!r}{application}{client}, {state}"

    def __str__(self) -> str:
        known = self.is_client and self.seconds is not None
        return f"{self.description} for {self.seconds:.0f} s" if known else self.description


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


def backends(session: Session, databases: Iterable[str]) -> list[Backend]:
    """Return the processes on these databases that are in the way of a copy or a swap."""
    return [
        Backend(
            pid=pid,
            database=database,
            user=user,
            application=application,
            client=client,
            kind=kind,
            state=state,
            seconds=seconds,
            endable=endable,
        )
        for pid, database, user, application, client, kind, state, seconds, endable in session.rows(
            _BACKENDS, [list(databases)]
        )
    ]


@contextmanager
def visit(server: Server, watcher: Session, database: str, purpose: str) -> Iterator[Session]:
    """Look into a live database, and leave no trace that would have to be ended.

    A backend is there for a moment after its client has closed, and the server counts it.

    Raises:
        ServerUnavailableError: The database does not let us in.
    """
    with server.session_on(database, purpose) as session:
        pid = session.pid
        yield session
    wait_until_gone(watcher, [database], {pid})


def wait_until_gone(
    watcher: Session, databases: Sequence[str], pids: Collection[int] | None = None
) -> None:
    """Wait until backends whose clients have closed are gone, or for as long as that may take.

    Args:
        watcher: A maintenance session.
        databases: Names of the databases that they are on.
        pids: Their process ids; None for whoever is there.
    """
    deadline = time.monotonic() + _LEAVING_S
    while any(pids is None or each.pid in pids for each in backends(watcher, databases)):
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_S)
