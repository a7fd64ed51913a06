"""Progress: what an operation has to say, kept in a file while it runs and until it is heard.

It cannot be kept in the database, which is being copied or replaced: a client that connects during
a take waits until the take is over. Memory would do for one process, but the next request may be
another's.

Work: an operation in a thread of the server process, so that its page need not wait for it.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, Final

from django.db import connections
from django.utils import translation
from django.utils.translation import gettext as _

from ..errors import InsideTransactionError, PgsnapError
from ..reporting import Reporter

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_PREFIX: Final = "django_pgsnap-"
# Long enough to come back to the page, and longer than any operation keeps silent.
_KEEP_S: Final = 24 * 60 * 60.0
_WRITE_EVERY_S: Final = 0.25
# An operation that has written nothing for so long may have died.
_SILENCE_S: Final = 15.0

_ours: set[Path] = set()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an operation is, and how it ended.

    Attributes:
        title: What it does, as a heading.
        began: When it began, in seconds since the epoch.
        step: What it is at.
        done_bytes: How much has been copied; None where that cannot be known.
        total_bytes: How much there is to copy; None while nothing is copied.
        texts: What there is to tell afterwards: level (a tag of Django's messages) and text.
        ended: Whether it is over.
        failed: Whether it ended with an error, which is the last of the texts.
        signed_out: Why who asked for it is signed out; empty where they are not.
    """

    title: str
    began: float
    step: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None
    texts: tuple[tuple[str, str], ...] = ()
    ended: bool = False
    failed: bool = False
    signed_out: str = ""

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return max(0.0, time.time() - self.began)


class ProgressFile(Reporter):
    """Writes down what an operation reports, where other processes find it by its token."""

    def __init__(self, title: str) -> None:
        """Begin a new one.

        Args:
            title: What the operation does, as a heading.
        """
        _sweep()
        self.token = secrets.token_hex(16)
        self.progress = Progress(title=title, began=time.time())
        self._directory = _directory(self.token)
        # Nobody else may look, or put a link there for us to write through.
        self._directory.mkdir(mode=0o700)
        _ours.add(self._directory)
        self._written = 0.0
        self._write()

    def step(self, message: str) -> None:
        """Write down what begins."""
        self._change(step=message, done_bytes=None, total_bytes=None)

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        """Write down how far copying is, a few times a second."""
        if time.monotonic() - self._written >= _WRITE_EVERY_S:
            self._change(done_bytes=done_bytes, total_bytes=total_bytes)

    def note(self, message: str) -> None:
        """Write down a fact, to be told afterwards."""
        self.tell("info", message)

    def warn(self, message: str) -> None:
        """Write down what did not work all the way, to be told afterwards."""
        self.tell("warning", message)

    def tell(self, level: str, text: str) -> None:
        """Write down what is to be told afterwards."""
        self._change(texts=(*self.progress.texts, (level, text)))

    def end(self, *, failed: bool = False, signed_out: str = "") -> None:
        """Write down that it is over."""
        self._change(ended=True, failed=failed, signed_out=signed_out)

    def forget(self) -> None:
        """Remove the file: everything has been told."""
        _remove(self._directory)

    def _change(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)
        self._write()

    def _write(self) -> None:
        new = self._directory / "new"
        # An operation is not to fail since it cannot be watched.
        with suppress(OSError):
            new.write_text(json.dumps(asdict(self.progress)))
            # Whoever reads meanwhile sees the old text or the new one.
            new.replace(self._directory / "progress")
        self._written = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was read, and for how many seconds nothing has been written."""

    progress: Progress
    silent_s: float

    @property
    def is_silent(self) -> bool:
        """Whether it may have died: it has neither ended nor been heard of lately."""
        return not self.progress.ended and self.silent_s > _SILENCE_S


def read(token: str) -> Found | None:
    """Return an operation's progress, None where this machine knows nothing of it."""
    if not _TOKEN.fullmatch(token):
        return None
    directory = _directory(token)
    path = directory / "progress"
    try:
        if not _is_ours(directory):
            return None
        data = json.loads(path.read_text())
        silent_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    texts = tuple((level, text) for level, text in data.pop("texts"))
    return Found(progress=Progress(**data, texts=texts), silent_s=silent_s)


def _directory(token: str) -> Path:
    return Path(tempfile.gettempdir(), f"{_PREFIX}{token}")


def _is_ours(directory: Path) -> bool:
    """Tell whether a directory is what we would have made, so that nobody else wrote into it."""
    found = directory.lstat()
    us = getattr(os, "geteuid", int)()  # Windows has no such users, and says 0
    return stat.S_ISDIR(found.st_mode) and found.st_uid == us


def _sweep() -> None:
    """Remove what nobody came back for, and what killed processes left."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):  # somebody else sweeps, too
            if (
                _TOKEN.fullmatch(directory.name.removeprefix(_PREFIX))
                and _is_ours(directory)
                # Each time that something is written, a file appears in it.
                and time.time() - directory.lstat().st_mtime > _KEEP_S
            ):
                _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _ours.discard(directory)


@atexit.register
def _forget_all() -> None:
    for directory in list(_ours):
        _remove(directory)


# Does the work, tells what came of it, and returns why the visitor is to be signed out, if so.
Act = Callable[[ProgressFile], str]


class Job(Thread):
    """One operation at work. A process that is to stop waits for it to end."""

    def __init__(self, title: str, act: Act) -> None:
        """Start at once.

        Args:
            title: What it does, as a heading.
            act: What does it.
        """
        super().__init__(name="django_pgsnap", daemon=False)
        self._file = ProgressFile(title)
        self._act = act
        self._language = translation.get_language()
        self.start()

    @property
    def token(self) -> str:
        """What its progress is found by."""
        return self._file.token

    def run(self) -> None:
        """Do the work, and write down how it ended."""
        try:
            with translation.override(self._language):
                self._run()
        finally:
            connections.close_all()

    def result(self, patience_s: float) -> Progress | None:
        """Return how it ended, None if it takes longer than that many seconds."""
        self.join(patience_s)
        if self.is_alive():
            return None
        self._file.forget()
        return self._file.progress

    def _run(self) -> None:
        try:
            signed_out = self._act(self._file)
        except PgsnapError as error:
            self._file.tell("error", str(error))
            self._file.end(failed=True)
        except BaseException:
            self._file.tell("error", _("This failed unexpectedly. The server's log says why."))
            self._file.end(failed=True)
            raise
        else:
            self._file.end(signed_out=signed_out)


def stand_aside() -> None:
    """Let go of this thread's connections, which would be in the way of the work.

    Raises:
        InsideTransactionError: This thread is inside ``transaction.atomic``, and would wait for
            the work while the work waits for it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            raise InsideTransactionError(
                f"This request runs inside transaction.atomic on {connection.alias!r}, which a "
                "snapshot operation would have to wait for.",
                hint="Take the middleware or decorator away that opens it, for the admin's pages.",
            )
    connections.close_all()
