"""The two sides of a comparison: sessions on databases, each as of one moment.

Sums of copies are kept in files of the user: nobody writes to a copy, so they stay true. They count
only as long as nobody can have written. Opening and shutting a database writes its row in
``pg_database`` anew, which the row's ``xmin`` tells; and while we had it open, the server counted
no session but ours.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql

from ..clones.transitions import close_database
from ..errors import ObstacleError
from ..postgres.advisory_locks import release_lock, wait_for_lock
from ..postgres.backends import read_backends
from ..postgres.inspection import DatabaseCounters, read_counters
from ..postgres.server import Server
from ..postgres.session import DIFF_PURPOSE, Session, start_in_thread

Result = TypeVar("Result")

# Values are compared as text, so both sides must write them alike. Nothing but what the server
# brings is found by an unqualified name. Reading ahead anew for each of many small ranges takes
# PostgreSQL 18 longer than reading them.
_SETTINGS: Final = {
    "search_path": "pg_catalog",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "lc_monetary": "C",
    "row_security": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "effective_io_concurrency": "0",
}
_BEGIN: Final = sql.SQL("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
# age() counts back from a transaction id that stays the same in a transaction.
_TRANSACTION_IDS: Final = sql.SQL(
    "SELECT age('3'::xid)::bigint + 3, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One database, as of one moment."""

    session: Session
    schema: str  # the schema whose tables are named without it
    next_xid: int  # the transaction id that the server gives next, modulo 2**32
    has_wrapped: bool  # whether transaction ids have begun again from the start
    key: int  # what hashes of row versions begin with, the same number on both sides
    # What is known, and will be, of the tables of a copy; None of an open database.
    sums: dict[str, list[int]] | None = None
    # Gives another session as of the same moment; None on a copy.
    twin: "Callable[[], Side] | None" = None

    @classmethod
    def begin(cls, session: Session, key: int, *, like: Session | None = None) -> "Side":
        """Have a session see one moment from now on, or that which another one sees."""
        session.configure(_SETTINGS)
        session.execute(_BEGIN)
        if like:
            moment = sql.Literal(like.value(sql.SQL("SELECT pg_export_snapshot()")))
            session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(moment))
        ((next_xid, ever_given),) = session.rows(_TRANSACTION_IDS)
        return cls(
            session=session,
            schema=next((s for s in session.schemas if not s.startswith("pg_")), "public"),
            next_xid=next_xid % 2**32,
            has_wrapped=ever_given >= 2**32,
            key=key,
        )


def ask_both(
    work: Callable[..., Result], one: tuple[Any, ...], other: tuple[Any, ...], *same: Any
) -> tuple[Result, Result]:
    """Do some work on two sides at the same time, and return what each gave.

    The work is called with the side and what it is about there, then what is the same on both.
    """
    future = start_in_thread(lambda: work(*one, *same))
    try:
        mine = work(*other, *same)
    except BaseException:
        with ExitStack() as stack:
            stack.callback(future.exception)
            one[0].session.cancel()
        raise
    return future.result(), mine


# A copy's row, and what the server has counted of it.
_CopyState = tuple[tuple[Any, ...], DatabaseCounters | None]

_KEPT_S: Final = 30 * 24 * 60 * 60.0
_ROW: Final = sql.SQL("SELECT oid::bigint, xmin::text FROM pg_database WHERE datname = %s")
_FLUSH: Final = sql.SQL("SELECT pg_stat_force_next_flush()")


@dataclass
class Remembered:
    """What is known of a copy."""

    path: Path | None = None
    state: object = None
    # What hashes of row versions begin with.
    key: int = field(default_factory=lambda: secrets.randbits(62))
    # Sums of the ranges of tables, by whatever tells table and ranges.
    sums: dict[str, list[int]] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file, and remove those that were not written for long."""
        if self.path is None or not self.sums:
            return
        facts = {"state": self.state, "key": self.key, "sums": self.sums}
        # Without a place for files all is read again next time.
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self.path.with_suffix(f".{os.getpid()}")
            new.touch(mode=0o600)
            new.write_text(json.dumps(facts))
            new.replace(self.path)
            for each in self.path.parent.glob("sums-*"):
                if each.stat().st_mtime < time.time() - _KEPT_S:
                    each.unlink()


@contextmanager
def open_copy(server: Server, database: str) -> Iterator[tuple[Session, Remembered]]:
    """Open a copy for one session of ours, and shut it again before anybody else can come.

    1. The copy is opened, for one more session of an ordinary role. The lock of its name says so.
    2. The session connects, with event triggers off where our role may say so.
    3. The copy is shut; the session stays. If it stops before this, ``doctor --fix`` shuts it, or
       the next operation on the live database.

    With the session comes what is known of the copy.

    Raises:
        ObstacleError: Somebody else uses the copy, to clone it for instance, or came in, too.
    """
    with server.session(DIFF_PURPOSE) as maintenance:
        is_locked = wait_for_lock(maintenance, database)
        before = _read_state(maintenance, database)
        try:
            _open(maintenance, database)
            try:
                session = server.session_on(database, DIFF_PURPOSE)
            finally:
                row = _shut(maintenance, database)
                if is_locked:
                    release_lock(maintenance, database)
        except psycopg.errors.InvalidCatalogName as error:
            raise ObstacleError(
                "The copy {database!r} has just been dropped.",
                hint="See ./manage.py pgsnap list for what there is.",
                database=database,
            ) from error
        with session:
            _check_alone(maintenance, database, session)
            session.rows(_FLUSH)
            _, counters = _read_state(maintenance, database)
            known = _recall(session.identity.system, before, (row, counters))
            yield session, known
        known.save()


def _read_state(maintenance: Session, name: str) -> _CopyState:
    rows = maintenance.rows(_ROW, [name])
    return tuple(*rows), read_counters(maintenance, [name]).get(name)


def _recall(system: int, before: _CopyState, now: _CopyState) -> Remembered:
    """Return what is known of a copy, given its state before and since our session is on it.

    Its row is as it was in the transaction that shut it again.
    """
    (old_row, old), (row, new) = before, now
    if old is None or new is None or (new.epoch, new.sessions) != (old.epoch, old.sessions + 1):
        return Remembered()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "django-pgsnap"
    path, state = cache / f"sums-{system}-{row[0]}", [*row, new.epoch]
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(path.read_text())
        if known["state"] == [*old_row, new.epoch]:
            return Remembered(path=path, state=state, key=known["key"], sums=known["sums"])
    return Remembered(path=path, state=state)


def _check_alone(maintenance: Session, database: str, ours: Session) -> None:
    """Name who came into a copy while it was open, and end whom we may."""
    # Another diff of ours may be there. What a session calls itself proves nothing.
    me = maintenance.value(sql.SQL("SELECT session_user::text"))
    present = read_backends(maintenance, [database])
    strangers = [each for each in present if each.pid != ours.pid and each.user != me]
    if strangers:
        with suppress(psycopg.errors.InsufficientPrivilege):
            for each in strangers:
                maintenance.rows(sql.SQL("SELECT pg_terminate_backend(%s)"), [each.pid])
        raise ObstacleError(
            "Others came into the copy {database!r} while it was open for us: {names}.",
            hint="Ask them whether they wrote there, which would be part of the snapshot from now "
            "on, then try again.",
            database=database,
            names="; ".join(map(str, strangers)),
        )


def _open(maintenance: Session, database: str) -> None:
    """Let one more session come in than there are, of other diffs."""
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT {}")
    limit = len(read_backends(maintenance, [database])) + 1
    maintenance.execute(statement.format(sql.Identifier(database), limit))


def _shut(maintenance: Session, database: str) -> tuple[Any, ...]:
    """Shut a copy, and return how its row reads from now on, unless somebody opens it again."""
    with maintenance.transaction():
        maintenance.execute(close_database(database))
        return tuple(*maintenance.rows(_ROW, [database]))
