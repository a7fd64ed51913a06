"""What is to take the live databases' places.

What becomes of the live databases that are replaced: the undo, unless an older one is kept.

A replacement: other databases take the place of the live ones of one server.

Replacing: other databases take the place of the live ones, on all servers or on none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Self

import django
from psycopg import sql

from ..clones.catalog import AnyDatabase, load_catalog
from ..clones.names import new_identity
from ..clones.records import CopyRecord, Record, UndoRecord
from ..clones.swap import PropertiesChangedError, Swap, WrittenMeanwhileError, perform_swaps
from ..conf import config
from ..connections.reconnect import aliases_sharing_database, close_and_wait
from ..connections.restore_detection import DatabaseReplaced
from ..errors import ServerUnavailableError
from ..postgres.advisory_locks import HeldTooLongError, wait_until_connectable
from ..postgres.backends import BackendTerminator, end_diffs, open_temporary_session
from ..postgres.contents import digest_sequences, measure_databases
from ..postgres.counters import is_untouched, read_statistics_epoch
from ..postgres.parallel import start_in_thread
from ..postgres.preconditions import check_nothing_attached, check_privileges
from ..postgres.properties import (
    Properties,
    apply_properties,
    are_settings_committed,
    read_properties,
)
from ..postgres.server import Server
from ..postgres.session import Session
from ..postgres.targets import Target, group_by_server
from ..reporting import Reporter
from .context import ServerContext, report_terminated
from .types import AnyMember, MemberT, Snapshot


@dataclass(frozen=True, kw_only=True)
class IncomingDatabase:
    """A shut database that is to take a live one's place.

    Attributes:
        context: The server it is on.
        target: The live database.
        database: The database that comes.
        record: The copy or undo that it stands for.
        set_up_like: A database with the properties to use if the live one is missing.
    """

    context: ServerContext
    target: Target
    database: AnyDatabase
    record: Record
    set_up_like: str

    @property
    def server(self) -> Server:
        """The server it is on."""
        return self.context.server

    @classmethod
    def of(
        cls, context: ServerContext, target: Target, member: AnyMember, database: AnyDatabase
    ) -> Self:
        """Return a database that stands for a member, that member itself or a clone of it."""
        return cls(
            context=context,
            target=target,
            database=database,
            record=member.record,
            set_up_like=member.database.name,
        )


def match_with_live(
    contexts: Sequence[ServerContext], members: Sequence[MemberT]
) -> Iterator[tuple[ServerContext, Target, MemberT]]:
    """Yield each member with the live database whose place it is about."""
    for member in members:
        for context in contexts:
            for target in context.targets:
                if context.server == member.server and target.name == member.record.source:
                    yield context, target, member


def replacements_of(
    incoming: Sequence[IncomingDatabase], snapshot: Snapshot | None
) -> list[DatabaseReplaced]:
    """Return what Django will meet behind which aliases."""
    return [
        DatabaseReplaced(
            alias=alias, name=each.target.name, oid=each.database.oid, snapshot=snapshot
        )
        for each in incoming
        for alias in aliases_sharing_database([each.target.alias])
    ]


@dataclass(frozen=True, kw_only=True)
class UndoGroup:
    """What the parts of an undo have in common."""

    set_id: str
    members: int
    taken_at: datetime

    @classmethod
    def of(cls, members: int) -> Self:
        """Return what the parts of a new undo have in common."""
        return cls(set_id=new_identity(), members=members, taken_at=datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class UndoFacts:
    """What the server tells of a live database that is to be replaced.

    Attributes:
        size_bytes: What it occupies on disk.
        statistics_epoch: When the server's statistics began; see `written`.
    """

    size_bytes: int = 0
    statistics_epoch: str = ""


def find_older_undos(each: IncomingDatabase) -> list[UndoRecord]:
    """Return the undos of a live database, newest first, without what comes in."""
    undos = [
        database.record
        for database in each.context.catalog.undos([each.target.name])
        if database.oid != each.database.oid
    ]
    return sorted(undos, key=lambda record: record.taken_at, reverse=True)


def plan_swap(
    each: IncomingDatabase,
    wanted: Properties,
    undo: UndoGroup | None,
    facts: UndoFacts,
    *,
    keep_older_undo: bool,
) -> Swap:
    """Return the swap that brings a database in.

    Args:
        each: The database that comes.
        wanted: What the live database is set up with.
        undo: The undo that the live database becomes a part of; None to have it dropped.
        facts: What the server tells of the live database.
        keep_older_undo: Whether nothing was written since the older undo, so that it stays the one.
    """
    live = each.context.catalog.get(each.target.name)
    older = find_older_undos(each)
    record = None
    if live and undo and not keep_older_undo:
        record = _undo_record(each, wanted, undo, facts)
    return Swap(
        live_name=each.target.name,
        live=live,
        incoming=each.database,
        properties=wanted,
        undo=record,
        drop_identity=new_identity(),
        retire=older if record else [],
        recomment=_succeeded(older[0], each, facts) if older and keep_older_undo else None,
    )


def _undo_record(
    each: IncomingDatabase, wanted: Properties, undo: UndoGroup, facts: UndoFacts
) -> UndoRecord:
    record = UndoRecord(
        identity=new_identity(),
        set_id=undo.set_id,
        members=undo.members,
        name=each.record.name,
        alias=each.target.alias,
        source=each.target.name,
        taken_at=undo.taken_at,
        size_bytes=facts.size_bytes,
        django=django.get_version(),
        postgresql=each.context.watcher.server_name,
        comment=wanted.comment,
        connection_limit=wanted.connection_limit,
    )
    return _succeeded(record, each, facts)


def _succeeded(undo: UndoRecord, each: IncomingDatabase, facts: UndoFacts) -> UndoRecord:
    """Return an undo that knows which database took its place."""
    return replace(
        undo,
        successor_oid=each.database.oid,
        # What an undo holds may have been written, so nothing is known of its sequences.
        successor_sequences=each.record.sequences if isinstance(each.record, CopyRecord) else "",
        statistics_epoch=facts.statistics_epoch,
    )


_POLL_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class ReplaceRequest:
    """What the caller asked for; see `restore`."""

    keep_undo: bool
    wait_s: float
    force: bool
    last_look: Callable[[], None] | None = None

    @classmethod
    def of(
        cls,
        *,
        keep_undo: bool | None,
        wait_s: float | None,
        force: bool,
        last_look: Callable[[], None] | None = None,
    ) -> Self:
        """Return a request where None stands for what the settings say."""
        settings = config()
        return cls(
            keep_undo=settings.undo if keep_undo is None else keep_undo,
            wait_s=settings.wait_s if wait_s is None else wait_s,
            force=force,
            last_look=last_look,
        )


class Replacement:
    """All that is replaced on one server."""

    def __init__(
        self,
        context: ServerContext,
        incoming: Sequence[IncomingDatabase],
        request: ReplaceRequest,
        undo: UndoGroup | None,
        reporter: Reporter,
    ) -> None:
        self.context = context
        self._incoming = incoming
        self._request = request
        self._undo = undo
        self._reporter = reporter
        self._names = [each.target.name for each in incoming if each.target.name in context.catalog]
        self.terminator = BackendTerminator(
            context.watcher,
            self._names,
            wait_s=request.wait_s,
            force=request.force,
            reporter=reporter,
        )
        self._was_empty = False
        self._properties: dict[str, tuple[Properties, Properties]] = {}
        self._facts: dict[str, UndoFacts] = {}
        self._swaps: list[Swap] = []

    @property
    def drops(self) -> list[str]:
        """Databases that nobody needs any more."""
        return [name for swap in self._swaps for name in swap.drops]

    def check(self) -> None:
        # Two sessions are asked at once: new ones have to fill their caches.
        checking = start_in_thread(self._check)
        try:
            self._read_properties()
        finally:
            checking.result()

    def _check(self) -> None:
        """Look for what stands in the way, and at what a new undo tells of the live databases."""
        session = self.context.main
        check_nothing_attached(session, self._names)
        check_privileges(session, [*self._names, *(each.database.name for each in self._incoming)])
        self._facts = self._read_facts(session)

    def _read_facts(self, session: Session) -> dict[str, UndoFacts]:
        epoch = read_statistics_epoch(session)
        sizes = measure_databases(session, self._names)
        return {
            name: UndoFacts(size_bytes=sizes.get(name, 0), statistics_epoch=epoch)
            for name in self._names
        }

    def _read_properties(self) -> None:
        self._properties = {each.target.name: self._properties_of(each) for each in self._incoming}

    def prepare(self) -> None:
        end_diffs(self.context.watcher, [each.database.name for each in self._incoming])
        self._set_up()
        self._was_empty = self.terminator.empty_databases()

    def _set_up(self) -> None:
        for each in self._incoming:
            wanted, present = self._properties[each.target.name]
            for shortfall in apply_properties(
                self.context.watcher, wanted, present, each.database.name
            ):
                self._reporter.warn(str(shortfall))

    def perform(self, *, alone: bool, first: bool) -> None:
        """Swap; where it is alone, a state that nobody changed does not become the undo.

        Only the first one looks before: once it has swapped, what was live is live no more.
        """
        look = self._look if first else None
        unwritten = alone and self._request.keep_undo and self._is_unwritten()
        while True:
            self._swaps = self._plan(keep_older_undo=unwritten)
            try:
                perform_swaps(self.context.main, self._swaps, self.terminator, look)
            except WrittenMeanwhileError:
                unwritten = False
            except PropertiesChangedError:
                self._wait_for_settings()
                self._read_properties()
                self._set_up()
            else:
                return

    def _wait_for_settings(self) -> None:
        while not are_settings_committed(self.context.watcher):
            if self.terminator.is_overdue:
                raise HeldTooLongError
            time.sleep(_POLL_S)

    def is_done(self) -> bool:
        """Ask the server whether the swap took place, whatever became of who sent it."""
        try:
            with self.context.server.session("looking after a swap") as session:
                present = load_catalog(session)
        except ServerUnavailableError:
            return False
        return bool(self._swaps) and all(
            (live := present.get(swap.live_name)) is not None and live.oid == swap.incoming.oid
            for swap in self._swaps
        )

    def put_back(self) -> None:
        """Swap back what `perform` swapped, from sessions that nothing has happened to yet."""
        swaps = [back for swap in self._swaps if (back := swap.reversed()) is not None]
        if not swaps:
            return
        server, request = self.context.server, self._request
        with server.session("swapping back") as session, server.session("swapping back") as other:
            terminator = BackendTerminator(
                other, self._names, wait_s=request.wait_s, force=request.force
            )
            terminator.empty_databases()
            perform_swaps(session, swaps, terminator)

    def _look(self) -> None:
        """Let the caller look at the live databases, and see that nothing of it stays there."""
        if self._request.last_look is None:
            return
        aliases = aliases_sharing_database(each.target.alias for each in self._incoming)
        self._request.last_look()
        close_and_wait(aliases, self.context.watcher, self._names)

    def _properties_of(self, each: IncomingDatabase) -> tuple[Properties, Properties]:
        """Return what an incoming database shall be set up with, and what it is now."""
        is_there = each.target.name in self._names
        like = each.target.name if is_there else each.set_up_like
        wanted, present = read_properties(self.context.watcher, like, each.database.name)
        if not is_there:
            wanted = replace(
                wanted,
                comment=each.record.comment,
                connection_limit=each.record.connection_limit,
                is_template=False,
            )
        return wanted, present

    def _is_unwritten(self) -> bool:
        # Where clients keep coming they also write.
        return self._was_empty and all(map(self._is_one_unwritten, self._incoming))

    def _is_one_unwritten(self, each: IncomingDatabase) -> bool:
        live = self.context.catalog.get(each.target.name)
        older = find_older_undos(each)
        if live is None or not older:
            return False
        wait_s = self._request.wait_s
        return is_unwritten(self.context.watcher, self.context.server, live, older[0], wait_s)

    def _plan(self, *, keep_older_undo: bool) -> list[Swap]:
        return [
            plan_swap(
                each,
                self._properties[each.target.name][0],
                self._undo,
                self._facts.get(each.target.name, UndoFacts()),
                keep_older_undo=keep_older_undo,
            )
            for each in self._incoming
        ]


def replace_live(
    incoming: Sequence[IncomingDatabase], request: ReplaceRequest, reporter: Reporter
) -> dict[Server, list[str]]:
    """Put databases in the place of the live ones.

    1. The incoming databases are set up like the live ones. If it stops here, nothing has changed.
    2. Sessions that idle on the live databases are ended, those that work waited for.
    3. One transaction per server swaps. If a later server fails, the earlier ones swap back.

    Returns:
        For each server, the databases that nobody needs any more.

    Raises:
        PgsnapError: Its subclasses say what stood in the way. Nothing has changed then.
    """
    # What is replaced on all servers becomes one undo.
    undo = UndoGroup.of(len(incoming)) if request.keep_undo else None
    work = [
        Replacement(context, group, request, undo, reporter)
        for context, group in _by_context(incoming)
    ]
    for replacement in work:
        replacement.check()
    for replacement in work:
        replacement.prepare()
    _perform_all(work)
    report_terminated([replacement.terminator for replacement in work], reporter)
    return {replacement.context.server: replacement.drops for replacement in work}


def _perform_all(work: Sequence[Replacement]) -> None:
    """Swap on all servers, or on none."""
    try:
        for replacement in work:
            replacement.perform(alone=len(work) == 1, first=replacement is work[0])
    except BaseException:
        if len(work) == 1:
            raise
        # A message may have done its work though its sender was interrupted.
        done = [replacement for replacement in work if replacement.is_done()]
        if len(done) < len(work):
            for replacement in reversed(done):
                replacement.put_back()
        raise


def _by_context(
    incoming: Iterable[IncomingDatabase],
) -> list[tuple[ServerContext, list[IncomingDatabase]]]:
    return [(group[0].context, group) for group in group_by_server(incoming).values()]


def is_unwritten(
    session: Session, server: Server, live: AnyDatabase, undo: UndoRecord, wait_s: float
) -> bool:
    """Tell whether the live database is for sure what the last restore made it.

    Sequences can be set without any row being written, so they are read too, from inside. Call
    this when the sessions on the live database have been ended.

    Args:
        session: A maintenance session.
        server: The server, to connect to the live database.
        live: The live database.
        undo: What the last restore left, which says what it put in place.
        wait_s: How long to wait for somebody who copies the live database, in seconds.

    Raises:
        HeldTooLongError: The copy takes longer.
    """
    if (
        undo.successor_oid != live.oid
        or not undo.successor_sequences
        or not session.value(sql.SQL("SELECT {}").format(is_untouched(live.oid)))
        or undo.statistics_epoch != read_statistics_epoch(session)
    ):
        return False
    wait_until_connectable(session, live.name, wait_s)
    with open_temporary_session(server, session, live.name, "comparing sequences") as inside:
        return digest_sequences(inside) == undo.successor_sequences
