"""A replacement: other databases take the place of the live ones of one server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from .. import (
    carryover,
    catalog,
    locks,
    obstacles,
    properties,
    reconnect,
    rights,
    written,
)
from ..conf import config
from ..errors import ServerUnavailableError
from ..eviction import Evictor
from ..properties import Properties
from ..report import Reporter
from ..session import Session
from ..supervise import begin
from ..swap import SetUpMeanwhileError, Swap, WrittenMeanwhileError, perform
from . import outgoing
from .incoming import Incoming
from .outgoing import Circumstances, UndoSet
from .parts import size_bytes
from .site import Site

_POLL_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Request:
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
        site: Site,
        incoming: Sequence[Incoming],
        request: Request,
        undo: UndoSet | None,
        reporter: Reporter,
    ) -> None:
        self.site = site
        self._incoming = incoming
        self._request = request
        self._undo = undo
        self._reporter = reporter
        self._names = [each.target.name for each in incoming if each.target.name in site.catalog]
        self.evictor = Evictor(
            site.watcher,
            self._names,
            wait_s=request.wait_s,
            force=request.force,
            reporter=reporter,
        )
        self._was_empty = False
        self._properties: dict[str, tuple[Properties, Properties]] = {}
        self._circumstances: dict[str, Circumstances] = {}
        self._swaps: list[Swap] = []

    @property
    def drops(self) -> list[str]:
        """Databases that nobody needs any more."""
        return [name for swap in self._swaps for name in swap.drops]

    def check(self) -> None:
        # Two sessions are asked at once: new ones have to fill their caches.
        checking = begin(self._check)
        try:
            self._read_properties()
        finally:
            checking.result()

    def _check(self) -> None:
        """Look for what stands in the way, and at what a new undo tells of the live databases."""
        session = self.site.main
        obstacles.check(session, self._names)
        rights.check(session, [*self._names, *(each.database.name for each in self._incoming)])
        self._circumstances = self._read_circumstances(session)

    def _read_circumstances(self, session: Session) -> dict[str, Circumstances]:
        epoch = written.epoch(session)
        return {
            name: Circumstances(size_bytes=size_bytes(session, name), statistics_epoch=epoch)
            for name in self._names
        }

    def _read_properties(self) -> None:
        self._properties = {each.target.name: self._properties_of(each) for each in self._incoming}

    def prepare(self) -> None:
        self._set_up()
        self._was_empty = self.evictor.empty()

    def _set_up(self) -> None:
        for each in self._incoming:
            wanted, present = self._properties[each.target.name]
            for shortfall in carryover.put(self.site.watcher, wanted, present, each.database.name):
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
                perform(self.site.main, self._swaps, self.evictor, look)
            except WrittenMeanwhileError:
                unwritten = False
            except SetUpMeanwhileError:
                self._wait_for_settings()
                self._read_properties()
                self._set_up()
            else:
                return

    def _wait_for_settings(self) -> None:
        while not properties.are_settled(self.site.watcher):
            if self.evictor.overdue:
                raise locks.HeldTooLongError
            time.sleep(_POLL_S)

    def is_done(self) -> bool:
        """Ask the server whether the swap took place, whatever became of who sent it."""
        try:
            with self.site.server.session("looking after a swap") as session:
                present = catalog.load(session)
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
        server, request = self.site.server, self._request
        with server.session("swapping back") as session, server.session("swapping back") as other:
            evictor = Evictor(other, self._names, wait_s=request.wait_s, force=request.force)
            evictor.empty()
            perform(session, swaps, evictor)

    def _look(self) -> None:
        """Let the caller look at the live databases, and see that nothing of it stays there."""
        if self._request.last_look is None:
            return
        aliases = reconnect.aliases_of(each.target.alias for each in self._incoming)
        self._request.last_look()
        reconnect.leave(aliases, self.site.watcher, self._names)

    def _properties_of(self, each: Incoming) -> tuple[Properties, Properties]:
        """Return what an incoming database shall be set up with, and what it is now."""
        is_there = each.target.name in self._names
        like = each.target.name if is_there else each.set_up_like
        wanted, present = properties.read(self.site.watcher, like, each.database.name)
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

    def _is_one_unwritten(self, each: Incoming) -> bool:
        live = self.site.catalog.get(each.target.name)
        older = outgoing.older_undos(each)
        if live is None or not older:
            return False
        wait_s = self._request.wait_s
        return written.is_unwritten(self.site.watcher, self.site.server, live, older[0], wait_s)

    def _plan(self, *, keep_older_undo: bool) -> list[Swap]:
        return [
            outgoing.swap_of(
                each,
                self._properties[each.target.name][0],
                self._undo,
                self._circumstances.get(each.target.name, Circumstances()),
                keep_older_undo=keep_older_undo,
            )
            for each in self._incoming
        ]
