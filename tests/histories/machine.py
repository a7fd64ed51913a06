"""The machine: random histories of commands, compared with the model after every step."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Final
from unittest.mock import patch

from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from django_pgsnap import (
    annotate,
    checkpoint,
    delete,
    list_snapshots,
    pin,
    prune,
    purge,
    rename,
    restore,
    take,
    undo,
)
from django_pgsnap.management.commands import pgsnap
from django_pgsnap.snapshots import before_migrate
from tests.histories.driver import Checkpoint, Driver, refused
from tests.histories.model import Copies, Model, Parts
from tests.histories.world import OBSTACLES, SETTINGS

NAMES: Final = st.sampled_from(["m", "n"])
# What loses work, where anything does: short commands in a row, with nobody between them.
TO_AND_FRO: Final = (
    *("work, restore", "work, restore", "restore", "restore", "undo", "undo older"),
    *("unseen work, restore", "work, restore a part", "work, restore under other settings"),
)
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
# What the server counts no row of, whoever does it.
UNCOUNTED: Final = ("sequence", "sequence, not called", "look")
VERBS: Final[dict[str, Callable[[], object]]] = {"take": take, "restore": restore, "undo": undo}
# Most of the time there is none.
ANY_OBSTACLE: Final = st.sampled_from([None] * 2 * len(OBSTACLES) + sorted(OBSTACLES))


class Histories(Driver):
    """Drives commands at random. Each rule says which states its command may lead to."""

    @initialize(
        layout=st.sampled_from(["one database", "two databases", "two servers"]),
        kept=st.sampled_from([1, 2, 3]),
        spare=st.booleans(),
        taken=st.sampled_from([[], ["m"], ["m", "n"], ["m", "n"]]),
        replaced=st.sampled_from([0, 0, 2, 3]),
        apart=st.booleans(),
    )
    def begin(
        self, *, layout: str, kept: int, spare: bool, taken: list[str], replaced: int, apart: bool
    ) -> None:
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
        # As many of one database as are kept, in front of those of both.
        for name in taken[:1] * kept * apart:
            self._do("work, restore a part", name)

    # What clients do.

    @rule(source=SOURCES, change=st.sampled_from(sorted(CHANGES)), counted=st.booleans())
    def write(self, source: str, change: str, counted: bool) -> None:
        if source in self._model.live:
            self._number += 1
            statement = CHANGES[change].format(number=self._number)
            value = self._world.write(source, statement, counted=counted)
            is_seen = counted and change not in UNCOUNTED
            self._model = self._model.written(source, value, is_seen=is_seen)

    @rule(source=SOURCES)
    def hand_over(self, source: str) -> None:
        """A live database gets another owner, of whom our role is a member."""
        if source in self._model.live:
            self._world.hand_over(source)
            self._settle([self._model])

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
        for set_id, each in found.items():
            parts = {source: each.parts[source] for source in sources if source in each.parts}
            if part or parts == each.parts:
                is_kept = keep and self._kept > 0
                after = self._model.restored(
                    set_id, parts, keep=is_kept, in_doubt=obstacle is not None
                )
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
        if not self._named(name):
            # Of the other name there may be one.
            name = "n" if name == "m" else "m"
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
            elif word == "unseen work":
                self.write(self._sources[0], "sequence", counted=True)
            elif word.startswith("restore"):
                used = self._settings
                self._under("first" if word == "restore under other settings" else used)
                self.restore(name, keep=True, part=word == "restore a part", obstacle=None)
                self._under(used)
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

    @precondition(lambda self: not self._blocks)
    @rule()
    def purge(self) -> None:
        after = self._model
        for set_id, each in self._model.snapshots.items():
            if self._reaches(each.parts):
                after = after.without(set_id)
        left = tuple(each for each in self._model.undos if not self._reaches(each))
        self._attempt(purge, [replace(after, undos=left)])

    @rule(ends=st.sampled_from(["kept", "taken back", "failed"]))
    def run_live(self, ends: str) -> None:
        """A command runs on the live databases, and is taken back if somebody says so."""
        before = {source: self._model.live[source] for source in self._sources}

        def work(*_: object, stdout: int | None) -> int:
            self.write(self._sources[0], "row", counted=True)
            return int(ends == "failed")

        with (
            patch.object(pgsnap, "run_command", work),
            patch.object(sys.stdin, "isatty", lambda: ends == "taken back"),
            patch.object(pgsnap.Command, "_answer", lambda *_: "n"),
            suppress(SystemExit),
            refused() as refusal,
        ):
            call_command("pgsnap", "run", "--live", "--", "work", verbosity=0, stdout=StringIO())
        after = self._model
        # What clients have made may be nothing that our role can compare.
        assert not refusal or "may not read" in str(refusal[0]), refusal[0]
        if ends == "failed" or refusal:
            name = list_snapshots()[0].name
            after = after.with_snapshot(Copies(name=name, parts=before, pinned=True))
        elif ends == "taken back":
            after = after.restored("", before, keep=self._kept > 0)
        self._settle([after])

    @rule()
    def migrate(self) -> None:
        """A snapshot of one database is taken by itself, and the one before it goes."""
        source = self._sources[0]
        settings.PGSNAP["BEFORE_MIGRATE"] = True
        before_migrate._migrated.clear()  # as if it were another process
        before_migrate._take_before(using="default", plan=[object()])
        name = list_snapshots(databases=["default"])[0].name
        taken = Copies(
            name=name, parts={source: self._model.live[source]}, note=before_migrate._NOTE
        )
        after = self._model
        for set_id, each in self._model.snapshots.items():
            if each.note == taken.note and each.parts.keys() == taken.parts.keys():
                after = after.without(set_id)
        self._settle([after.with_snapshot(taken)])

    @precondition(lambda self: not self._two_servers)
    @rule(verb=st.sampled_from(sorted(VERBS)), name=NAMES, after_ms=st.integers(0, 150))
    def kill(self, verb: str, name: str, after_ms: int) -> None:
        """A command is killed, wherever it is: what it does is done as a whole, or not at all."""
        sources, before = set(self._sources), self._model
        found = self._named(name)
        wholes = {key: each.parts for key, each in found.items() if each.parts.keys() <= sources}
        undos = [each for each in before.undos if each.keys() & sources]
        command: Callable[[], object]
        if verb == "take":
            command = partial(take, name, replace=True)
            outcomes = [before.taken(name, self._sources, found)] * (len(wholes) == len(found))
        elif verb == "restore":
            command = partial(restore, name)
            keep = self._kept > 0
            outcomes = [before.restored(*each, keep=keep) for each in wholes.items()]
        else:
            command = undo
            outcomes = [
                before.undone(each, in_doubt=False) for each in undos[:1] if each.keys() <= sources
            ]
        self._world.kill(command, after_ms)
        self._settle([before, *outcomes])
        self._model = self._model.doubted(sources)

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
        after = taken_back.restored(last.set_id, parts, keep=self._kept > 0)
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
