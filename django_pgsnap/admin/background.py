"""Operations in the background: a thread does the work, and a page shows how far it is.

Progress is kept in files, by Django's file-based cache. It cannot be kept in the database, which is
being copied or replaced, nor in memory, since the next request may reach another process.
"""

import os
import pickle
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any, Final

from django.core.cache.backends.filebased import FileBasedCache
from django.db import connections
from django.db.models.fields.files import FieldFile
from django.utils import translation

from ..errors import InsideTransactionError, PgsnapError
from ..messages import translate
from ..reporting import Reporter

# How long a finished operation can be looked at, and how long its cookie is good for.
KEEP_S: Final = 60 * 60
_WRITE_EVERY_S: Final = 0.25
# An operation that has written nothing for so long may have died.
_SILENCE_S: Final = 15.0
# What is shorter is no hash of a password, but a word in its place that may stand anywhere.
_SHORTEST_HASH: Final = 16


class AdminError(PgsnapError):
    """An error of the admin's own."""


class CancelledError(AdminError):
    """Somebody pressed Cancel."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an operation is, and how it ended; moments are in seconds since the epoch."""

    title: str
    user: Any = None  # who asked for it; None where that cannot be kept
    began: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.time)  # when it last reported anything
    step: str = ""
    done_bytes: int | None = None  # None where that cannot be known
    total_bytes: int | None = None  # None while nothing is copied
    texts: tuple[tuple[str, str], ...] = ()  # to tell afterwards: Django's tag of its level, text
    ended: bool = False
    error: PgsnapError | None = None
    signed_out: str = ""  # why who asked for it is; empty where they are not

    @property
    def seconds(self) -> float:
        return max(0.0, time.time() - self.began)

    @property
    def is_silent(self) -> bool:
        """Whether it may have died: it has neither ended nor reported anything lately."""
        return not self.ended and time.time() - self.heard > _SILENCE_S


class ProgressReporter(Reporter):
    """Writes down what an operation reports, where other processes find it by its token."""

    def __init__(self, title: str, user: Any = None) -> None:
        self.token = secrets.token_hex(16)
        self.progress = Progress(title=title, user=_without_password(user))
        self._change()

    def step(self, message: str) -> None:
        self._stop_if_cancelled()
        self._change(step=translate(message), done_bytes=None, total_bytes=None)

    def still_waiting(self) -> None:
        self._change_seldom()

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        self._change_seldom(done_bytes=done_bytes, total_bytes=total_bytes)

    def note(self, message: str) -> None:
        self.tell("info", message)

    def warn(self, message: str) -> None:
        self.tell("warning", message)

    def tell(self, level: str, text: str) -> None:
        self._change(texts=(*self.progress.texts, (level, translate(text))))

    def end(self, *, error: PgsnapError | None = None, signed_out: str = "") -> None:
        self._change(ended=True, error=error, signed_out=signed_out)

    def _change_seldom(self, **changes: Any) -> None:
        if time.time() - self.progress.heard >= _WRITE_EVERY_S:
            self._stop_if_cancelled()
            self._change(**changes)

    def _change(self, **changes: Any) -> None:
        self.progress = replace(self.progress, heard=time.time(), **changes)
        # An operation is not to fail since it cannot be watched.
        with suppress(OSError):
            _store().set(self.token, vars(self.progress))

    def _stop_if_cancelled(self) -> None:
        with suppress(OSError):
            if _store().get(_cancel_key(self.token)):
                raise CancelledError("Cancelled. The databases are as they were.")


def read_progress(token: str) -> Progress | None:
    """Return an operation's progress, None where nothing that can be read is known of it."""
    try:
        return Progress(**_store().get(token))
    except Exception:  # noqa: BLE001  # no file, a broken one, or one of another release
        return None


def forget_progress(token: str) -> None:
    """Remove an operation's progress: everything has been told."""
    with suppress(OSError):
        _store().delete_many([token, _cancel_key(token)])


def request_cancel(token: str) -> None:
    """Have an operation stop at its next report, as Ctrl-C stops a command."""
    with suppress(OSError):
        _store().set(_cancel_key(token), True)


def _cancel_key(token: str) -> str:
    return f"cancel-{token}"


def _store() -> FileBasedCache:
    """Return the cache, after making sure that nobody else can write what we read."""
    us = getattr(os, "geteuid", int)()  # Windows has no such users, and says 0
    directory = Path(tempfile.gettempdir(), f"django_pgsnap-{us}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    is_open = os.name == "posix" and found.st_mode & 0o077
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != us or is_open:
        raise PermissionError(f"{directory} is not ours alone.")
    return FileBasedCache(str(directory), {"TIMEOUT": KEEP_S, "OPTIONS": {"MAX_ENTRIES": 1000}})


def _without_password(user: Any) -> Any:
    """Return a copy of a user that a file may hold, None where it cannot be written there.

    Left out is what a project keeps on its users that cannot be written, such as functions, or that
    has the password in turn: a profile knows its user. Of a file its name is kept.
    """
    try:
        secret = str(user.password).encode()
        user = copy(user)
        user.password = "" if user.has_usable_password() else "!"
        for held in vars(user)["_state"].fields_cache, vars(user):
            for name, value in [*held.items()]:
                if isinstance(value, FieldFile):
                    held[name] = value.name
                elif (written := _try_to_pickle(value)) is None or (
                    len(secret) >= _SHORTEST_HASH and secret in written
                ):
                    del held[name]
        pickle.dumps(user)
    except Exception:  # noqa: BLE001  # whatever a project's user may raise
        return None
    return user


def _try_to_pickle(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value)
    except Exception:  # noqa: BLE001  # pickling raises what the value does
        return None


def start_work(reporter: ProgressReporter, work: Callable[[], str]) -> Thread:
    """Begin some work, and return its thread. A process that is to stop waits for it to end.

    The work returns why who asked for it is to be signed out, if so. How it ends is reported.
    """
    language = translation.get_language()

    def run() -> None:
        with translation.override(language):
            try:
                reporter.end(signed_out=work())
            except PgsnapError as error:
                reporter.end(error=error)
            except BaseException:
                unexpected = AdminError("This failed unexpectedly. The server's log says why.")
                reporter.end(error=unexpected)
                raise
            finally:
                connections.close_all()

    thread = Thread(target=run, name="django_pgsnap", daemon=False)
    thread.start()
    return thread


def release_connections() -> None:
    """Close this thread's connections, which would be in the way of the work.

    Raises:
        InsideTransactionError: This thread is inside ``transaction.atomic``, and would wait for
            the work while the work waits for it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            raise InsideTransactionError(
                "This request runs inside transaction.atomic on “{alias}”, which a snapshot "
                "operation would have to wait for.",
                hint="Take the middleware or decorator away from the admin's pages that opens it.",
                alias=connection.alias,
            )
    connections.close_all()
