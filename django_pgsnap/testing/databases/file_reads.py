"""Which files and directories Python reads, told by an audit hook.

What is read while a module is imported, or before a cache was filled, is not read again while a
database is migrated. So reads count from the start of a run on: those before the recording by the
file whose code read, because only some of the project's code has to do with migrations.

Nothing of Django is imported here, since pytest loads its plugins before there are settings.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC

_LISTS: Final = frozenset({"os.listdir", "os.scandir"})
# Programs get the names of what they read in their arguments.
_STARTS: Final = frozenset({"os.system", "subprocess.Popen"})
_EVENTS: Final = frozenset({"open", "sqlite3.connect", *_LISTS, *_STARTS})

_IMPORT_SYSTEM: Final = "<frozen importlib"

# Python, this package and what is installed are told by their versions. Editable installations lie
# elsewhere, so that their files count as the project's.
_INSTALLED: Final = (
    *{
        f"{os.path.realpath(path)}{os.sep}"
        for path in (
            str(Path(__file__).parents[2]),
            *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
            # The system's or the user's own, which a virtual environment may look into.
            *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))),
        )
    },
)

# What lies there is no file, whatever the system says.
_PSEUDO: Final = ("/dev/", "/proc/", "/run/", "/sys/")


class FileReads:
    """Notes what is read, by the file whose code reads; what is recorded has an empty one.

    Attributes:
        files: Digests of files by path, as they were then; empty for one that is not there.
        directories: What was listed.
    """

    def __init__(self) -> None:
        """Have nothing noted yet."""
        self.files: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.directories: defaultdict[str, set[str]] = defaultdict(set)
        self._written: set[str] = set()
        self._is_starting = self._is_recording = self._is_hooked = False

    def begin(self) -> None:
        """Note what the project's code reads while the run starts."""
        self._is_starting = True
        self._hook()

    def end(self) -> None:
        """Leave what is read from now on, outside of recordings, to the tests."""
        self._is_starting = False

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note what is read meanwhile, by whatever code."""
        self._hook()
        self._is_recording = True
        try:
            yield
        finally:
            self._is_recording = False

    def note_file(self, path: str, reader: str = "") -> None:
        """Note that a file is about to be read."""
        known = self.files[reader]
        if path not in known and path not in self._written and is_own_file(path):
            known[path] = ""  # to read it opens it again
            known[path] = digest_file(path)

    def _hook(self) -> None:
        if not self._is_hooked:
            # It stays until the process ends: there is no way to remove it.
            self._is_hooked = True
            sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what the interpreter is about to do with a file or a directory."""
        if event not in _EVENTS or not (self._is_recording or self._is_starting):
            return
        reader = _find_reader(sys._getframe(1), anybody=self._is_recording)
        if reader is None or isinstance(arguments[0], int):
            return
        if event in _STARTS:
            for path in _list_named(*arguments[:3]):
                self.note_file(path, reader)
            return
        path = make_absolute(arguments[0] or os.curdir)
        if event in _LISTS:
            self.directories[reader].add(path)
        elif event == "open" and arguments[2] & _WRITES:
            self._written.update({path} if self._is_recording else ())
        else:
            self.note_file(path, reader)


def _find_reader(frame: FrameType, *, anybody: bool) -> str | None:
    """Return the project's file whose code reads; None for the import system, or for nobody's.

    The import system looks everywhere, and what it finds shows when it runs. Its loaders are also
    asked for data, by `pkgutil`.

    Args:
        frame: Where something is read.
        anybody: Whether it counts, and as nobody's, whose code it is.
    """
    place: FrameType | None = frame
    while place is not None:
        code = place.f_code
        name = code.co_filename
        if name.startswith(_IMPORT_SYSTEM):
            if code.co_name != "get_data":
                return None
        elif anybody:
            return ""
        elif not name.startswith("<") and is_own_file(name):
            return name
        place = place.f_back
    return None


def _list_named(program: Any, arguments: Any = (), directory: Any = None) -> Iterator[str]:
    """Yield the files that a command line names."""
    given = [arguments] if isinstance(arguments, str | bytes | os.PathLike) else arguments or ()
    for words in (program, *given):
        for word in os.fsdecode(words or "").split():
            path = os.path.join(directory or "", word)  # noqa: PTH118  # as text
            with suppress(OSError, ValueError):
                # Not isfile(), which may be what is recorded.
                if stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # the same
                    yield make_absolute(path)


def make_absolute(path: str | bytes | os.PathLike[Any]) -> str:
    """Return the absolute path of what may be none."""
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # the same


def digest_bytes(data: bytes) -> str:
    """Return 20 hexadecimal digits that stand for bytes."""
    return hashlib.blake2b(data, digest_size=10).hexdigest()


def digest_file(path: str) -> str:
    """Return a digest of a file, empty where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a hot spot of the start-up
            return digest_bytes(file.read())
    except (OSError, ValueError):
        return ""


@cache
def is_own_file(path: str) -> bool:
    """Tell whether a file, by its absolute path, is the project's or its data."""
    return not path.startswith(_PSEUDO) and not os.path.realpath(path).startswith(_INSTALLED)


file_reads: Final = FileReads()
