"""Under way: which operations are at work on live databases, in whatever process they run.

An operation holds the lock of each live database that it is about, in a session whose name says
what it does. So everybody can see it, and nothing is left of it when it is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..locks import Holder
from ..names import lock_key
from ..targets import Target

# As in: pgsnap take seeded (ada@workstation:4711). The server cuts it after 63 bytes.
_APPLICATION: Final = re.compile(r"pgsnap (?P<purpose>.*?) *(?:\((?P<who>[^()]*)\)?)?")


@dataclass(frozen=True, kw_only=True)
class Underway:
    """An operation that is at work.

    Attributes:
        purpose: What it does: ``take seeded``.
        who: User, machine and process that do it; may be cut short.
        aliases: The aliases of the live databases that it holds.
        seconds: Since when its present step runs; None where our role may not see that.
    """

    purpose: str
    who: str
    aliases: tuple[str, ...]
    seconds: float | None


def underway(known: Sequence[Target], holders: Mapping[int, Holder]) -> list[Underway]:
    """Return the operations that hold the lock of one of these live databases.

    Args:
        known: The live databases, of one server.
        holders: Who holds which advisory lock there.
    """
    groups: dict[str, list[tuple[Target, Holder]]] = {}
    for target in known:
        holder = holders.get(lock_key(target.name))
        if holder is not None:
            groups.setdefault(holder.application, []).append((target, holder))
    return [_of(group) for group in groups.values()]


def _of(group: Sequence[tuple[Target, Holder]]) -> Underway:
    _, first = group[0]
    # Whoever is not one of ours holds our lock all the same.
    match = _APPLICATION.fullmatch(first.application)
    waited = [holder.seconds for _, holder in group if holder.seconds is not None]
    return Underway(
        purpose=match["purpose"] if match else first.application,
        who=(match["who"] if match else None) or first.user,
        aliases=tuple(target.alias for target, _ in group),
        seconds=max(waited, default=None),
    )
