"""Resets: a test database is put back to the baseline that the next test starts from.

What was written is put back row by row where that is safe for sure. Whatever is in doubt, the
test database is replaced by a clone of the baseline, of which the next one is made meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg import sql

from .. import arrivals, locks, names, reconnect, stages, written
from ..conf import config
from ..server import Server, Session
from ..sessions import Evictor, backends, visit
from . import baseline, clones, dirty, live
from .baseline import Baseline
from .dirty import Changes, Look
from .live import OwnDatabase
from .ready import Ready

_LOOK_S: Final = 0.001

# How long sessions that were just closed may take to leave.
_LEAVING_S: Final = 0.2

# Emptying tables that a test filled with more than this takes longer than a new clone.
_MOST_WRITTEN_BYTES: Final = 8 * 1024**2


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of a test database, as long as nobody has been there since.

    Attributes:
        at: The baseline that it was put back to, None if it was not.
        found: How it was found then.
        visits: What the server counts of it; it tells whether somebody has been there.
    """

    at: Baseline
    found: Look
    visits: tuple[Any, ...]


class Keeper:
    """Keeps one test database at the baselines that tests start from.

    Attributes:
        alias: An alias that leads to it.
        name: Its name.
        base: The baseline of the whole run.
        floor: The baseline that classes start from, by default.
        current: The baseline that tests start from now.
    """

    def __init__(self, server: Server, own: OwnDatabase) -> None:
        """Take the database as it is now for the baseline of the whole run."""
        self._server = server
        self.alias = own.alias
        self.name = own.name
        self._ready = Ready(server)
        self._origins: list[str] = []
        self._layers: dict[str, Baseline] = {}
        self._leave()
        self._place = self._session.rows(_PLACE, [self.name])[0]
        is_template = written.count(self._session, self.name) == own.written
        self.base = self._study(own.template if own.template and is_template else self._keep())
        self.floor = self.current = self.base

    @property
    def _session(self) -> Session:
        return live.session(self._server)

    def start(self, wanted: Baseline | None = None) -> None:
        """Have tests start from a baseline from now on."""
        self.current = wanted or self.floor
        self.reset()

    def layer(self, name: str, make: Callable[[], object]) -> Baseline:
        """Return the baseline of this name, which is made on top of that of the whole run."""
        if name not in self._layers:
            self.start(self.base)
            make()
            self._layers[name] = self.adopt()
        return self._layers[name]

    def reset(self) -> None:
        """Put the test database back to the baseline that tests start from now.

        Raises:
            DatabaseBusyError: Sessions that may not be ended are at work on it.
            psycopg.Error: The server refused something.
        """
        self._leave()
        wanted = self.current
        if self._known.at is wanted and self._visits() == self._known.visits:
            return
        if not self._put_back(wanted):
            self._replace(wanted)

    def adopt(self) -> Baseline:
        """Have tests start from the state that the test database is in now."""
        self._leave()
        if self._visits() != self._known.visits:
            self.current = self._put_aside()
        return self.current

    def start_from(self, origin: str) -> Baseline:
        """Have tests start from a shut database of the server."""
        self._swap(self._ready.take(origin))
        self.current = self._study(origin)
        return self.current

    def end(self) -> None:
        """Give up what was kept for this test database, but not itself."""
        for origin in self._origins:
            self._ready.discard(origin)
        self._ready.end()

    def _leave(self) -> None:
        """Close this thread's connections, and wait until nobody is on the test database."""
        aliases = reconnect.aliases_of([self.alias])
        reconnect.let_go(aliases)
        reconnect.close_pools(aliases)
        deadline = time.monotonic() + _LEAVING_S
        while backends(self._session, [self.name]):
            if time.monotonic() > deadline:
                self._evict()
            time.sleep(_LOOK_S)

    def _evict(self) -> None:
        """End who idles on the test database, and wait for who works."""
        evictor = Evictor(self._session, [self.name], wait_s=config().wait_s, force=False)
        while present := evictor.pass_once():
            if evictor.overdue:
                raise evictor.busy(present)
            time.sleep(_LOOK_S)

    def _visits(self) -> tuple[Any, ...]:
        found = self._session.rows(_VISITS, [self.name])
        return found[0] if found else ()

    @contextmanager
    def _inside(self) -> Iterator[Session]:
        with visit(self._server, self._session, self.name, "resetting") as inside:
            for (gid,) in inside.rows(_PREPARED):
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
            yield inside

    def _study(self, origin: str) -> Baseline:
        with self._inside() as inside:
            found = dirty.look(inside)
            studied = baseline.study(inside, origin, found)
        self._note(studied, found)
        return studied

    def _note(self, at: Baseline, found: Look) -> None:
        self._known = _Known(at=at, found=found, visits=self._visits())

    def _put_back(self, wanted: Baseline) -> bool:
        """Put back what was written, row by row, and tell whether that was possible."""
        known = self._known
        if known.at.origin != wanted.origin or self._visits()[:_SAME] != known.visits[:_SAME]:
            return False
        with self._inside() as inside:
            found = dirty.look(inside)
            changes = dirty.changes(known.found, found)
            tables = changes.tables | known.at.differing(wanted)
            if not _is_small(changes, found, tables, wanted):
                return False
            moved = [oid for oid, at in wanted.positions.items() if found.positions[oid] != at]
            baseline.put_back(inside, wanted, found.tables, tables, moved)
            found = dirty.look_again(inside, replace(found, positions=wanted.positions), tables)
        self._note(wanted, found)
        return True

    def _replace(self, wanted: Baseline) -> None:
        """Replace the test database by a clone of the baseline."""
        self._swap(self._ready.take(wanted.origin))
        self._ready.order(wanted.origin)
        found = wanted.clone
        moved = [oid for oid, at in wanted.positions.items() if found.positions[oid] != at]
        if wanted.ahead or moved:
            with self._inside() as inside:
                baseline.put_back(inside, wanted, found.tables, wanted.ahead, moved)
                found = dirty.look_again(
                    inside, replace(found, positions=wanted.positions), wanted.ahead
                )
        self._note(wanted, found)

    def _swap(self, incoming: str) -> None:
        """Give the test database's name to a shut clone, whose lock we hold."""
        outgoing = names.doomed_name(names.new_identity())
        _, limit, comment = self._place
        statements = []
        if self._session.rows(_PLACE, [self.name]):
            locks.try_acquire(self._session, outgoing)
            statements.append(stages.leave_live(self.name, outgoing, None))
        statements.append(
            stages.become_live(
                incoming,
                self.name,
                connection_limit=limit,
                is_template=False,
                user_comment=comment,
            )
        )
        self._session.execute(stages.together(statements))
        locks.release(self._session, incoming)
        for alias in reconnect.aliases_of([self.alias]):
            arrivals.renew(alias, self.name)
        if len(statements) > 1:
            self._ready.discard(outgoing)

    def _put_aside(self) -> Baseline:
        """Return the state that the test database is in now as a baseline."""
        known = self._known
        with self._inside() as inside:
            found = dirty.look(inside)
            changes = dirty.changes(known.found, found)
            new = baseline.above(inside, known.at, found, changes)
        if new is not None:
            self._note(new, found)
            return new
        return self._study(self._keep())

    def _keep(self) -> str:
        """Return the name of a shut clone of the test database, which is kept to the end."""
        origin = clones.shut_clone(self._session, self.name)
        self._origins.append(origin)
        return origin


def _is_small(changes: Changes, found: Look, tables: Iterable[int], wanted: Baseline) -> bool:
    """Tell whether what was written is safely put back row by row, and soon."""
    if changes.catalogs or not wanted.bound.isdisjoint(tables):
        return False
    return sum(found.tables[oid].size_bytes for oid in tables) <= _MOST_WRITTEN_BYTES


# As long as the first three stand, the server has not lost count.
_SAME: Final = 3
_VISITS: Final = sql.SQL(
    "SELECT d.oid, pg_stat_get_db_stat_reset_time(d.oid),"
    " CASE WHEN current_setting('track_counts')::bool AND NOT EXISTS ("
    "   SELECT FROM pg_db_role_setting, unnest(setconfig) c"
    "   WHERE starts_with(c, 'track_counts='))"
    " THEN (SELECT stats_reset FROM pg_stat_wal)::text ELSE gen_random_uuid()::text END,"
    " pg_stat_get_db_sessions(d.oid), pg_stat_get_db_tuples_inserted(d.oid),"
    " pg_stat_get_db_tuples_updated(d.oid), pg_stat_get_db_tuples_deleted(d.oid)"
    " FROM pg_database d WHERE d.datname = %s"
)
_PLACE: Final = sql.SQL(
    "SELECT oid, datconnlimit, shobj_description(oid, 'pg_database')"
    " FROM pg_database WHERE datname = %s"
)
_PREPARED: Final = sql.SQL("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
