"""Files that migrations read: noted while they run, and compared before their result is used again.

The name of such a file may be computed, so that no look at the code finds it. Python tells an audit
hook of each file that it opens; what libraries open by themselves, in C, goes unseen.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.conf import settings

from ...clones.records import Files
from ...errors import ConfigurationError
from .source_dependencies import is_installed

# The files' names and digests are part of a comment, which each look at the databases reads.
_MAX_FILES: Final = 1_000

# What lies there is no file, whatever the system says.
_PSEUDO: Final = ("/dev/", "/proc/", "/run/", "/sys/")

# The project's code has its place in the fingerprint.
_CODE: Final = (".py", ".pyc")

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class _Opened:
    """What was opened while somebody wanted to know.

    All of a process is kept together: modules that migrations import read their files once, even
    where several databases are migrated.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.is_hooked = False
        self.digests: dict[str, str | None] = {}
        self.written: set[str] = set()

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of a file that is about to be opened, for all that runs in Python."""
        if event == "open" and self.wanted:
            name, _, flags = arguments
            if isinstance(name, str | bytes | os.PathLike):
                self._note(os.path.abspath(os.fsdecode(name)), flags)  # noqa: PTH100  # may be odd

    def _note(self, path: str, flags: int) -> None:
        if path in self.digests or path in self.written:
            return
        if flags & _WRITES:
            self.written.add(path)
        elif not path.endswith(_CODE) and not path.startswith(_PSEUDO) and not is_installed(path):
            self.digests[path] = None  # to read it opens it again
            self.digests[path] = _digest(path)


_opened: Final = _Opened()


@contextmanager
def noting() -> Iterator[None]:
    """Note the files that are read meanwhile."""
    if not _opened.is_hooked:
        # It stays until the process ends: there is no way to remove it.
        _opened.is_hooked = True
        sys.addaudithook(_opened.hear)
    _opened.wanted = True
    try:
        yield
    finally:
        _opened.wanted = False


def noted() -> Files:
    """Return the files that were read, and are still there, with what was in them.

    Raises:
        ConfigurationError: They are too many to be compared each time.
    """
    root = _root()
    found = [
        (_name(path, root), digest)
        for path, digest in list(_opened.digests.items())
        if digest is not None and os.path.isfile(path)  # noqa: PTH113  # many, perhaps
    ]
    if len(found) > _MAX_FILES:
        raise ConfigurationError(
            f"Migrations have read {len(found):,} files, more than the {_MAX_FILES:,} that are "
            "compared.",
            hint="Have them read fewer.",
        )
    return tuple(sorted(found))


def unchanged(files: Files) -> bool:
    """Tell whether files are what they were."""
    root = _root()
    return all(_digest(os.path.join(root, name)) == digest for name, digest in files)  # noqa: PTH118


def _root() -> str:
    """Return the directory from which the project's modules are imported."""
    module = sys.modules.get(settings.SETTINGS_MODULE or "")
    path: str | None = getattr(module, "__file__", None)
    if module is None or path is None:
        return os.getcwd()  # noqa: PTH109  # as text
    is_package = os.path.basename(path) == "__init__.py"  # noqa: PTH119  # the same
    for _ in range(module.__name__.count(".") + 1 + is_package):
        path = os.path.dirname(path)  # noqa: PTH120  # the same
    return os.path.abspath(path)  # noqa: PTH100  # the same


def _name(path: str, root: str) -> str:
    """Return what a file is called in every checkout of the project."""
    if os.path.commonpath([path, root]) == os.path.abspath(os.sep):  # noqa: PTH100  # as text
        return path
    return os.path.relpath(path, root)


def _digest(path: str) -> str | None:
    """Return a digest of a file, None where there is none that can be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # a hot spot of the start-up
            return None
        with open(path, "rb") as file:  # noqa: PTH123  # the same
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except (OSError, ValueError):
        return None
