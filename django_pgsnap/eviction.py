"""Keeping databases free of sessions, with manners."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import psycopg
from psycopg import sql

from . import wording
from .errors import DatabaseBusyError
from .report import Reporter
from .session import Session
from .sessions import Backend, backends

_POLL_S: Final = 0.005
# What is over sooner than this is waited for with the lock in hand that keeps newcomers out.
_BRIEF_S: Final = 0.1
# How many of those that are waited for are named while they are.
_NAMED: Final = 3

# A client may have begun a transaction since we looked.
_TERMINATE: Final = sql.SQL(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(%(pid)s)"
    " WHERE %(force)s OR state = 'idle'"
)


class Patience:
    """Tells when those who queue for databases have waited long enough for those who are there.

    Who is there may itself wait for somebody who queues: a client that has a transaction in one
    database, and connects to another before it ends that.
    """

    def __init__(self) -> None:
        """Begin to wait."""
        self._empty_since = time.monotonic()

    def is_over(self, present: Collection[Backend]) -> bool:
        """Tell it, given who is there now."""
        if not present:
            self._empty_since = time.monotonic()
        return time.monotonic() - self._empty_since > _BRIEF_S


class Evictor:
    """Keeps databases free of sessions, with manners.

    Attributes:
        ended: Process ids of the sessions ended so far.
    """

    def __init__(
        self,
        session: Session,
        databases: Iterable[str],
        *,
        wait_s: float,
        force: bool,
        reporter: Reporter | None = None,
    ) -> None:
        """Take note; nothing is ended yet.

        Args:
            session: The maintenance session to do it from.
            databases: Names of the live databases.
            wait_s: How long to wait for those that work, in seconds.
            force: Whether to end those that work as well, at once.
            reporter: Who hears for whom it waits.
        """
        self._session = session
        self._databases = list(databases)
        self._deadline = time.monotonic() + wait_s
        self._wait_s = wait_s
        self._force = force
        self._reporter = reporter or Reporter()
        self._reported: list[str] = []
        self._first_seen: dict[int, float] = {}
        self.ended: set[int] = set()

    def empty(self) -> bool:
        """End who idles, wait for who works, and tell whether nobody is left.

        Clients that come back at once never leave a database quite empty. Where nobody has been at
        work for long it is enough to have tried: the lock that a copy or a swap waits for keeps
        newcomers out. As long as somebody has been, nobody is disturbed.

        Raises:
            DatabaseBusyError: Some still work, or may not be ended by us, when the time is over.
        """
        calm_since = time.monotonic()
        while present := backends(self._session, self._databases):
            working = [backend for backend in present if not self._may_end(backend)]
            if working and self.overdue:
                raise self.busy(working)
            lasting = [backend for backend in working if self._lasts(backend)]
            if lasting:
                self._report_wait(lasting)
                calm_since = time.monotonic()
            elif time.monotonic() - calm_since > _BRIEF_S:
                return False
            else:
                self._end_all(present)
            time.sleep(_POLL_S)
        return True

    def pass_once(self) -> list[Backend]:
        """End what may be ended now, and return what is still there.

        Raises:
            DatabaseBusyError: The time is over for those that stayed.
        """
        present = backends(self._session, self._databases)
        waiting_for = self._end_all(present)
        if waiting_for and self.overdue:
            raise self.busy(waiting_for)
        return present

    @property
    def remaining_s(self) -> float:
        """How much is left of the time to wait for others, in seconds."""
        return max(self._deadline - time.monotonic(), 0.0)

    @property
    def overdue(self) -> bool:
        """Whether the time to wait for others is over."""
        return not self.remaining_s

    def busy(self, left: Sequence[Backend]) -> DatabaseBusyError:
        """Return the error that names the sessions which stayed."""
        databases = ", ".join(repr(name) for name in self._databases)
        lines = "".join(f"\n  {backend}" for backend in left)
        return DatabaseBusyError(
            f"Other sessions are using {databases}, after a wait of {self._wait_s:g} s:{lines}",
            hint=self._hint(left),
        )

    def _report_wait(self, waited_for: Sequence[Backend]) -> None:
        """Tell for whom we wait, whenever that changes."""
        who = [backend.description for backend in waited_for]
        if who == self._reported:
            return
        self._reported = who
        more = [f"{len(who) - _NAMED} more"] if len(who) > _NAMED else []
        waiting = wording.waiting(self._wait_s)
        self._reporter.wait(f"{waiting} for {'; '.join([*who[:_NAMED], *more])}")

    def _end_all(self, present: Sequence[Backend]) -> list[Backend]:
        """End those that may be, and return the others."""
        return [
            backend for backend in present if not (self._may_end(backend) and self._end(backend))
        ]

    def _may_end(self, backend: Backend) -> bool:
        """Tell whether manners and rights allow to end a backend."""
        return (backend.is_idle or (self._force and backend.is_client)) and backend.endable

    def _end(self, backend: Backend) -> bool:
        """End a backend if that is right at this very moment, and tell whether it was ended."""
        if backend.pid not in self.ended:
            parameters = {"pid": backend.pid, "force": self._force}
            try:
                if not self._session.rows(_TERMINATE, parameters):
                    return False
            except psycopg.errors.InsufficientPrivilege:
                return False
            self.ended.add(backend.pid)
        return True

    def _lasts(self, backend: Backend) -> bool:
        """Tell whether a backend that may not be ended has been in the way for long."""
        now = time.monotonic()
        seen_for = now - self._first_seen.setdefault(backend.pid, now)
        # One that we cannot see or cannot end, may be between two short transactions of many.
        known = backend.seconds if backend.endable else None
        return (seen_for if known is None else known) > _BRIEF_S

    def _hint(self, left: Sequence[Backend]) -> str:
        if not all(backend.is_client for backend in left):
            return (
                "Stop the background processes named above first; they start again by themselves."
            )
        if not all(backend.endable for backend in left):
            me = self._session.value(sql.SQL("SELECT quote_ident(current_user)"))
            return (
                "Some belong to roles whose sessions yours may not end. Close them, or let a "
                f"superuser run: GRANT pg_signal_backend, pg_read_all_stats TO {me}; "
                "(a superuser's own sessions only a superuser can end)."
            )
        if any(backend.state is None for backend in left):
            me = self._session.value(sql.SQL("SELECT quote_ident(current_user)"))
            return (
                "To see what they do, let a superuser run: "
                f"GRANT pg_read_all_stats TO {me}; or end them all with --force."
            )
        return "Finish or close them, wait longer with --wait, or end them with --force."
