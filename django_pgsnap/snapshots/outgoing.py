"""What becomes of the live databases that are replaced: the undo, unless an older one is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

import django

from .. import names
from ..metadata import Record
from ..properties import Properties
from ..swap import Swap
from .incoming import Incoming


@dataclass(frozen=True, kw_only=True)
class UndoSet:
    """What the parts of an undo have in common."""

    set_id: str
    members: int
    taken_at: datetime

    @classmethod
    def of(cls, members: int) -> Self:
        """Return what the parts of a new undo have in common."""
        return cls(set_id=names.new_identity(), members=members, taken_at=datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the server tells of a live database that is to be replaced.

    Attributes:
        size_bytes: What it occupies on disk.
        statistics_epoch: When the server's statistics began; see `written`.
    """

    size_bytes: int = 0
    statistics_epoch: str = ""


def older_undos(each: Incoming) -> list[Record]:
    """Return the undos of a live database, newest first, without what comes in."""
    undos = [
        record
        for database in each.site.catalog.undos([each.target.name])
        if (record := database.record) is not None and database.oid != each.database.oid
    ]
    return sorted(undos, key=lambda record: record.taken_at, reverse=True)


def swap_of(
    each: Incoming,
    wanted: Properties,
    undo: UndoSet | None,
    circumstances: Circumstances,
    *,
    keep_older_undo: bool,
) -> Swap:
    """Return the swap that brings a database in.

    Args:
        each: The database that comes.
        wanted: What the live database is set up with.
        undo: The undo that the live database becomes a part of; None to have it dropped.
        circumstances: What the server tells of the live database.
        keep_older_undo: Whether nothing was written since the older undo, so that it stays the one.
    """
    live = each.site.catalog.get(each.target.name)
    older = older_undos(each)
    record = None
    if live and undo and not keep_older_undo:
        record = _undo_record(each, wanted, undo, circumstances)
    return Swap(
        live_name=each.target.name,
        live=live,
        incoming=each.database,
        properties=wanted,
        undo=record,
        doomed_identity=names.new_identity(),
        retire=older if record else [],
        recomment=_succeeded(older[0], each, circumstances) if older and keep_older_undo else None,
    )


def _undo_record(
    each: Incoming, wanted: Properties, undo: UndoSet, circumstances: Circumstances
) -> Record:
    record = Record(
        kind="undo",
        identity=names.new_identity(),
        set_id=undo.set_id,
        members=undo.members,
        name=each.record.name,
        alias=each.target.alias,
        source=each.target.name,
        taken_at=undo.taken_at,
        size_bytes=circumstances.size_bytes,
        django=django.get_version(),
        postgresql=each.site.watcher.server_name,
        comment=wanted.comment,
        connection_limit=wanted.connection_limit,
    )
    return _succeeded(record, each, circumstances)


def _succeeded(undo: Record, each: Incoming, circumstances: Circumstances) -> Record:
    """Return an undo that knows which database took its place."""
    return replace(
        undo,
        successor_oid=each.database.oid,
        # What an undo holds may have been written, so nothing is known of its sequences.
        successor_sequences=each.record.sequences if each.record.kind == "copy" else "",
        statistics_epoch=circumstances.statistics_epoch,
    )
