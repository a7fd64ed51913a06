"""Status: what the live databases are, and what undo would bring back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ..postgres.contents import measure_databases
from ..postgres.counters import DatabaseCounters, read_counters
from ..postgres.server import server_errors
from ..postgres.targets import Target
from .context import ServerContext, choose_targets, read_contexts
from .queries import Overview, overview
from .undo_history import newest_of


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """What a live database is.

    Attributes:
        size_bytes: None where it is missing, or our role may not know.
        based_on: The snapshot that it was restored from; empty for none, or for unknown.
        since: When a restore or an undo put it in place; None where none did.
        by_undo: Whether that was an undo.
        rows_written: How many rows the server counted since; None where it does not know. Those of
            sessions that are still open come up to some seconds later.
    """

    alias: str
    database: str
    size_bytes: int | None
    based_on: str = ""
    since: datetime | None = None
    by_undo: bool = False
    rows_written: int | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is live, and what there is beside it.

    Attributes:
        overview: Snapshots, kept states and what they occupy.
    """

    live: tuple[LiveState, ...]
    overview: Overview


@server_errors()
def read_status(*, databases: Sequence[str] | None = None) -> Status:
    """Return what is live and what undo would bring back.

    Args:
        databases: Aliases; None for all that the settings name.

    Raises:
        PgsnapError: Snapshots are switched off, or a server cannot be reached.
    """
    live: list[LiveState] = []
    for context in read_contexts("status", choose_targets(databases)):
        sizes = measure_databases(context.watcher, context.sources)
        counters = read_counters(context.watcher, context.sources)
        live += [
            _read_live(context, target, sizes.get(target.name), counters.get(target.name))
            for target in context.targets
        ]
    return Status(live=tuple(live), overview=overview(databases=databases))


def _read_live(
    context: ServerContext,
    target: Target,
    size_bytes: int | None,
    counters: DatabaseCounters | None,
) -> LiveState:
    newest = newest_of(context.undos()).get((context.server, target.name))
    present = context.catalog.databases.get(target.name)
    if newest is None or present is None or newest.successor_oid != present.oid:
        return LiveState(alias=target.alias, database=target.name, size_bytes=size_bytes)
    known = counters is not None and counters.epoch == newest.statistics_epoch
    return LiveState(
        alias=target.alias,
        database=target.name,
        size_bytes=size_bytes,
        based_on=newest.successor_based_on,
        since=newest.taken_at,
        by_undo=newest.by_undo,
        rows_written=counters.rows - newest.successor_rows if counters and known else None,
    )
