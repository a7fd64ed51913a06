"""Which of the test databases that a test may use are kept by us, and which are left to Django."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

from django.db import connections

from .reset import resetter
from .reset.resetter import Keeper


def kept_of(cls: Any) -> Iterator[tuple[str, Keeper]]:
    """Yield the aliases that a test class may use, as far as their test databases are ours."""
    allowed = getattr(cls, "databases", ())
    seen = set()
    for alias in connections:
        if (allowed == "__all__" or alias in allowed) and (keeper := keeper_of(alias)) is not None:
            # Two aliases may lead to one database.
            if keeper not in seen:
                yield alias, keeper
            seen.add(keeper)


def keeper_of(alias: str) -> Keeper | None:
    """Return who keeps the test database of an alias, None if that is not ours."""
    # A suite that runs inside a test shares its transaction.
    if connections.settings[alias]["TEST"]["MIRROR"] or connections[alias].in_atomic_block:
        return None
    return resetter.find(alias)


def only_others(cls: Any) -> Any:
    """Have Django itself care for the databases that are not ours, if there are any."""
    # A second name of one that is ours is kept, too, though `kept_of` names it once.
    others = [name for name in cls._databases_names(include_mirrors=False) if not keeper_of(name)]
    return mock.patch.object(cls, "_databases_names", classmethod(lambda _, **__: others))
