"""Sentences on what is live, kept or at work, as the command line and the admin both say them."""

from __future__ import annotations

from collections.abc import Iterator

from ..messages import Message, format_ago, format_size, message
from .queries import Overview, RunningOperation
from .status import LiveState
from .types import Drift, Undo


def describe_live_state(live: LiveState) -> Message:
    """Return what a live database holds, since when, and whether it was written since."""
    if live.size_bytes is None:
        return message("the database is missing, or may not be looked at")
    if live.since is None:
        return message("your own data; nothing was restored yet")
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


def describe_kept_state(undo: Undo) -> Message:
    """Return what a state that was replaced holds."""
    if not undo.based_on:
        return message("your own data")
    return message(
        "{name!r} as restored" if undo.is_unwritten else "{name!r}, perhaps changed since",
        name=undo.based_on,
    )


def describe_next_undo(overview: Overview | None) -> Iterator[str]:
    """Yield what undo would bring back, if anything; nothing where that could not be seen."""
    if overview is None:
        return
    undos = overview.undos
    if not undos:
        yield "There is nothing to undo."
        return
    state, until = describe_kept_state(undos[0]), format_ago(undos[0].taken_at)
    yield f"Undo would bring back: {state}, live until {until}."
    if len(undos) > 1:
        yield f"Older states: {len(undos) - 1}, see ./manage.py pgsnap undo --list."


def describe_operation(each: RunningOperation) -> Message:
    """Return what an operation does, and for how long."""
    return message(
        "At work on {aliases}: {purpose} ({who})."
        if each.seconds is None
        else "At work on {aliases} for {seconds:.0f} s: {purpose} ({who}).",
        aliases=", ".join(each.aliases),
        purpose=each.purpose,
        who=each.who,
        seconds=each.seconds or 0.0,
    )


def describe_occupied(overview: Overview | None) -> Iterator[Message]:
    """Yield what everything occupies together, if that is known and anything."""
    if overview and overview.occupied_bytes:
        size = format_size(overview.occupied_bytes)
        yield message("All copies together occupy {size}.", size=size)


def describe_drift(drift: Drift) -> Iterator[Message]:
    """Yield what to do about migrations that a snapshot and the code do not share."""
    if drift.missing:
        count = len(drift.missing)
        yield message("Migrations not run: {count}. Run migrate afterwards.", count=count)
    if drift.unknown:
        count = len(drift.unknown)
        yield message("Migrations of another branch, not in this code: {count}.", count=count)
