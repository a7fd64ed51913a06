"""The keepers of this process' test databases, one for each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Final

import psycopg
from django.db import connections

from .. import arrivals, targets
from ..errors import PgsnapError
from ..server import Server
from ..snapshots.operation import server_errors
from . import live
from .reset import Keeper

# By process too: forked workers have test databases, and sessions, of their own.
_keepers: dict[tuple[int, Server, str], Keeper] = {}

# Other finalizers of a worker may still use its connections.
_EARLY: Final = 10


def find(alias: str) -> Keeper | None:
    """Return the keeper of the test database that an alias leads to, None if it is not ours.

    The state that it finds at first is the baseline of the whole run.
    """
    own = live.find(alias)
    if own is None:
        return None
    server = targets.server_of(connections[alias])
    key = (os.getpid(), server, own.name)
    if key not in _keepers:
        if multiprocessing.parent_process() is not None and not _of_this_process():
            Finalize(None, end, exitpriority=_EARLY)
        with on_behalf_of("tests", alias):
            _keepers[key] = Keeper(server, own)
    return _keepers[key]


def end() -> None:
    """Give up what this process keeps for its test databases."""
    for key in _of_this_process():
        # What cannot be given up now has no lock any more when we are gone, and is swept then.
        with suppress(PgsnapError, psycopg.Error):
            _keepers.pop(key).end()


def leave_floors() -> None:
    """Have tests start from the baselines of the whole run again."""
    for key in _of_this_process():
        _keepers[key].floor = _keepers[key].base


@contextmanager
def on_behalf_of(who: str, alias: str) -> Iterator[None]:
    """Have errors name the class or test that is to start, and the alias.

    Raises:
        PgsnapError: What went wrong.
    """
    try:
        with server_errors():
            yield
    except PgsnapError as error:
        raise type(error)(
            f"The baseline for {who} could not be put back in alias {alias!r}: {error.message}",
            hint=error.hint,
        ) from error


def forget_cached(alias: str) -> None:
    """Have Django forget what it remembers of the contents that were put back."""
    arrivals.clear_caches(alias)


def _of_this_process() -> list[tuple[int, Server, str]]:
    return [key for key in _keepers if key[0] == os.getpid()]
