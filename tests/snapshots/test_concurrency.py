"""Two commands at once: each waits its turn, and the outcome is that of one after the other."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import pytest
from django.conf import settings as django_settings
from django.db import connection

from django_pgsnap.conf import Config
from django_pgsnap.errors import (
    PgsnapError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    SnapshotPinnedError,
)
from django_pgsnap.snapshots.manage import delete, pin, refill, rename
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive
from tests.project import Manage, child_environment
from tests.servers import Server
from tests.watching import Background, authors, oids, settle, write

Rows = frozenset[str]
Errors = tuple[type[PgsnapError] | None, type[PgsnapError] | None]


@dataclass(frozen=True, kw_only=True)
class State:
    """What a project's user can tell of it.

    Attributes:
        live: The rows of the live database.
        undo: The rows of the undo.
        written: Whether the live database was written since it was put in place.
        snapshots: The rows of each snapshot, by name.
        pinned: Names of the pinned snapshots.
    """

    live: Rows
    undo: Rows
    written: bool = True
    snapshots: dict[str, Rows] = field(default_factory=dict)
    pinned: Rows = frozenset()


# What a command makes of a state: an error's class, or the states that it may lead to.
Outcome = type[PgsnapError] | list[State]


def after_take(state: State) -> Outcome:
    return SnapshotExistsError if "a" in state.snapshots else after_replacement(state)


def after_replacement(state: State) -> Outcome:
    others = {name: rows for name, rows in state.snapshots.items() if name != "a"}
    return [replace(state, snapshots={**others, "a": state.live}, pinned=state.pinned - {"a"})]


def after_restore(state: State) -> Outcome:
    if "a" not in state.snapshots:
        return SnapshotNotFoundError
    restored = replace(state, live=state.snapshots["a"], written=False)
    kept = replace(restored, undo=state.live)
    # What nobody wrote is dropped, and the older undo kept; in doubt it counts as written.
    return [kept] if state.written else [restored, kept]


def after_undo(state: State) -> Outcome:
    return [replace(state, live=state.undo, undo=state.live, written=True)]


def after_rename(state: State) -> Outcome:
    if "a" not in state.snapshots:
        return SnapshotNotFoundError
    if "b" in state.snapshots:
        return SnapshotExistsError
    named = {"b" if name == "a" else name: rows for name, rows in state.snapshots.items()}
    pinned = frozenset("b" if name == "a" else name for name in state.pinned)
    return [replace(state, snapshots=named, pinned=pinned)]


def after_pin(state: State) -> Outcome:
    if "a" not in state.snapshots:
        return SnapshotNotFoundError
    return [replace(state, pinned=state.pinned | {"a"})]


def after_delete(state: State) -> Outcome:
    if "a" not in state.snapshots:
        return SnapshotNotFoundError
    if "a" in state.pinned:
        return SnapshotPinnedError
    others = {name: rows for name, rows in state.snapshots.items() if name != "a"}
    return [replace(state, snapshots=others)]


def after_refill(state: State) -> Outcome:
    return [state] if "a" in state.snapshots else SnapshotNotFoundError


def after_list(state: State) -> Outcome:
    return [state]


COMMANDS: dict[str, tuple[Callable[[], object], Callable[[State], Outcome]]] = {
    "take": (lambda: take("a"), after_take),
    "take --replace": (lambda: take("a", replace=True), after_replacement),
    "restore": (lambda: restore("a"), after_restore),
    "undo": (undo, after_undo),
    "rename": (lambda: rename("a", "b"), after_rename),
    "pin": (lambda: pin("a"), after_pin),
    "delete": (lambda: delete("a"), after_delete),
    "refill": (lambda: refill("a"), after_refill),
    "list": (list_snapshots, after_list),
}


def one_after_the_other(state: State, first: str, second: str) -> Iterator[tuple[Errors, State]]:
    """Yield how two commands may end in either order: their errors, and the state."""
    for error, between in _ends(state, first):
        for other_error, after in _ends(between, second):
            yield (error, other_error), after
    for other_error, between in _ends(state, second):
        for error, after in _ends(between, first):
            yield (error, other_error), after


def _ends(state: State, command: str) -> Iterator[tuple[type[PgsnapError] | None, State]]:
    outcome = COMMANDS[command][1](state)
    if isinstance(outcome, list):
        yield from ((None, after) for after in outcome)
    else:
        yield outcome, state


def at_once(*functions: Callable[[], object]) -> list[PgsnapError | None]:
    """Run functions at the same time, and return what each raised."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> PgsnapError | None:
        barrier.wait()
        try:
            function()
        except PgsnapError as error:
            return error
        return None

    threads = [Background(partial(run, function)) for function in functions]
    return [cast("PgsnapError | None", thread.result()) for thread in threads]


class Walk:
    """Goes from state to state, and knows all those that it may be in."""

    def __init__(self) -> None:
        """Begin with an undo and a snapshot."""
        take("a")
        write("replaced")
        restore("a")
        self._steps = itertools.count(1)
        self._states = [State(live=frozenset(), undo=frozenset({"replaced"}), written=False)]
        self._states = [replace(self._states[0], snapshots={"a": frozenset()})]

    def make_ready(self) -> None:
        """See that there is a snapshot a and no b, and that the live database has a new row."""
        present = {each.name for each in list_snapshots()}
        if "b" in present:
            delete("b", force=True)
            self._states = [_without_b(state) for state in self._states]
        if "a" not in present:
            self.step("take", "list")
        row = f"row {next(self._steps)}"
        write(row)
        self._states = [
            replace(state, live=state.live | {row}, written=True) for state in self._states
        ]

    def step(self, first: str, second: str) -> None:
        """Run two commands at once, and see that it might have been one after the other."""
        raised = at_once(COMMANDS[first][0], COMMANDS[second][0])
        errors = tuple(None if error is None else type(error) for error in raised)
        found = list_snapshots()
        rows = frozenset(authors())
        connection.close()

        possible = [
            (expected, state)
            for before in self._states
            for expected, state in one_after_the_other(before, first, second)
        ]
        states = [
            state
            for expected, state in possible
            if expected == errors
            and state.live == rows
            and set(state.snapshots) == {each.name for each in found}
            and state.pinned == {each.name for each in found if each.pinned}
        ]

        assert states, f"{first} and {second} at once: {raised}, {found}, not in {possible}"
        self._states = states


def _without_b(state: State) -> State:
    others = {name: rows for name, rows in state.snapshots.items() if name != "b"}
    return replace(state, snapshots=others, pinned=state.pinned - {"b"})


@pytest.mark.parametrize("first", COMMANDS)
def test_two_commands_at_once(first: str, live: str, server: Server) -> None:
    """Any two commands at once end as if one had come after the other, spares and drops under way.

    What the command before sent off is not waited for, so that the server is still at it.
    """
    walk = Walk()

    names = list(COMMANDS)
    for second in names[names.index(first) :]:
        walk.make_ready()
        walk.step(first, second)

    left = {each.name: each for each in settle(server)}
    needed = {live, *(member.database.name for each in list_snapshots() for member in each.members)}
    assert needed <= set(left)
    take("last", spare=False)
    kinds = Counter(name[:-16] for name in oids(settle(server)) if name.startswith("pgsnap_"))
    assert kinds["pgsnap_"] == len(list_snapshots())
    assert 1 <= kinds["pgsnap_undo_"] <= Config.undo
    assert kinds["pgsnap_spare_"] <= Config.spares
    assert set(kinds) <= {"pgsnap_", "pgsnap_undo_", "pgsnap_spare_"}


def test_two_projects_on_one_server(
    make_live: MakeLive, manage: Manage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects do not see each other's snapshots, though they call them the same."""
    del django_settings.DATABASES["other"]
    environments = {}
    for author in ("Ursula", "Stanisław"):
        make_live()
        write(author)
        environments[author] = child_environment()

    def work(author: str) -> list[str]:
        return [
            manage("pgsnap", *words, env=environments[author]).stderr
            for words in (
                ["take", "seeded"],
                ["restore"],
                ["delete", "seeded", "--no-input"],
                ["take", "seeded", "--no-spare"],
            )
        ]

    with ThreadPoolExecutor() as pool:
        said = list(pool.map(work, environments))

    assert said == [[""] * 4] * 2
    for author, environment in environments.items():
        listed = json.loads(manage("pgsnap", "list", "--json", env=environment).stdout)
        assert [each["name"] for each in listed["snapshots"]] == ["seeded"]
        rows = json.loads(manage("dumpdata", "testapp.Author", env=environment).stdout)
        assert [row["fields"]["name"] for row in rows] == [author]
