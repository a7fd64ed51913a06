"""Resets: a test database is put back to the baseline that the next test starts from.

What was written is put back row by row where that is safe for sure. Whatever is in doubt, the
test database is replaced by a clone of the baseline, of which the next one is made meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from .. import arrivals, reconnect, written
from ..server import Server
from ..session import Session
from . import baseline, clones, dirty, live, visits
from .baseline import Baseline
from .dirty import Look
from .guests import Guests
from .live import OwnDatabase
from .place import Place
from .ready import Ready
from .visits import Visits

# Emptying tables that a test filled with more than this takes longer than a new clone.
_MOST_WRITTEN_BYTES: Final = 8 * 1024**2


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of a test database, as long as nobody has been there since.

    Attributes:
        at: The baseline that it was put back to, None if it was not.
        found: How it was found then.
        visits: What the server counts of it; it tells whether somebody has been there.
        handed_on: Whether Django still has the session that found it, by which tests may move
            sequences: that is no writing, nor a visit of its own.
    """

    at: Baseline
    found: Look
    visits: Visits
    handed_on: bool = True


class Keeper:
    """Keeps one test database at the baselines that tests start from.

    Attributes:
        alias: An alias that leads to it.
        name: Its name.
        base: The baseline of the whole run.
        floor: The baseline that classes start from, by default.
        current: The baseline that tests start from now.
        overdue: Whether the last reset failed.
        layers: Baselines made on top of that of the run, or of snapshots, by what they are called.
    """

    def __init__(self, server: Server, own: OwnDatabase) -> None:
        """Take the database as it is now for the baseline of the whole run."""
        self._server = server
        self.alias = own.alias
        self.name = own.name
        self._guests = Guests(server, own.alias, own.name)
        self._ready = Ready(server)
        self._origins: list[str] = []
        self.layers: dict[str, Baseline] = {}
        self.overdue = False
        self._guests.send_away()
        self._place = Place.of(self.session, self.name)
        self.base = self._first(own)
        self.floor = self.current = self.base
        self._part()

    @property
    def session(self) -> Session:
        """The session of this process that holds its locks."""
        return live.session(self._server)

    def start(self, wanted: Baseline | None = None) -> None:
        """Have tests start from a baseline from now on."""
        self.current = wanted or self.floor
        self._guests.send_away()
        self._bring()
        self.overdue = False

    def reset(self) -> None:
        """Put the test database back to the baseline that tests start from now.

        Raises:
            DatabaseBusyError: Sessions that may not be ended are at work on it.
            psycopg.Error: The server refused something.
        """
        self.overdue = True
        # What the test was connected by serves for this too, since it is still warm.
        self._guests.send_away(but=self._guests.borrow())
        try:
            self._bring()
        except BaseException:
            reconnect.let_go([self.alias])
            raise
        self._part()
        self.overdue = False

    def leave_class(self) -> None:
        """Have tests start again from what classes start from, once the next one begins."""
        self.current = self.floor

    def leave(self) -> None:
        """Have nobody be on the test database, so that it can be cloned."""
        self._guests.send_away()

    def layer(self, name: str, make: Callable[[], object]) -> Baseline:
        """Return the baseline of this name, which is made on top of that of the whole run."""
        if name not in self.layers:
            self.start(self.base)
            make()
            self.layers[name] = self.adopt()
        return self.layers[name]

    def adopt(self) -> Baseline:
        """Have tests start from the state that the test database is in now."""
        self._guests.send_away()
        if not self._is_untouched():
            self.current = self._put_aside()
        return self.current

    def start_from(self, origin: str) -> Baseline:
        """Have tests start from a shut database of the server."""
        self._guests.send_away()
        self._swap(self._ready.take(origin))
        self.current = self._study(origin)
        return self.current

    def end(self) -> None:
        """Give up what was kept for this test database, but not itself."""
        for origin in self._origins:
            self._ready.discard(origin)
        self._ready.end()

    def _bring(self) -> None:
        """Bring the test database to the current baseline, if it is not there."""
        wanted = self.current
        is_there = self._known.at is wanted and not self._guests.is_connected
        if is_there and self._is_untouched():
            return
        if not self._put_back(wanted):
            self._guests.send_away()
            self._replace(wanted)

    def _put_back(self, wanted: Baseline) -> bool:
        """Put back what was written, row by row, and tell whether that was possible."""
        known = self._known
        has_counted = visits.has_counted(known.visits, self._visits())
        if known.at.origin != wanted.origin or not has_counted:
            return False
        with self._guests.inside() as inside:
            found = dirty.look(inside)
            changes = dirty.changes(known.found, found)
            differing = changes.tables | changes.sequences | known.at.differing(wanted)
            if changes.catalogs or not wanted.bound.isdisjoint(differing):
                return False
            if differing:
                if baseline.size_bytes(inside, differing) > _MOST_WRITTEN_BYTES:
                    return False
                try:
                    baseline.put_back(inside, wanted, differing)
                except psycopg.Error:
                    # Rights may be missing, or a test has left a lock. Nothing has changed.
                    return False
                found = {**found, **dirty.look(inside, differing)}
            self._note(inside, wanted, found)
        return True

    def _replace(self, wanted: Baseline) -> None:
        """Replace the test database by a clone of the baseline."""
        self._swap(self._ready.take(wanted.origin))
        self._ready.order(wanted.origin)
        with self._guests.inside() as inside:
            found = wanted.clone
            if wanted.ahead:
                baseline.put_back(inside, wanted, wanted.ahead)
                found = {**found, **dirty.look(inside, wanted.ahead)}
            self._note(inside, wanted, found)

    def _swap(self, incoming: str) -> None:
        """Give the test database's name to a shut clone, whose lock we hold."""
        outgoing = self._place.give_to(self.session, incoming)
        for alias in self._guests.aliases:
            arrivals.renew(alias, self.name)
        if outgoing is not None:
            self._ready.discard(outgoing)

    def _put_aside(self) -> Baseline:
        """Return the state that the test database is in now as a baseline."""
        known = self._known
        with self._guests.inside() as inside:
            found = dirty.look(inside)
            changes = dirty.changes(known.found, found)
            new = baseline.above(inside, known.at, changes) if changes.anything else known.at
            if new is not None:
                self._note(inside, new, dirty.look(inside))
        if new is not None:
            return new
        self._guests.send_away()
        return self._study(self.keep())

    def _first(self, own: OwnDatabase) -> Baseline:
        """Return the state that the test database is in at first as a baseline."""
        if own.template and written.count(self.session, self.name) == own.written:
            with self._guests.inside() as inside:
                has_moved = dirty.has_moved(dirty.look(inside))
            # Only sequences that are quite as in the template are known to stand there.
            if not has_moved:
                return self._study(own.template)
            self._guests.send_away()
        return self._study(self.keep())

    def _study(self, origin: str) -> Baseline:
        with self._guests.inside() as inside:
            studied = baseline.study(inside, origin, dirty.look(inside))
            self._note(inside, studied, dirty.look(inside))
        return studied

    def keep(self) -> str:
        """Return the name of a shut clone of the test database, which is kept to the end."""
        origin = clones.shut_clone(self.session, self.name)
        self._origins.append(origin)
        return origin

    def _note(self, inside: Session, at: Baseline, found: Look) -> None:
        self._known = _Known(at=at, found=found, visits=visits.count(inside, self.name))

    def _part(self) -> None:
        """Have Django be connected no longer: who comes next is counted as a visit."""
        self._known = replace(self._known, handed_on=not self._guests.leave())

    def _is_untouched(self) -> bool:
        """Tell whether nobody has been on the test database for sure since it was found so."""
        return not self._known.handed_on and self._visits() == self._known.visits

    def _visits(self) -> Visits:
        return visits.count(self.session, self.name)
