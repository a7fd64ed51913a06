"""Replacing: other databases take the place of the live ones, on all servers or on none."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from ..clones.catalog import AnyDatabase, load_catalog
from ..clones.records import UndoRecord
from ..clones.transitions import PropertiesChangedError, Swap, perform_swaps
from ..conf import config
from ..connections.reconnect import DatabaseReplaced, announce_restore, close_and_wait
from ..errors import ServerUnavailableError
from ..postgres.advisory_locks import release_lock, try_acquire_lock
from ..postgres.backends import end_diffs
from ..postgres.inspection import (
    UNKNOWN_COUNTERS,
    check_nothing_attached,
    check_privileges,
    measure_databases,
    read_counters,
)
from ..postgres.properties import Properties, are_settings_committed, read_properties
from ..postgres.server import Server
from ..postgres.session import start_in_thread
from ..postgres.targets import Target, aliases_sharing_database, group_by_server
from ..reporting import Reporter
from .context import ServerContext
from .operation import report_terminated
from .types import AnyMember, Snapshot
from .undo_history import Place, Successor, describe_successor, plan_replaced_state, settle_history


@dataclass(frozen=True, kw_only=True)
class IncomingDatabase:
    """A shut database that is to take a live one's place: a member's own, or a clone of that."""

    context: ServerContext
    target: Target
    member: AnyMember
    database: AnyDatabase

    @property
    def server(self) -> Server:
        return self.context.server

    @property
    def place(self) -> Place:
        return self.server, self.target.name


def match_with_live(
    contexts: Sequence[ServerContext], members: Sequence[AnyMember]
) -> list[IncomingDatabase]:
    """Return each member with the live database whose place it is about."""
    return [
        IncomingDatabase(context=context, target=target, member=member, database=member.database)
        for member in members
        for context in contexts
        for target in context.targets
        if context.server == member.server and target.name == member.record.source
    ]


_POLL_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class ReplaceRequest:
    """What the caller asked for; see `restore`."""

    keep_undo: bool | None = None  # None for the setting ``UNDO``
    by_undo: bool = False
    wait_s: float | None = None
    force: bool = False
    last_look: Callable[[], None] | None = None


class Replacement:
    """All that is replaced on one server."""

    def __init__(
        self,
        context: ServerContext,
        incoming: Sequence[IncomingDatabase],
        request: ReplaceRequest,
        kept: Mapping[Place, UndoRecord],
    ) -> None:
        self.context = context
        self._incoming = incoming
        self._request = request
        self._kept = kept
        there = context.catalog.databases
        self._names = [each.target.name for each in incoming if each.target.name in there]
        self.terminator = context.terminator(self._names, force=request.force)
        self._properties: dict[str, tuple[Properties, Properties]] = {}
        self._sizes: dict[str, int] = {}
        self.successors: dict[Place, Successor] = {}
        self.swaps: list[Swap] = []

    def check(self) -> None:
        # Two sessions are asked at once: new ones have to fill their caches.
        checking = start_in_thread(self._check_and_measure)
        try:
            self._read_properties()
        finally:
            checking.result()

    def _check_and_measure(self) -> None:
        session = self.context.main
        coming = [each.database.name for each in self._incoming]
        self.context.check_whole(self._names)
        check_nothing_attached(session, self._names)
        check_privileges(session, [*self._names, *coming])
        self._sizes = measure_databases(session, self._names)
        counters = read_counters(session, coming)
        for each in self._incoming:
            counted = counters.get(each.database.name, UNKNOWN_COUNTERS)
            self.successors[each.place] = describe_successor(
                each.database, each.member.record, counted
            )

    def _read_properties(self) -> None:
        """Find out what the incoming databases shall be set up with, and how they are now."""
        for each in self._incoming:
            name, member = each.target.name, each.member
            like = name if name in self._names else member.database.name
            wanted, present = read_properties(self.context.watcher, like, each.database.name)
            if name not in self._names:
                wanted = replace(
                    wanted,
                    comment=member.record.comment,
                    connection_limit=member.record.connection_limit,
                    is_template=False,
                )
            self._properties[name] = wanted, present

    def prepare(self) -> None:
        end_diffs(self.context.watcher, [each.database.name for each in self._incoming])
        self._set_up()
        self.terminator.empty_databases()

    def _set_up(self) -> None:
        for each in self._incoming:
            wanted, present = self._properties[each.target.name]
            name, final_name = each.database.name, each.target.name
            self.context.set_up(name, wanted, present, final_name=final_name)

    def perform(self, *, first: bool) -> None:
        """Swap. Only the first looks before: later, what was live elsewhere is live no more."""
        look = self._look if first else None
        while True:
            self.swaps = [self._plan(each) for each in self._incoming]
            for name in self.to_drop:
                try_acquire_lock(self.context.main, name)
            try:
                perform_swaps(self.context.main, self.swaps, self.terminator, look)
            except PropertiesChangedError:
                self._wait_for_settings()
                self._read_properties()
                self._set_up()
            else:
                return

    @property
    def to_drop(self) -> list[str]:
        """What was live and is not kept; nobody drops it as long as it may have to be put back."""
        return [name for swap in self.swaps for name in swap.drops]

    def _wait_for_settings(self) -> None:
        while not are_settings_committed(self.context.watcher):
            if self.terminator.is_overdue:
                raise psycopg.errors.LockNotAvailable
            time.sleep(_POLL_S)

    def is_done(self) -> bool:
        """Ask the server whether the swap took place, whatever became of who sent it."""
        try:
            with self.context.server.session("looking after a swap") as session:
                present = load_catalog(session).databases
        except ServerUnavailableError:
            return False
        return bool(self.swaps) and all(
            (live := present.get(swap.live_name)) is not None and live.oid == swap.incoming.oid
            for swap in self.swaps
        )

    def put_back(self) -> None:
        """Swap back what `perform` swapped, from sessions that nothing has happened to yet."""
        swaps = [back for swap in self.swaps if (back := swap.reversed()) is not None]
        if not swaps:
            return
        server, force = self.context.server, self._request.force
        with server.session("swapping back") as session, server.session("swapping back") as other:
            # Nobody who hears of it may end it.
            context = replace(self.context, watcher=other, reporter=Reporter())
            terminator = context.terminator(self._names, force=force)
            terminator.empty_databases()
            perform_swaps(session, swaps, terminator)

    def _look(self) -> None:
        """Let the caller look, and see that nothing of that stays on the live databases."""
        if self._request.last_look is None:
            return
        aliases = aliases_sharing_database([each.target.alias for each in self._incoming])
        self._request.last_look()
        close_and_wait(aliases, self.context.watcher, self._names)

    def _plan(self, each: IncomingDatabase) -> Swap:
        name = each.target.name
        wanted, _ = self._properties[name]
        kept = self._kept.get(each.place)
        return Swap(
            live_name=name,
            live=self.context.catalog.databases.get(name),
            incoming=each.database,
            properties=wanted,
            outgoing=kept
            and replace(
                kept,
                size_bytes=self._sizes.get(name, 0),
                comment=wanted.comment,
                connection_limit=wanted.connection_limit,
                **self.successors[each.place],
            ),
        )


def replace_live(
    incoming: Sequence[IncomingDatabase],
    request: ReplaceRequest,
    snapshot: Snapshot | None = None,
) -> tuple[list[DatabaseReplaced], list[tuple[Server, str]]]:
    """Put databases in the place of the live ones.

    1. The incoming databases are set up like the live ones. If it stops here, nothing has changed.
    2. Sessions that idle on the live databases are ended, those that work waited for.
    3. One transaction per server swaps. If a later server fails, the earlier ones swap back.
    4. Replaced states that the rule of `undo_history` lets go lose their names.

    Returned is what Django will meet behind which aliases, and what nobody needs any more.
    """
    replaced = [
        DatabaseReplaced(
            alias=alias, name=each.target.name, oid=each.database.oid, snapshot=snapshot
        )
        for each in incoming
        for alias in aliases_sharing_database([each.target.alias])
    ]
    announce_restore(replaced)
    groups = list(group_by_server(incoming).values())
    contexts = [group[0].context for group in groups]
    keeps = config().undo > 0 if request.keep_undo is None else request.keep_undo
    # What is replaced on all servers is one state.
    there = [
        (each.context, each.target, each.member.record.name)
        for each in incoming
        if each.target.name in each.context.catalog.databases
    ]
    kept = plan_replaced_state(contexts, there, by_undo=request.by_undo) if keeps and there else {}
    work = [Replacement(group[0].context, group, request, kept) for group in groups]
    for replacement in work:
        replacement.check()
    for replacement in work:
        replacement.prepare()
    _perform_all(work)
    drops = [(one.context, name) for one in work for name in one.to_drop]
    for context, name in drops:
        # It is done by now. The lock of a session that was ended is free anyway.
        with suppress(psycopg.Error):
            release_lock(context.main, name)
    report_terminated([each.terminator for each in work], contexts[0].reporter)
    successors = {place: each for one in work for place, each in one.successors.items()}
    let_go = settle_history(contexts, kept, successors)
    return replaced, [*((context.server, name) for context, name in drops), *let_go]


def _perform_all(work: Sequence[Replacement]) -> None:
    """Swap on all servers, or on none."""
    try:
        for replacement in work:
            replacement.perform(first=replacement is work[0])
    except BaseException:
        if len(work) == 1:
            raise
        # A message may have done its work though its sender was interrupted.
        done = [replacement for replacement in work if replacement.is_done()]
        if len(done) < len(work):
            for replacement in reversed(done):
                replacement.put_back()
        raise
