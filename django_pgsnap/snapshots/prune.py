"""Pruning: delete the snapshots that are more, older or larger than shall be kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ..conf import config
from ..errors import ConfigurationError
from ..reporting import Reporter
from .context import choose_targets, find_snapshots
from .manage import delete_in
from .operation import open_operation
from .queries import list_snapshots
from .types import Snapshot


def prune(
    *,
    keep: int | None = None,
    older_than: timedelta | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> list[Snapshot]:
    """Delete snapshots that are not pinned, nor partly out of reach, the oldest first.

    With ``older_than`` or ``max_bytes``, these say which go, and ``keep`` protects the newest from
    that. With ``keep`` alone, all but the newest go.

    Args:
        keep: How many of the newest stay in any case; pinned ones are not counted.
        older_than: Those above this age go.
        max_bytes: As many go that the others occupy no more than this, spares not counted.
        dry_run: Whether only to tell which would go.
        reporter: Who hears about progress.

    Returns:
        The snapshots that are gone, or would be.

    Raises:
        ConfigurationError: No limit is given.
    """
    if keep is None and older_than is None and max_bytes is None:
        raise ConfigurationError(
            "Pruning needs a limit.", hint="Give --keep, --older-than or --max-size."
        )
    if dry_run:
        found = [each for each in list_snapshots() if not each.unreachable]
        return choose_to_prune(found, keep, older_than, max_bytes)
    about = choose_targets(None)
    with open_operation("prune", about, wait_s=config().wait_s, disturbs_live=False) as contexts:
        found = [each for each in find_snapshots(contexts) if not each.unreachable]
        unwanted = choose_to_prune(found, keep, older_than, max_bytes)
        delete_in(contexts, unwanted, reporter or Reporter())
    return unwanted


def choose_to_prune(
    found: Sequence[Snapshot],
    keep: int | None,
    older_than: timedelta | None,
    max_bytes: int | None,
) -> list[Snapshot]:
    """Return which of these snapshots, newest first, shall go; arguments as for `prune`."""
    loose = [snapshot for snapshot in found if not snapshot.pinned][keep or 0 :]
    if older_than is None and max_bytes is None:
        return loose
    unwanted = []
    occupied = sum(snapshot.size_bytes for snapshot in found)
    for snapshot in reversed(loose):
        is_old = older_than is not None and datetime.now(UTC) - snapshot.taken_at > older_than
        if is_old or (max_bytes is not None and occupied > max_bytes):
            unwanted.append(snapshot)
            occupied -= snapshot.size_bytes
    return unwanted
