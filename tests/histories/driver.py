"""The driver: runs one command after the other, and compares what each led to with the model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from django.core.management import CommandError
from hypothesis.stateful import RuleBasedStateMachine

from django_pgsnap import PgsnapError, Snapshot
from tests.histories.model import Copies, Model, Parts, Value, broken_promises
from tests.histories.world import SETTINGS, Seen, World

# Where a client works or no session is left, whatever has to look in is refused. Everything else
# keeps us from looking into the live database, and from nothing more.
IN_USE: Final = ("client at work", "client at work without counters")
MAYBE: Final = ("no slot left",)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A block that we are in."""

    block: AbstractContextManager[Snapshot]
    set_id: str
    settings: str


class Driver(RuleBasedStateMachine):
    """Knows the world, the model of it, and the settings in use; whoever derives it has rules."""

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
                each.written(source, each.live[source].value, is_seen=False)
                for each in (self._model, *outcomes)
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
    after = replace(outcome, undos=tuple(kept), gone=(), is_front_kept=False, reached=frozenset())
    # The newest replaced state knows what has taken its place.
    return after.doubted(after.live.keys() - {source for parts in kept for source in parts})
