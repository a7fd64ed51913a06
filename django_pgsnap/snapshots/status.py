"""Looking at live databases: what they are, what undo brings back, what an operation would meet."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import connections

from ..messages import Message, message
from ..postgres.backends import read_backends
from ..postgres.inspection import measure_databases, read_counters
from ..postgres.server import server_errors
from .context import ServerContext, choose_targets, read_contexts
from .queries import Overview, look_over
from .types import Snapshot
from .undo_history import find_newest


@dataclass(frozen=True, kw_only=True)
class LiveState:
    alias: str
    database: str
    size_bytes: int | None  # None where it is missing, or our role may not know
    based_on: str = ""  # the snapshot that it was restored from; empty for none, or for unknown
    since: datetime | None = None  # when a restore or an undo put it in place; None for unknown
    by_undo: bool = False
    # How many rows the server counted since; None where it does not know. Those of sessions that
    # are still open come up to some seconds later.
    rows_written: int | None = None


def describe_live_state(live: LiveState) -> Message:
    """Return what a live database holds, since when, and whether it was written since."""
    if live.size_bytes is None:
        return message("the database is missing, or may not be looked at")
    if live.since is None:
        return message("your own data, as far as is known")
    if live.rows_written is None:
        written = message("perhaps changed since")
    elif not live.rows_written:
        written = message("unchanged since")
    else:
        written = message(
            "1 row written since" if live.rows_written == 1 else "{count:,} rows written since",
            count=live.rows_written,
        )
    return message(
        "{state}, {came}, {written}",
        state=repr(live.based_on) if live.based_on else message("your own data"),
        came=message(
            "brought back by undo {moment}" if live.by_undo else "restored {moment}",
            moment=live.since,
        ),
        written=written,
    )


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is live, and what there is beside it."""

    live: tuple[LiveState, ...]
    overview: Overview


@server_errors()
def read_status(*, databases: Sequence[str] | None = None) -> Status:
    """Return what is live and what undo would bring back."""
    live: list[LiveState] = []
    contexts = read_contexts("status", choose_targets(databases))
    found = look_over(contexts, lambda context: live.extend(_read_live(context)))
    return Status(live=tuple(live), overview=found)


def _read_live(context: ServerContext) -> Iterator[LiveState]:
    sizes = measure_databases(context.watcher, context.sources)
    counters = read_counters(context.watcher, context.sources)
    kept = find_newest([context])
    for target in context.targets:
        name, present = target.name, context.catalog.databases.get(target.name)
        state = LiveState(alias=target.alias, database=name, size_bytes=sizes.get(name))
        newest, counted = kept.get((context.server, name)), counters.get(name)
        if newest is None or present is None or newest.successor_oid != present.oid:
            yield state
            continue
        since = newest.successor_since or newest.taken_at
        is_known = counted is not None and counted.epoch == newest.statistics_epoch
        yield replace(
            state,
            based_on=newest.successor_based_on,
            since=since,
            # A restore that keeps nothing may have come after the undo.
            by_undo=newest.by_undo and since == newest.taken_at,
            rows_written=counted.rows - newest.successor_rows if counted and is_known else None,
        )


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an operation on live databases would meet: sessions that it would end or wait for."""

    aliases: tuple[str, ...]
    size_bytes: int  # what the live databases occupy together, as far as that is known
    idle: tuple[str, ...]
    busy: tuple[str, ...]


@server_errors()
def preview(*, databases: Sequence[str] | None = None) -> Preview:
    """Return what a take or a restore would meet.

    The connections of the thread that asks are left out: those an operation lets go by itself.
    """
    aliases: list[str] = []
    size_bytes = 0
    idle: list[str] = []
    busy: list[str] = []
    for context in read_contexts("preview", choose_targets(databases)):
        aliases += [target.alias for target in context.targets]
        size_bytes += sum(measure_databases(context.watcher, context.sources).values())
        # Where pids of several servers are mixed, one too many may be left out, without harm.
        ours = {
            wrapper.connection.info.backend_pid
            for wrapper in connections.all(initialized_only=True)
            if wrapper.vendor == "postgresql" and wrapper.connection is not None
        }
        for backend in read_backends(context.watcher, context.sources):
            if backend.pid in ours:
                continue
            (idle if backend.is_idle and backend.endable else busy).append(str(backend))
    return Preview(
        aliases=tuple(aliases), size_bytes=size_bytes, idle=tuple(idle), busy=tuple(busy)
    )


def expected_take_s(earlier: Iterable[Snapshot], size_bytes: int) -> float | None:
    """Return about how long a take will be, by the newest of these that has such a size, if any."""
    for snapshot in earlier:
        if snapshot.size_bytes and 0.5 < size_bytes / snapshot.size_bytes < 2:  # noqa: PLR2004
            return snapshot.seconds * size_bytes / snapshot.size_bytes
    return None
