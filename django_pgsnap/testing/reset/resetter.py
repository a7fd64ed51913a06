"""Resets: a test database is put back to the baseline that the next test starts from.

What was written is put back row by row where that is certain to be right. Where there is any doubt,
a clone of the baseline replaces the test database; it was made while earlier tests ran.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.util import Finalize
from typing import Any, Final

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

from ...connections.reconnect import accept_silently
from ...errors import PgsnapError
from ...postgres.inspection import DatabaseCounters, read_activity
from ...postgres.properties import read_properties
from ...postgres.server import Server, server_errors
from ...postgres.session import Session
from ...postgres.targets import aliases_sharing_database, get_server
from ..databases import own_databases
from ..databases.clones import make_shut_clone, replace_test_database
from ..databases.own_databases import OwnDatabase
from .baseline import Baseline, extend_baseline, measure_relations, put_rows_back, read_baseline
from .changes import (
    TableCounters,
    are_catalogs_unchanged,
    are_sequences_unmoved,
    drop_new_objects,
    find_changes,
    read_table_counters,
)
from .clone_pool import ClonePool
from .connections import TestDatabaseConnections

# Emptying tables that a test filled with more than this takes longer than a new clone.
_MAX_WRITTEN_BYTES: Final = 8 * 1024**2
# So few rows need not be measured.
_FEW_ROWS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """What a test database was measured at, when nobody but us was connected to it."""

    baseline: Baseline
    counters: TableCounters
    activity: DatabaseCounters
    # Whether Django still uses the connection that took this measurement; nextval on it changes
    # none of what ``activity`` counts.
    is_connection_used: bool = True
    # Whether sequences were left where they are; they show in ``counters``.
    may_sequences_differ: bool = False


class DatabaseResetter:
    """Puts one test database back to the baselines that tests start from."""

    run_baseline: Baseline  # what it was like when the run began
    class_baseline: Baseline  # what classes start from by default
    current: Baseline  # what tests start from now
    _last: _Measurement

    def __init__(self, server: Server, own: OwnDatabase) -> None:
        self._server = server
        self.alias = own.alias
        self.name = own.name
        self._connections = TestDatabaseConnections(server, own.alias, own.name)
        self.aliases = self._connections.aliases
        self._pool = ClonePool(server)
        self._origins: list[str] = []
        self._named_baselines: dict[str, Baseline] = {}
        self.has_failed = self._leaves_sequences = False
        self.disconnect_all()
        (self._properties,) = read_properties(self.session, self.name)
        self.run_baseline = self._read_run_baseline(own)
        self.class_baseline = self.current = self.run_baseline
        self._close_connection()

    @property
    def session(self) -> Session:
        """The session of this process that holds its locks."""
        return own_databases.get_lock_session(self._server)

    def list_sources(self, alias: str) -> list[str]:
        """Return which databases its aliases lead to outside of tests, that of this alias first."""
        found = map(own_databases.find_own_database, (alias, *self.aliases))
        return list(dict.fromkeys(own.source for own in found if own))

    def start(self, baseline: Baseline | None = None, *, leave_sequences: bool = False) -> None:
        """Have tests start from a baseline from now on, by default from that of classes.

        With *leave_sequences*, sequences may stay where nothing but they has changed.
        """
        self.current = baseline or self.class_baseline
        self._leaves_sequences = leave_sequences
        self.disconnect_all()
        self._restore_current(self.session)
        self.has_failed = False

    def reset(self) -> None:
        """Put the test database back to the baseline that tests start from now.

        Raises:
            DatabaseBusyError: Sessions that may not be ended are at work on it.
            psycopg.Error: The server refused something.
        """
        self.has_failed = True
        self._leaves_sequences = False
        # The session that the test was connected by has warm caches, so it serves for this, too.
        kept = self._connections.take_over_session()
        holder = self.session
        self._connections.clear_database(holder, keep=kept)
        try:
            self._restore_current(holder, is_connected=kept is not None)
        except BaseException:
            self._connections.close_connection()
            raise
        self._close_connection()
        self.has_failed = False

    def disconnect_all(self) -> None:
        """Have nobody be connected to the test database, so that it can be cloned."""
        self._connections.clear_database(self.session)

    def get_named_baseline(self, name: str, make: Callable[[], Baseline]) -> Baseline:
        """Return the baseline of this name, which is made when it is asked for first."""
        if name not in self._named_baselines:
            self._named_baselines[name] = make()
        return self._named_baselines[name]

    def adopt_state(self) -> Baseline:
        """Have tests start from the state that the test database is in now."""
        self._leaves_sequences = False
        self.disconnect_all()
        activity = read_activity(self.session, self.name)
        if not self._is_untouched(activity):
            has_all_counts = activity.continues(self._last.activity)
            extended = self._read_extended_baseline() if has_all_counts else None
            self.current = extended or self._read_baseline(self.clone_state())
        return self.current

    def start_from_clone(self, origin: str) -> Baseline:
        """Have tests start from a clone of a shut database of the server."""
        self.disconnect_all()
        self._swap(self._pool.take_clone(origin))
        self.current = self._read_baseline(origin)
        return self.current

    def clone_state(self) -> str:
        """Return the name of a shut clone of the test database, which is kept to the end."""
        self.disconnect_all()
        origin = make_shut_clone(self.session, self.name)
        self._origins.append(origin)
        return origin

    def close(self) -> None:
        """Give up what was kept for this test database, but not itself."""
        self._pool.close(*self._origins)

    def _restore_current(self, holder: Session, *, is_connected: bool = False) -> None:
        activity = read_activity(holder, self.name)
        is_there = self._last.baseline is self.current and not is_connected
        if is_there and self._is_untouched(activity):
            return
        if not (activity.continues(self._last.activity) and self._put_rows_back(activity)):
            self.disconnect_all()
            self._replace_by_clone()

    def _put_rows_back(self, activity: DatabaseCounters) -> bool:
        """Put back what was written, row by row, and tell whether that was possible."""
        if self._last.baseline.origin != self.current.origin:
            return False
        with self._connections.open_session() as inside:
            try:
                return self._was_only_read(inside, activity) or self._put_back(inside, activity)
            except psycopg.Error:
                # Rights may be missing, or a test has left a lock.
                return False

    def _was_only_read(self, inside: Session, activity: DatabaseCounters) -> bool:
        """Tell whether nothing has to be put back, and take note of that."""
        last, leaves = self._last, self._leaves_sequences
        is_same = last.baseline is self.current and activity.rows == last.activity.rows
        if is_same and (leaves or are_sequences_unmoved(inside, last.counters)):
            self._last = replace(
                last, activity=activity, is_connection_used=True, may_sequences_differ=leaves
            )
            return True
        return False

    def _put_back(self, inside: Session, activity: DatabaseCounters) -> bool:
        """Put rows back, and take the measurement then; tell whether that takes no clone."""
        last, wanted = self._last, self.current
        counters = read_table_counters(inside, is_new=True)
        changes = find_changes(last.counters, counters)
        is_schema_same = not changes.catalogs or (
            not changes.created
            and are_catalogs_unchanged(inside, wanted.catalogs, changes.catalogs)
        )
        if not is_schema_same:
            if not drop_new_objects(inside, wanted.objects):
                return False
            counters = read_table_counters(inside)
            changes = find_changes(last.counters, counters)
            if not are_catalogs_unchanged(inside, wanted.catalogs, changes.catalogs):
                return False
        differing = changes.relations | last.baseline.find_differences(wanted)
        may_leave = self._leaves_sequences and last.baseline is wanted
        left = changes.sequences if may_leave else frozenset()
        if not differing - left:
            # As nothing was written, the server has counted nothing since.
            self._last = _Measurement(
                baseline=wanted,
                counters={**counters, **{oid: last.counters[oid] for oid in left}},
                activity=activity,
                may_sequences_differ=bool(left),
            )
            return True
        if differing & wanted.needs_full_clone:
            return False
        if changes.rows > _FEW_ROWS and measure_relations(inside, differing) > _MAX_WRITTEN_BYTES:
            return False
        put_rows_back(inside, wanted, differing)
        self._measure(inside, wanted, {**counters, **read_table_counters(inside, differing)})
        return True

    def _replace_by_clone(self) -> None:
        wanted = self.current
        self._swap(self._pool.take_clone(wanted.origin))
        self._pool.order_clones(wanted.origin)
        with self._connections.open_session() as inside:
            counters = wanted.clone_counters
            if changed := wanted.changed_since_origin:
                put_rows_back(inside, wanted, changed)
                counters = {**counters, **read_table_counters(inside, changed)}
            self._measure(inside, wanted, counters)

    def _swap(self, incoming: str) -> None:
        """Give the test database's name to a shut clone, whose lock we hold."""
        outgoing = replace_test_database(self.session, self.name, incoming, self._properties)
        for alias in self.aliases:
            accept_silently(alias, self.name)
        if outgoing is not None:
            self._pool.drop_later(outgoing)

    def _read_run_baseline(self, own: OwnDatabase) -> Baseline:
        # Where not all is counted, no epoch is like another.
        before, now = (read_activity(self.session, self.name) for _ in range(2))
        if own.template and now.rows == own.written and now.continues(before):
            with self._connections.open_session() as inside:
                counters = read_table_counters(inside)
            # A sequence that anybody looked at may have moved since the template was cloned.
            if not any(each.is_sequence and each.written for each in counters.values()):
                return self._read_baseline(own.template)
        return self._read_baseline(self.clone_state())

    def _read_baseline(self, origin: str) -> Baseline:
        with self._connections.open_session() as inside:
            found = read_baseline(inside, origin, read_table_counters(inside))
            self._measure(inside, found, read_table_counters(inside))
        return found

    def _read_extended_baseline(self) -> Baseline | None:
        """Return the test database's state as a baseline, None if that needs another origin."""
        found: Baseline | None = self._last.baseline
        with self._connections.open_session() as inside:
            changes = find_changes(self._last.counters, read_table_counters(inside))
            if changes.catalogs or changes.relations:
                found = extend_baseline(inside, self._last.baseline, changes)
            if found is not None:
                self._measure(inside, found, read_table_counters(inside))
        return found

    def _measure(self, inside: Session, baseline: Baseline, counters: TableCounters) -> None:
        activity = read_activity(inside, self.name)
        self._last = _Measurement(baseline=baseline, counters=counters, activity=activity)

    def _close_connection(self) -> None:
        """Close Django's connection, so that whoever connects next is counted."""
        is_gone = self._connections.close_connection()
        self._last = replace(self._last, is_connection_used=not is_gone)

    def _is_untouched(self, activity: DatabaseCounters) -> bool:
        """Tell whether it is certain that nobody was connected since all was at the baseline."""
        last = self._last
        is_exact = self._leaves_sequences or not last.may_sequences_differ
        return is_exact and not last.is_connection_used and activity == last.activity


# By process, alias and name; several aliases may lead to one database. Forked workers have test
# databases, and sessions, of their own.
_resetters: dict[tuple[int, str, str], DatabaseResetter] = {}

# Other finalizers of a worker may still use its connections.
_EARLY: Final = 10


def get_resetter(alias: str) -> DatabaseResetter | None:
    """Return the resetter of an alias' test database, None if that is left to Django.

    The state that it finds at first is the baseline of the whole run.
    """
    own = own_databases.find_own_database(alias)
    # A suite that runs inside a test shares its transaction.
    if own is None or _is_mirror(alias) or connections[alias].in_atomic_block:
        return None
    key = (os.getpid(), alias, own.name)
    if key not in _resetters:
        if multiprocessing.parent_process() is not None and not _of_this_process():
            Finalize(None, close_resetters, exitpriority=_EARLY)
        creator = _find_creator(alias)
        with explain_errors("tests", alias):
            resetter = DatabaseResetter(get_server(connections[creator.alias]), creator)
        _resetters.update({(os.getpid(), each, own.name): resetter for each in resetter.aliases})
    return _resetters[key]


def list_resetters(cls: Any = None) -> list[tuple[str, DatabaseResetter]]:
    """Return the resetters of all test databases, each with an alias that leads there.

    With a test class, they are those of the databases, and by the aliases, that it may use.
    """
    allowed = getattr(cls, "databases", ()) if cls else "__all__"
    found: dict[DatabaseResetter, str] = {}
    for alias in connections:
        is_allowed = allowed == "__all__" or alias in allowed
        if is_allowed and (resetter := get_resetter(alias)) is not None:
            found.setdefault(resetter, alias)
    return [(alias, resetter) for resetter, alias in found.items()]


def close_resetters(name: str = "") -> None:
    """Give up what this process keeps for its test databases, or for those of one name."""
    for resetter in _of_this_process():
        if name in ("", resetter.name):
            # What cannot be given up now has no lock any more when we are gone, and is swept then.
            with suppress(PgsnapError, psycopg.Error):
                resetter.close()
            for key in [key for key, each in _resetters.items() if each is resetter]:
                del _resetters[key]


def use_run_baselines() -> None:
    for resetter in _of_this_process():
        resetter.class_baseline = resetter.run_baseline


@contextmanager
def explain_errors(who: str, alias: str) -> Iterator[None]:
    """Have errors name the class or test that is to start, and the alias."""
    try:
        with server_errors():
            yield
    except PgsnapError as error:
        raise type(error)(
            f"The baseline for {who} could not be put back in alias {alias!r}: {error.message}",
            hint=error.hint,
        ) from error


def _find_creator(alias: str) -> OwnDatabase:
    """Return a test database by the alias that Django made it by, whose role may do all we do."""
    aliases = aliases_sharing_database([alias])
    found = (own_databases.find_own_database(each) for each in aliases if not _is_mirror(each))
    # Django prefers the default alias, and takes the first of others (get_unique_databases...).
    return min((own for own in found if own), key=lambda own: own.alias != DEFAULT_DB_ALIAS)


def _is_mirror(alias: str) -> bool:
    return bool(connections.settings[alias]["TEST"].get("MIRROR"))


def _of_this_process() -> set[DatabaseResetter]:
    return {resetter for (pid, *_), resetter in _resetters.items() if pid == os.getpid()}
