"""Which replaced states are kept: the rule behind undo, in one place.

Every restore and every undo puts what was live in front of the list of kept states, for all its
databases together. Then, and only then, states go:

1. What a restore has just replaced, if it is for sure exactly a copy that is still there: it was
   put in place as a clone of that copy, and no session and no transaction was there since.
2. While there are more states than ``PGSNAP["UNDO"]`` names, or than ``UNDO_MAX_BYTES`` has room
   for: the oldest one that is a clone of a copy that is still there, and in which the server
   counted no write since; where there is none, the oldest one. The newest always stays.

If it stops before this, a state too many is kept, and the next restore or undo lets it go. In doubt
about anything a state counts as written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

import django
import psycopg

from ..clones.catalog import AnyDatabase
from ..clones.names import new_identity, to_drop_name
from ..clones.records import Parts, Record, UndoRecord
from ..clones.transitions import join_statements, rewrite_comment, unpublish
from ..conf import config
from ..messages import format_size, message
from ..postgres.backends import end_diffs
from ..postgres.inspection import UNKNOWN_COUNTERS, DatabaseCounters, read_counters
from ..postgres.server import Server
from ..postgres.session import Query
from ..postgres.targets import Target, group_by_server
from ..reporting import Reporter
from .context import ServerContext, find_undos
from .types import Undo, UndoMember

# A live database: its server and its name.
Place = tuple[Server, str]


@dataclass(frozen=True, kw_only=True)
class Successor:
    """What has just taken a live database's place, as the undo is to remember it."""

    oid: int
    clone_of: str
    copy_of: str
    based_on: str
    counters: DatabaseCounters

    @classmethod
    def of(cls, database: AnyDatabase, record: Record, counters: DatabaseCounters | None) -> Self:
        """Describe a database that comes in, standing for a copy or for a kept state."""
        clone_of = copy_of = ""
        based_on = record.name
        if isinstance(record, UndoRecord):
            clone_of, copy_of, based_on = record.clone_of, record.copy_of, record.based_on
        elif counters and counters.are_zero:
            # Otherwise it is a clone on which somebody has been.
            clone_of = copy_of = record.identity
        return cls(
            oid=database.oid,
            clone_of=clone_of,
            copy_of=copy_of,
            based_on=based_on,
            counters=counters or UNKNOWN_COUNTERS,
        )

    def noted_in(self, record: UndoRecord) -> UndoRecord:
        """Return the record of the newest kept state, which knows what is live instead."""
        return replace(
            record,
            successor_oid=self.oid,
            successor_clone_of=self.clone_of,
            successor_copy_of=self.copy_of,
            successor_based_on=self.based_on,
            statistics_epoch=self.counters.epoch,
            successor_sessions=self.counters.sessions,
            successor_transactions=self.counters.transactions,
            successor_rows=self.counters.rows,
        )


@dataclass(frozen=True, kw_only=True)
class KeptSet:
    """What the parts of a state that is about to be replaced have in common."""

    set_id: str
    parts: Parts
    taken_at: datetime
    by_undo: bool
    newest: Mapping[Place, UndoRecord]  # of what was kept before

    @classmethod
    def of(cls, contexts: Sequence[ServerContext], parts: Parts, *, by_undo: bool) -> Self:
        """Return it, dated after all that is kept already, whatever became of the clock."""
        kept = [member for context in contexts for member in context.undos()]
        later = [member.record.taken_at + timedelta(microseconds=1) for member in kept]
        return cls(
            set_id=new_identity(),
            parts=parts,
            taken_at=max([contexts[0].read_clock(), *later]),
            by_undo=by_undo,
            newest=newest_of(kept),
        )

    def record(
        self, context: ServerContext, target: Target, name: str, *, size_bytes: int
    ) -> UndoRecord:
        """Return what one part of it knows of itself."""
        newest = self.newest.get((context.server, target.name))
        live = context.live(target)
        known = newest is not None and newest.successor_oid == live.oid
        return UndoRecord(
            identity=new_identity(),
            set_id=self.set_id,
            members=len(self.parts),
            parts=self.parts,
            name=name,
            alias=target.alias,
            source=target.name,
            taken_at=self.taken_at,
            size_bytes=size_bytes,
            django=django.get_version(),
            postgresql=context.watcher.server_name,
            by_undo=self.by_undo,
            based_on=newest.successor_based_on if newest and known else "",
        )


def newest_of(kept: Iterable[UndoMember]) -> dict[Place, UndoRecord]:
    """Return the newest kept state of each live database, which knows what is live now."""
    oldest_first = sorted(kept, key=lambda member: member.record.taken_at)
    return {_place(member): member.record for member in oldest_first}


def settle_history(
    before: Sequence[ServerContext], replaced: KeptSet | None, successors: Mapping[Place, Successor]
) -> dict[Server, list[str]]:
    """Let go of the states that the rule does not keep, after a swap.

    Told are the servers as they were before it, what the live databases have become if they are
    kept, and what is live now. Returned is what is to be dropped on each server.
    """
    try:
        history = _History([context.reloaded() for context in before])
        if replaced is not None:
            history.judge(replaced)
        history.note_successors(successors)
        history.trim(before[0].reporter)
        return history.write()
    except psycopg.Error as error:
        before[0].reporter.warn(
            message(
                "Done, but more replaced states are kept than need be: {cause}. The next "
                "restore makes up for it.",
                cause=str(error).strip(),
            )
        )
        return {}


class _History:
    def __init__(self, contexts: Sequence[ServerContext]) -> None:
        self._contexts = {context.server: context for context in contexts}
        self._states = find_undos(contexts)
        self._copies = {copy.record.identity for context in contexts for copy in context.copies()}
        self._gone: list[UndoMember] = []
        self._changed: dict[str, tuple[Server, UndoRecord]] = {}

    def judge(self, replaced: KeptSet) -> None:
        """Find out what is known of the state that was just replaced; let it go if it is a copy."""
        state = next((each for each in self._states if each.set_id == replaced.set_id), None)
        if state is None:
            return
        judged = [
            self._judged(member, replaced.newest.get(_place(member))) for member in state.members
        ]
        if not replaced.by_undo and all(record.copy_of for record in judged):
            self._let_go(state)
            return
        for member, record in zip(state.members, judged, strict=True):
            if record != member.record:
                self._changed[record.database] = (member.server, record)

    def _judged(self, member: UndoMember, known: UndoRecord | None) -> UndoRecord:
        context, record = self._contexts[member.server], member.record
        found = read_counters(context.main, [member.database.name]).get(member.database.name)
        if (
            known is None
            or found is None
            or known.successor_oid != member.database.oid
            or (known.statistics_epoch, known.successor_rows) != (found.epoch, found.rows)
        ):
            return record  # somebody has written, or may have
        untouched = (known.successor_sessions, known.successor_transactions) == (
            found.sessions,
            found.transactions,
        )
        is_copy = untouched and known.successor_copy_of in self._copies
        return replace(
            record,
            clone_of=known.successor_clone_of,
            copy_of=known.successor_copy_of if is_copy else "",
        )

    def note_successors(self, successors: Mapping[Place, Successor]) -> None:
        """Have the newest state of each database know what is live instead."""
        members = [member for state in reversed(self._states) for member in state.members]
        newest = {_place(member): member for member in members}
        for place in successors.keys() & newest.keys():
            member = newest[place]
            noted = successors[place].noted_in(self._now(member))
            if noted != member.record:
                self._changed[noted.database] = (member.server, noted)

    def trim(self, reporter: Reporter) -> None:
        """Let states go until the settings' limits are kept."""
        settings = config()
        most = max(settings.undo, 1)
        while state := self._superfluous(most):
            self._let_go(state)
        kept = len(self._states)
        while sum(each.size_bytes for each in self._states) > settings.undo_max_bytes:
            if not (state := self._superfluous(1)):
                break
            self._let_go(state)
        if len(self._states) < kept:
            reporter.note(
                message(
                    "Of {kept} replaced states the newest {count} are kept: together they "
                    "would take more than {size} (PGSNAP['UNDO_MAX_BYTES']).",
                    kept=kept,
                    count=len(self._states),
                    size=format_size(settings.undo_max_bytes),
                )
            )

    def _superfluous(self, most: int) -> Undo | None:
        """Return the state to let go first where more than so many are kept, None to keep all."""
        depth = Counter(_place(each) for state in self._states for each in state.members)
        newer: Counter[Place] = Counter()
        clones: list[Undo] = []
        oldest: list[Undo] = []
        for state in self._states:
            places = [_place(member) for member in state.members]
            # A state is one whole: it goes where nothing of it is out of reach, or the newest.
            if self._reaches(state) and all(newer[place] for place in places):
                if all(depth[place] > most for place in places) and self._is_clone(state):
                    clones.append(state)
                if all(newer[place] >= most for place in places):
                    oldest.append(state)
            newer.update(places)
        return next(reversed(clones or oldest), None)

    def _is_clone(self, state: Undo) -> bool:
        # One whose copy is gone holds what no other database does.
        return all(self._now(each).clone_of in self._copies for each in state.members)

    def _reaches(self, state: Undo) -> bool:
        here = {(c.server, name) for c in self._contexts.values() for name in c.sources}
        is_here = here.issuperset(map(_place, state.members))
        return is_here and state.completeness != "partly outside"

    def _now(self, member: UndoMember) -> UndoRecord:
        return self._changed.get(member.record.database, (member.server, member.record))[1]

    def _let_go(self, state: Undo) -> None:
        self._states.remove(state)
        self._gone += state.members
        for member in state.members:
            self._changed.pop(member.record.database, None)

    def write(self) -> dict[Server, list[str]]:
        """Carry it out, in one transaction per server, and return what is to be dropped."""
        drops: dict[Server, list[str]] = {}
        gone = group_by_server(self._gone)
        for server, context in self._contexts.items():
            members = gone.get(server, [])
            statements: list[Query] = [unpublish(member.record) for member in members]
            statements += [
                rewrite_comment(record) for on, record in self._changed.values() if on == server
            ]
            if statements:
                end_diffs(context.watcher, [member.database.name for member in members])
                context.main.execute(join_statements(statements))
            drops[server] = [to_drop_name(member.record.identity) for member in members]
        return drops


def _place(member: UndoMember) -> Place:
    return member.server, member.record.source
