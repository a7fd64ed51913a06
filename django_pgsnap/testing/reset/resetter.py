"""Resets: a test database is put back to the baseline that the next test starts from.

What was written is put back row by row where that is safe for sure. Whatever is in doubt, the
test database is replaced by a clone of the baseline, of which the next one is made meanwhile.

The keepers of this process' test databases, one for each.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.util import Finalize
from typing import Final

import psycopg
from django.db import connections

from ...clones.swap import DatabaseName
from ...connections.reconnect import close_connections
from ...connections.restore_detection import accept_silently, clear_caches
from ...errors import PgsnapError
from ...postgres import counters
from ...postgres.counters import ActivityCounters, count_rows_written, read_activity
from ...postgres.server import Server, server_errors
from ...postgres.session import Session
from ...postgres.targets import get_server
from ..databases import own_databases
from ..databases.clones import make_shut_clone
from ..databases.own_databases import OwnDatabase
from . import baseline
from . import changes as changes_module
from .baseline import Baseline, put_back, size_bytes
from .changes import Look
from .clone_pool import Ready
from .connections import Guests

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
    visits: ActivityCounters
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
        self._place = DatabaseName.of(self.session, self.name)
        self.base = self._first(own)
        self.floor = self.current = self.base
        self._part()

    @property
    def session(self) -> Session:
        """The session of this process that holds its locks."""
        return own_databases.get_lock_session(self._server)

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
            close_connections([self.alias])
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
        has_counted = counters.has_counted(known.visits, self._visits())
        if known.at.origin != wanted.origin or not has_counted:
            return False
        with self._guests.inside() as inside:
            found = changes_module.look(inside)
            changes = changes_module.changes(known.found, found)
            differing = changes.tables | changes.sequences | known.at.differing(wanted)
            if changes.catalogs or not wanted.bound.isdisjoint(differing):
                return False
            if differing:
                if size_bytes(inside, differing) > _MOST_WRITTEN_BYTES:
                    return False
                try:
                    put_back(inside, wanted, differing)
                except psycopg.Error:
                    # Rights may be missing, or a test has left a lock. Nothing has changed.
                    return False
                found = {**found, **changes_module.look(inside, differing)}
            self._note(inside, wanted, found)
        return True

    def _replace(self, wanted: Baseline) -> None:
        """Replace the test database by a clone of the baseline."""
        self._swap(self._ready.take(wanted.origin))
        self._ready.order(wanted.origin)
        with self._guests.inside() as inside:
            found = wanted.clone
            if wanted.ahead:
                put_back(inside, wanted, wanted.ahead)
                found = {**found, **changes_module.look(inside, wanted.ahead)}
            self._note(inside, wanted, found)

    def _swap(self, incoming: str) -> None:
        """Give the test database's name to a shut clone, whose lock we hold."""
        outgoing = self._place.give_to(self.session, incoming)
        for alias in self._guests.aliases:
            accept_silently(alias, self.name)
        if outgoing is not None:
            self._ready.discard(outgoing)

    def _put_aside(self) -> Baseline:
        """Return the state that the test database is in now as a baseline."""
        known = self._known
        with self._guests.inside() as inside:
            found = changes_module.look(inside)
            changes = changes_module.changes(known.found, found)
            new = baseline.above(inside, known.at, changes) if changes.anything else known.at
            if new is not None:
                self._note(inside, new, changes_module.look(inside))
        if new is not None:
            return new
        self._guests.send_away()
        return self._study(self.keep())

    def _first(self, own: OwnDatabase) -> Baseline:
        """Return the state that the test database is in at first as a baseline."""
        if own.template and count_rows_written(self.session, self.name) == own.written:
            with self._guests.inside() as inside:
                has_moved = changes_module.has_moved(changes_module.look(inside))
            # Only sequences that are quite as in the template are known to stand there.
            if not has_moved:
                return self._study(own.template)
            self._guests.send_away()
        return self._study(self.keep())

    def _study(self, origin: str) -> Baseline:
        with self._guests.inside() as inside:
            studied = baseline.study(inside, origin, changes_module.look(inside))
            self._note(inside, studied, changes_module.look(inside))
        return studied

    def keep(self) -> str:
        """Return the name of a shut clone of the test database, which is kept to the end."""
        origin = make_shut_clone(self.session, self.name)
        self._origins.append(origin)
        return origin

    def _note(self, inside: Session, at: Baseline, found: Look) -> None:
        self._known = _Known(at=at, found=found, visits=read_activity(inside, self.name))

    def _part(self) -> None:
        """Have Django be connected no longer: who comes next is counted as a visit."""
        self._known = replace(self._known, handed_on=not self._guests.leave())

    def _is_untouched(self) -> bool:
        """Tell whether nobody has been on the test database for sure since it was found so."""
        return not self._known.handed_on and self._visits() == self._known.visits

    def _visits(self) -> ActivityCounters:
        return read_activity(self.session, self.name)


# By process too: forked workers have test databases, and sessions, of their own.
_keepers: dict[tuple[int, Server, str], Keeper] = {}

# Other finalizers of a worker may still use its connections.
_EARLY: Final = 10


def find(alias: str) -> Keeper | None:
    """Return the keeper of the test database that an alias leads to, None if it is not ours.

    The state that it finds at first is the baseline of the whole run.
    """
    own = own_databases.find_own_database(alias)
    if own is None:
        return None
    server = get_server(connections[alias])
    key = (os.getpid(), server, own.name)
    if key not in _keepers:
        if multiprocessing.parent_process() is not None and not _of_this_process():
            Finalize(None, end, exitpriority=_EARLY)
        with on_behalf_of("tests", alias):
            _keepers[key] = Keeper(server, own)
    return _keepers[key]


def end() -> None:
    """Give up what this process keeps for its test databases."""
    for key in _of_this_process():
        # What cannot be given up now has no lock any more when we are gone, and is swept then.
        with suppress(PgsnapError, psycopg.Error):
            _keepers.pop(key).end()


def leave_floors() -> None:
    """Have tests start from the baselines of the whole run again."""
    for key in _of_this_process():
        _keepers[key].floor = _keepers[key].base


@contextmanager
def on_behalf_of(who: str, alias: str) -> Iterator[None]:
    """Have errors name the class or test that is to start, and the alias.

    Raises:
        PgsnapError: What went wrong.
    """
    try:
        with server_errors():
            yield
    except PgsnapError as error:
        raise type(error)(
            f"The baseline for {who} could not be put back in alias {alias!r}: {error.message}",
            hint=error.hint,
        ) from error


def forget_cached(alias: str) -> None:
    """Have Django forget what it remembers of the contents that were put back."""
    clear_caches(alias)


def _of_this_process() -> list[tuple[int, Server, str]]:
    return [key for key in _keepers if key[0] == os.getpid()]
