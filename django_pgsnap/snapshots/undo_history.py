"""Which replaced states are kept: the rule behind undo, in one place.

Every restore and every undo puts what was live in front of the list of replaced states, for all its
databases together. Then, and only then, states go:

1. What a restore has just replaced, if it is for sure exactly a copy that is still there: it was
   put in place as a clone of that copy, and no session and no transaction was there since.
2. While there are more states than ``PGSNAP["UNDO"]`` names, or than ``UNDO_MAX_BYTES`` has room
   for: the oldest one that is a clone of a copy that is still there, and in which the server
   counted no write since; where there is none, the oldest one. The newest always stays.

If it stops before this, a state too many is kept, and the next restore or undo lets it go. In doubt
about anything a state counts as written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import django
import psycopg

from ..clones.catalog import AnyDatabase
from ..clones.names import new_identity, to_drop_name
from ..clones.records import Record, UndoRecord
from ..clones.transitions import rewrite_comment, unpublish
from ..conf import config
from ..errors import PgsnapError
from ..messages import format_size, message
from ..postgres.backends import end_diffs
from ..postgres.inspection import DatabaseCounters, read_counters
from ..postgres.server import Server
from ..postgres.targets import Target, group_by_server
from ..reporting import Reporter
from .context import ServerContext, execute_together, find_undos
from .types import Undo, UndoMember

# A live database: its server and its name.
Place = tuple[Server, str]
# What a replaced state notes of the database that took its place: those fields of its record.
Successor = dict[str, Any]


def describe_successor(
    database: AnyDatabase, record: Record, counters: DatabaseCounters
) -> Successor:
    """Describe a database that comes in, standing for a copy or for a replaced state."""
    clone_of = copy_of = ""
    based_on = record.name
    if isinstance(record, UndoRecord):
        clone_of, copy_of, based_on = record.clone_of, record.copy_of, record.based_on
    elif counters.are_zero:
        # Otherwise it is a clone on which somebody has been.
        clone_of = copy_of = record.identity
    return {
        "successor_oid": database.oid,
        "successor_clone_of": clone_of,
        "successor_copy_of": copy_of,
        "successor_based_on": based_on,
        "statistics_epoch": counters.epoch,
        "successor_sessions": counters.sessions,
        "successor_transactions": counters.transactions,
        "successor_rows": counters.rows,
    }


def plan_replaced_state(
    contexts: Sequence[ServerContext],
    live: Sequence[tuple[ServerContext, Target, str]],
    *,
    by_undo: bool,
) -> dict[Place, UndoRecord]:
    """Return what each part of a state that is about to be replaced shall know of itself.

    ``live`` are its databases, each with the name of the snapshot that is about to replace it. It
    is dated after all that is kept already, whatever became of the clock.
    """
    newest = find_newest(contexts)
    later = [record.taken_at + timedelta(microseconds=1) for record in newest.values()]
    moment = max([contexts[0].read_clock(), *later])
    common: dict[str, Any] = {
        "set_id": new_identity(),
        "members": len(live),
        "parts": tuple(context.part(target) for context, target, _ in live),
        "taken_at": moment,
        "successor_since": moment,
        "by_undo": by_undo,
        "django": django.get_version(),
    }
    found = {}
    for context, target, name in live:
        place = context.server, target.name
        before = newest.get(place)
        is_known = before is not None and before.successor_oid == context.live(target).oid
        found[place] = UndoRecord(
            identity=new_identity(),
            name=name,
            alias=target.alias,
            source=target.name,
            size_bytes=0,
            postgresql=context.watcher.server_release,
            based_on=before.successor_based_on if before and is_known else "",
            **common,
        )
    return found


def find_newest(contexts: Sequence[ServerContext]) -> dict[Place, UndoRecord]:
    """Return the newest replaced state of each live database, which knows what is live now."""
    kept = [
        ((context.server, undo.record.source), undo.record)
        for context in contexts
        for undo in context.catalog.undos(context.sources)
    ]
    return dict(sorted(kept, key=lambda each: each[1].taken_at))


def settle_history(
    before: Sequence[ServerContext],
    replaced: Mapping[Place, UndoRecord],
    successors: Mapping[Place, Successor],
) -> list[tuple[Server, str]]:
    """Let go of the states that the rule does not keep, after a swap.

    ``before`` are the servers as they were before it, ``replaced`` what the live databases have
    become if they are kept, ``successors`` what is live now. Returned is what is to be dropped, and
    on which server.
    """
    try:
        history = _History([context.reloaded() for context in before])
        part = next(iter(replaced.values()), None)
        if part is not None:
            history.judge(part, find_newest(before))
        since = before[0].read_clock() if part is None else part.taken_at
        history.note_successors(successors, since)
        history.trim(before[0].reporter)
        return history.write()
    except (PgsnapError, psycopg.Error) as error:
        before[0].reporter.warn(
            message(
                "Done, but more replaced states are kept than need be: {cause}. The next "
                "restore makes up for it.",
                cause=str(error).strip().removesuffix("."),
            )
        )
        return []


class _History:
    def __init__(self, contexts: Sequence[ServerContext]) -> None:
        self._contexts = {context.server: context for context in contexts}
        self._states = find_undos(contexts)
        self._copies = {copy.record.identity for context in contexts for copy in context.copies()}
        self._gone: list[UndoMember] = []
        self._changed: dict[str, UndoRecord] = {}

    def judge(self, replaced: UndoRecord, known: Mapping[Place, UndoRecord]) -> None:
        """Find out what is known of the state that was just replaced; let it go if it is a copy.

        ``replaced`` is a part of it, ``known`` the newest state of each database before the swap.
        """
        state = next((each for each in self._states if each.set_id == replaced.set_id), None)
        if state is None:
            return  # somebody has dropped it
        judged = [self._judged(member, known.get(_place(member))) for member in state.members]
        self._changed |= {record.database: record for record in judged}
        if not replaced.by_undo and all(record.copy_of for record in judged):
            self._let_go(state)

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
        visits = found.sessions, found.transactions
        untouched = visits == (known.successor_sessions, known.successor_transactions)
        is_copy = untouched and known.successor_copy_of in self._copies
        return replace(
            record,
            clone_of=known.successor_clone_of,
            copy_of=known.successor_copy_of if is_copy else "",
        )

    def note_successors(self, successors: Mapping[Place, Successor], since: datetime) -> None:
        """Have the newest state of each database know what is live instead, and since when."""
        members = [member for state in reversed(self._states) for member in state.members]
        newest = {_place(member): member for member in members}
        for place in successors.keys() & newest.keys():
            now = self._now(newest[place])
            noted = replace(now, successor_since=since, **successors[place])
            self._changed[noted.database] = noted

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
                    "Replaced states let go: {gone} of {kept}, which would take more than {size} "
                    "together (PGSNAP['UNDO_MAX_BYTES']).",
                    gone=kept - len(self._states),
                    kept=kept,
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
            is_here = state.completeness != "partly outside"
            if is_here and all(newer[place] for place in places):
                if all(depth[place] > most for place in places) and self._is_clone(state):
                    clones.append(state)
                if all(newer[place] >= most for place in places):
                    oldest.append(state)
            newer.update(places)
        return next(reversed(clones or oldest), None)

    def _is_clone(self, state: Undo) -> bool:
        # One whose copy is gone holds what no other database does.
        return all(self._now(each).clone_of in self._copies for each in state.members)

    def _now(self, member: UndoMember) -> UndoRecord:
        return self._changed.get(member.record.database, member.record)

    def _let_go(self, state: Undo) -> None:
        self._states.remove(state)
        self._gone += state.members

    def write(self) -> list[tuple[Server, str]]:
        """Carry it out, in one transaction per server, and return what is to be dropped."""
        for server, members in group_by_server(self._gone).items():
            names = [member.database.name for member in members]
            end_diffs(self._contexts[server].watcher, names)
        statements = [(member.server, unpublish(member.record)) for member in self._gone]
        statements += [
            (member.server, rewrite_comment(now))
            for state in self._states
            for member in state.members
            if (now := self._now(member)) != member.record
        ]
        execute_together((self._contexts[server], each) for server, each in statements)
        return [(each.server, to_drop_name(each.record.identity)) for each in self._gone]


def _place(member: UndoMember) -> Place:
    return member.server, member.record.source
