"""The machine: random histories of commands, compared with the model after every step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from django_pgsnap import (
    PgsnapError,
    Snapshot,
    annotate,
    checkpoint,
    delete,
    pin,
    prune,
    purge,
    rename,
    restore,
    take,
    undo,
)
from tests.histories.model import Copies, Model, Parts, Value, broken_promises
from tests.histories.world import OBSTACLES, SETTINGS, Seen, World

NAMES: Final = st.sampled_from(["m", "n"])
# What loses work, where anything does: short commands in a row, with nobody between them.
TO_AND_FRO: Final = ("work, restore", "work, restore", "restore", "restore", "undo", "undo older")
USE_UP: Final = ("restore", "restore, delete", "restore, delete", "take", "work, take", "delete")
SOURCES: Final = st.sampled_from(["a", "b"])
CHANGES: Final = {
    "row": "INSERT INTO work VALUES ('{number}')",
    "rolled back": "BEGIN; INSERT INTO work VALUES ('{number}'); ROLLBACK",
    "no rows": "TRUNCATE work",
    "table": "CREATE TABLE made_{number} ()",
    "sequence": "SELECT nextval('numbers')",
    "sequence, not called": "SELECT setval('numbers', {number}, false)",
    "large object": "SELECT lo_from_bytea(0, '{number}')",
    "look": "SELECT 1",
}
VERBS: Final[dict[str, Callable[[], object]]] = {"take": take, "restore": restore, "undo": undo}
# Where a client works or no session is left, whatever has to look in is refused. Everything else
# keeps us from looking into the live database, and from nothing more.
IN_USE: Final = ("client at work", "client at work without counters")
MAYBE: Final = ("no slot left",)
# Most of the time there is none.
ANY_OBSTACLE: Final = st.sampled_from([None] * 2 * len(OBSTACLES) + sorted(OBSTACLES))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A block that we are in."""

    block: AbstractContextManager[Snapshot]
    set_id: str
    settings: str


class Histories(RuleBasedStateMachine):
    """Drives commands at random. Each rule says which states its command may lead to."""

    def __init__(self, world: World) -> None:
        """Prepare a history in a world that histories before it may have been in."""
        super().__init__()
        self._world = world
        self._model = Model(live={})
        self._kept = 3
        self._has_room = True
        self._two_servers = False
        self._settings = "both"
        self._number = 0
        self._blocks: list[Checkpoint] = []

    @initialize(
        layout=st.sampled_from(["one database", "two databases", "two servers"]),
        kept=st.sampled_from([1, 2, 3]),
        spare=st.booleans(),
        taken=st.sampled_from([[], ["m"], ["m", "n"], ["m", "n"]]),
        replaced=st.sampled_from([0, 0, 2, 3]),
    )
    def begin(self, layout: str, kept: int, spare: bool, taken: list[str], replaced: int) -> None:
        """Make the databases, and something to restore and to undo."""
        names = ["a"] if layout == "one database" else ["a", "b"]
        self._kept = kept
        self._settings = "first" if layout == "one database" else "both"
        self._two_servers = layout == "two servers"
        self.set_limits(kept, spares=int(spare), has_room=True)
        self._model = Model(live=self._world.begin(names, two_servers=self._two_servers))
        self._world.use(SETTINGS[self._settings])
        for name in taken:
            self.take(name, again=False, spare=spare, obstacle=None)
            for source in names:
                self.write(source, "row", counted=True)
        for name in taken[:1] * replaced:
            self._do("work, restore", name)

    def teardown(self) -> None:
        """Look at all again, and leave the blocks that are still open."""
        try:
            if self._model.live:
                self._under("both")
                self._world.wait_until_quiet()
                self._compare([self._model], self._world.look(afresh=True))
        finally:
            for each in reversed(self._blocks):
                self._under(each.settings)
                with refused():
                    each.block.__exit__(None, None, None)

    # What clients do.

    @rule(source=SOURCES, change=st.sampled_from(sorted(CHANGES)), counted=st.booleans())
    def write(self, source: str, change: str, counted: bool) -> None:
        if source in self._model.live:
            self._number += 1
            statement = CHANGES[change].format(number=self._number)
            value = self._world.write(source, statement, counted=counted)
            self._model = self._model.written(source, value)

    @rule(chosen=st.sampled_from(sorted(SETTINGS)))
    def use_other_settings(self, chosen: str) -> None:
        if "b" in self._model.live:
            self._settings = chosen
            self._world.use(SETTINGS[chosen])

    @rule(
        kept=st.sampled_from([0, 1, 2, 3]),
        spares=st.sampled_from([0, 1, 2]),
        has_room=st.sampled_from([True, True, False]),
    )
    def set_limits(self, kept: int, spares: int, has_room: bool) -> None:
        self._kept, self._has_room = kept, has_room
        limits = {} if has_room else {"UNDO_MAX_BYTES": 1}
        settings.PGSNAP = {"ENABLED": True, "WAIT_S": 5, "UNDO": kept, "SPARES": spares, **limits}

    # Commands.

    @rule(name=NAMES, again=st.booleans(), spare=st.booleans(), obstacle=ANY_OBSTACLE)
    def take(self, name: str, again: bool, spare: bool, obstacle: str | None) -> None:
        sources = self._sources
        same = self._named(name)
        is_refused = bool(same) and not again
        beyond = any(not each.parts.keys() <= set(sources) for each in same.values())
        self._attempt(
            lambda: take(name, replace=again, spare=spare, wait_s=self._wait_s(obstacle)),
            [] if is_refused or beyond else [self._model.taken(name, sources, same)],
            obstacle=obstacle,
            touched=sources,
            may_refuse=self._is_taken_elsewhere(name) or len(same) > 1,
        )

    @rule(name=NAMES | st.none(), keep=st.booleans(), part=st.booleans(), obstacle=ANY_OBSTACLE)
    def restore(self, name: str | None, keep: bool, part: bool, obstacle: str | None) -> None:
        sources = self._sources[:1] if part else self._sources
        found = self._named(name, sources)
        outcomes = []
        for each in found.values():
            parts = {source: each.parts[source] for source in sources if source in each.parts}
            if part or parts == each.parts:
                is_kept = keep and self._kept > 0
                after = self._model.restored(parts, keep=is_kept, in_doubt=obstacle is not None)
                outcomes.append(replace(after, reached=frozenset(sources)))
        self._attempt(
            lambda: restore(
                name,
                databases=["default"] if part else None,
                undo=None if keep else False,
                wait_s=self._wait_s(obstacle),
            ),
            outcomes,
            obstacle=obstacle,
            touched=[source for each in found.values() for source in each.parts],
            may_refuse=len(found) > 1,
        )

    @rule(words=st.lists(st.sampled_from(TO_AND_FRO), min_size=2, max_size=6), name=NAMES)
    def go_to_and_fro(self, words: list[str], name: str) -> None:
        """Something is done, and is to be gone again, and there again."""
        for each in words:
            self._do(each, name)

    @rule(
        words=st.lists(st.tuples(st.sampled_from(USE_UP), NAMES), min_size=2, max_size=5),
    )
    def use_up(self, words: list[tuple[str, str]]) -> None:
        """Snapshots are restored, and gone soon after."""
        for each, name in words:
            self._do(each, name)

    def _do(self, words: str, name: str) -> None:
        """Carry out short commands, with nothing in their way."""
        for word in words.split(", "):
            if word == "work":
                self.write(self._sources[0], "row", counted=True)
            elif word == "restore":
                self.restore(name, keep=True, part=False, obstacle=None)
            elif word == "take":
                self.take(name, again=True, spare=False, obstacle=None)
            elif word == "delete":
                self.delete(name)
            else:
                self.undo(2 if word == "undo older" else 1, obstacle=None)

    @rule(number=st.sampled_from([1, 1, 2, 3]), obstacle=ANY_OBSTACLE)
    def undo(self, number: int, obstacle: str | None) -> None:
        seen = [each for each in self._model.undos if each.keys() & set(self._sources)]
        wanted = seen[number - 1] if number <= len(seen) else None
        self._attempt(
            lambda: undo(number, wait_s=self._wait_s(obstacle)),
            [self._model.undone(wanted, in_doubt=obstacle is not None)] if wanted else [],
            obstacle=obstacle,
            touched=wanted or (),
            may_refuse=wanted is not None and not wanted.keys() <= set(self._sources),
        )

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        def is_free(renamed: str, each: Copies) -> bool:
            wanted = {*self._sources, *each.parts}
            return not any(
                set_id != renamed and other.name == new and other.parts.keys() & wanted
                for set_id, other in self._model.snapshots.items()
            )

        found = self._named(old)
        self._attempt_on_whole(
            lambda: rename(old, new),
            {key: each for key, each in found.items() if is_free(key, each)},
            lambda each: replace(each, name=new),
            may_refuse=self._is_taken_elsewhere(new) or len(found) > 1,
        )

    @rule(name=NAMES, pinned=st.none() | st.booleans(), note=st.sampled_from(["", "x", "y"]))
    def pin_or_annotate(self, name: str, pinned: bool | None, note: str) -> None:
        found = self._named(name)
        if pinned is None:
            command, change = partial(annotate, name, note), partial(replace, note=note)
        else:
            command, change = partial(pin, name, pinned=pinned), partial(replace, pinned=pinned)
        self._attempt_on_whole(command, found, change)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        found = self._named(name)
        self._attempt(
            lambda: delete(name),
            # A pinned one would have to be deleted by force.
            [self._model.without(set_id) for set_id, each in found.items() if not each.pinned],
            may_refuse=len(found) > 1 or self._has_parts_outside(found.values()),
        )

    @rule(keep=st.sampled_from([0, 1, 2]))
    def prune(self, keep: int) -> None:
        loose = [
            set_id
            for set_id, each in self._model.snapshots.items()
            if self._reaches(each.parts) and not each.pinned
        ]
        after = self._model
        for set_id in loose[: len(loose) - keep]:
            after = after.without(set_id)
        self._attempt(lambda: prune(keep=keep), [after])

    @rule()
    def drop_undos(self) -> None:
        left = tuple(each for each in self._model.undos if not self._reaches(each))
        self._attempt(lambda: purge({"undo"}), [replace(self._model, undos=left)])

    def _reaches(self, parts: Parts) -> bool:
        """Tell whether the settings name one of these databases, and the servers of all of them."""
        named = parts.keys() & set(self._sources)
        return bool(named) and (named == parts.keys() or not self._two_servers)

    @rule()
    def enter_checkpoint(self) -> None:
        if any(each.settings != self._settings for each in self._blocks):
            return
        block = checkpoint()
        snapshot = block.__enter__()
        taken = self._model.taken(snapshot.name, self._sources)
        pinned = replace(taken.snapshots[""], pinned=True)
        self._blocks.append(
            Checkpoint(block=block, set_id=snapshot.set_id, settings=self._settings)
        )
        self._settle([taken.changed("", pinned)])

    @precondition(lambda self: self._blocks and self._blocks[-1].settings == self._settings)
    @rule()
    def leave_checkpoint(self) -> None:
        last = self._blocks.pop()
        parts = self._model.snapshots[last.set_id].parts
        taken_back = self._model.without(last.set_id)
        after = taken_back.restored(parts, keep=self._kept > 0, in_doubt=False)
        last.block.__exit__(None, None, None)
        # The very copy may have come in, so there is no other.
        self._settle([after])

    @rule(command=st.sampled_from(["list", "doctor", "doctor --fix", "refill", *VERBS]))
    def change_nothing(self, command: str) -> None:
        """Other commands change nothing that a user sees, nor do those that have to refuse."""
        if command in VERBS:
            self._refuse_open_transaction(VERBS[command])
        else:
            with refused():
                call_command("pgsnap", *command.split(), verbosity=0)
        self._settle([self._model])

    def _refuse_open_transaction(self, command: Callable[[], object]) -> None:
        """Django has a transaction open, without `atomic`."""
        source = self._sources[0]
        self._number += 1
        transaction.set_autocommit(False)
        try:
            connections["default"].cursor().execute(CHANGES["row"].format(number=self._number))
            with refused() as refusal:
                command()
            assert refusal, "the open transaction was discarded"
            transaction.commit()
        finally:
            connections["default"].close()
        self._model = self._model.written(source, self._world.write(source, "SELECT 1"))
        assert f"{self._number}" in self._model.live[source].value, "the transaction was discarded"

    # How outcomes are compared.

    def _attempt(
        self,
        command: Callable[[], object],
        outcomes: list[Model],
        *,
        obstacle: str | None = None,
        touched: Iterable[str] = (),
        may_refuse: bool = False,
    ) -> None:
        """Run a command, and compare what it led to; refused, it has changed nothing.

        Args:
            command: What to run.
            outcomes: What it may lead to.
            obstacle: What is in the way to the first of the live databases meanwhile.
            touched: The live databases whose clients are in its way.
            may_refuse: Whether it may also refuse.
        """
        source = self._sources[0]
        with self._world.obstacle(obstacle, source), refused() as refusal:
            command()
        if obstacle in IN_USE:
            self._model, *outcomes = (
                each.written(source, each.live[source].value) for each in (self._model, *outcomes)
            )
            outcomes = [] if source in touched else outcomes
        if refusal:
            assert may_refuse or obstacle in MAYBE or not outcomes, refusal[0]
            self._settle([self._model])
        else:
            assert outcomes, "it should have been refused"
            self._settle(outcomes)

    def _attempt_on_whole(
        self,
        command: Callable[[], object],
        found: dict[str, Copies],
        change: Callable[[Copies], Copies],
        *,
        may_refuse: bool = False,
    ) -> None:
        self._attempt(
            command,
            [self._model.changed(set_id, change(each)) for set_id, each in found.items()],
            may_refuse=may_refuse or len(found) > 1 or self._has_parts_outside(found.values()),
        )

    def _settle(self, outcomes: list[Model]) -> None:
        """Find out which of the outcomes it is, and go on from there."""
        used = self._settings
        self._under("both")
        self._model = self._compare(outcomes, self._world.look())
        self._under(used)

    def _compare(self, outcomes: list[Model], seen: Seen) -> Model:
        wrong = []
        for each in outcomes:
            outcome = _with_new_id(each, seen)
            problems = list(_differences(outcome, seen))
            if not problems:
                most = max(self._kept, 1) if self._has_room else 1
                problems = list(broken_promises(outcome, seen.undos, most))
            if not problems:
                return _adopted(outcome, seen)
            wrong.append("; ".join(problems))
        raise AssertionError("\n".join(wrong))

    def _under(self, chosen: str) -> None:
        """Use a settings file, as far as its databases are there."""
        if "b" in self._model.live:
            self._settings = chosen
            self._world.use(SETTINGS[chosen])

    @property
    def _sources(self) -> list[str]:
        """The live databases that the settings name."""
        return list(SETTINGS[self._settings].values())

    def _named(self, name: str | None, sources: Iterable[str] = ()) -> dict[str, Copies]:
        """Return the snapshots that a name may mean under the settings; None for the newest."""
        wanted = set(sources or self._sources)
        seen = {
            set_id: each
            for set_id, each in self._model.snapshots.items()
            if each.parts.keys() & wanted
        }
        if name is None:
            # They are in the order in which they were taken.
            return dict(list(seen.items())[-1:])
        return {set_id: each for set_id, each in seen.items() if each.name == name}

    def _is_taken_elsewhere(self, name: str) -> bool:
        """Tell whether a snapshot of that name is out of sight, so that one may be careful."""
        return any(
            each.name == name and not each.parts.keys() & set(self._sources)
            for each in self._model.snapshots.values()
        )

    def _has_parts_outside(self, found: Iterable[Copies]) -> bool:
        return any(not each.parts.keys() <= set(self._sources) for each in found)

    @staticmethod
    def _wait_s(obstacle: str | None) -> float | None:
        return 0 if obstacle in IN_USE else None


@contextmanager
def refused() -> Iterator[list[Exception]]:
    """Yield a list that has the refusal in the end, if there is one; other errors are faults."""
    refusals: list[Exception] = []
    try:
        yield refusals
    except (PgsnapError, CommandError) as error:
        refusals.append(error)


def _with_new_id(outcome: Model, seen: Seen) -> Model:
    """Give a new snapshot the id that it has."""
    new = seen.snapshots.keys() - outcome.snapshots.keys()
    if "" not in outcome.snapshots or len(new) != 1:
        return outcome
    known = dict(outcome.snapshots)
    known[new.pop()] = known.pop("")
    return replace(outcome, snapshots=known)


def _differences(outcome: Model, seen: Seen) -> Iterator[str]:
    live = _values(outcome.live)
    if live != seen.live:
        yield f"live: {seen.live} instead of {live}"
    for set_id in outcome.snapshots.keys() | seen.snapshots.keys():
        promised, found = outcome.snapshots.get(set_id), seen.snapshots.get(set_id)
        if promised is None or found is None or _facts(promised) != _facts(found):
            yield f"snapshot {set_id}: {found} instead of {promised}"


def _facts(each: Copies) -> tuple[Any, ...]:
    return each.name, each.note, each.pinned, _values(each.parts)


def _values(parts: Parts) -> dict[str, Value]:
    return {source: state.value for source, state in parts.items()}


def _adopted(outcome: Model, seen: Seen) -> Model:
    """Return the model to go on with, which has only those undos that are kept."""
    left = list(outcome.undos)
    kept: list[Parts] = []
    for values in reversed(seen.undos):
        while left and _values(left[-1]) != values:
            left.pop()
        kept.insert(0, left.pop())
    return replace(outcome, undos=tuple(kept), gone=(), is_front_kept=False, reached=frozenset())
