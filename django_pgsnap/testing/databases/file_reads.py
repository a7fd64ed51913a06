"""Which files and directories Python reads, told by the functions that it reads by.

An audit hook would hear of all, but can never be removed, and slows down much of Python.

What is read while a module is imported, or before a cache was filled, is not read again while a
database is migrated. So reads count from the start of a run on: those before the recording by the
file whose code read, because only some of the project's code has to do with migrations.

Nothing of Django is imported here, since pytest loads its plugins before there are settings.
"""

import hashlib
import inspect
import os
import stat
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from .calls import Hear, find_caller, hear_calls

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC

# A hot spot of the start-up, and never heard of.
_OPEN: Final = open

_POPEN: Final = inspect.signature(subprocess.Popen.__init__)

_WRITING_MODES: Final = frozenset("wax+")

_IMPORT_SYSTEM: Final = "<frozen importlib"

# Python, this package and what is installed are told by their versions. Editable installations lie
# elsewhere, so that their files count as the project's.
_INSTALLED: Final = tuple(
    f"{os.path.realpath(path)}{os.sep}"
    for path in (
        str(Path(__file__).parents[2]),
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        # The system's or the user's own, which a virtual environment may look into.
        *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))),
    )
)

# What lies there is no file, whatever the system says.
_PSEUDO: Final = ("/dev/", "/proc/", "/run/", "/sys/")


class FileReads:
    """Notes what is read, by the file whose code reads; what is recorded has an empty one."""

    def __init__(self) -> None:
        # Digests by path, as files were then; empty for one that is not there.
        self.files: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.directories: defaultdict[str, set[str]] = defaultdict(set)
        self._written: set[str] = set()
        self._is_starting = self._is_recording = False
        self._hearing = ExitStack()

    def begin(self) -> None:
        """Note what the project's code reads while the run starts."""
        self._listen()
        self._is_starting = True

    def end(self) -> None:
        """Leave what is read from now on, outside of recordings, to the tests."""
        self._is_starting = False
        self._hearing.close()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note what is read meanwhile, by whatever code."""
        self._listen()
        self._is_recording = True
        try:
            yield
        finally:
            self._is_recording = False
            if not self._is_starting:
                self._hearing.close()

    def _listen(self) -> None:
        if not (self._is_starting or self._is_recording):
            self._hearing.enter_context(hear_calls(_list_places()))

    def hear(self, note: "_Note", /, *arguments: Any, **named: Any) -> None:
        """Note what a function is about to do with a file or a directory."""
        if self._is_recording or self._is_starting:
            reader = _find_reader(find_caller(), anybody=self._is_recording)
            if reader is not None:
                note(reader, *arguments, **named)

    def note_file(self, path: str, reader: str = "") -> None:
        known = self.files[reader]
        if path not in known and path not in self._written and is_own_file(path):
            known[path] = digest_file(path)

    def note_opened(self, reader: str, path: Any, *, writes: bool = False) -> None:
        path = make_absolute(path)
        if not writes:
            self.note_file(path, reader)
        elif self._is_recording:
            self._written.add(path)


_Note = Callable[..., None]


def _hear_open(reader: str, /, file: Any, mode: str = "r", *_: Any, **__: Any) -> None:
    file_reads.note_opened(reader, file, writes=not _WRITING_MODES.isdisjoint(mode))


def _hear_os_open(reader: str, /, path: Any, flags: int, *_: Any, **__: Any) -> None:
    file_reads.note_opened(reader, path, writes=bool(flags & _WRITES))


def _hear_listing(reader: str, /, path: Any = None) -> None:
    file_reads.directories[reader].add(make_absolute(path or os.curdir))


def _hear_program(reader: str, /, *arguments: Any, **named: Any) -> None:
    called = _POPEN.bind(*arguments, **named).arguments
    words = (called.get(name) for name in ("executable", "args", "cwd"))
    for path in _list_named(*words):
        file_reads.note_file(path, reader)


def _hear_sqlite(reader: str, /, database: Any, *_: Any, **__: Any) -> None:
    file_reads.note_opened(reader, database)


def _hear_loader(reader: str, /, loader: Any, path: str) -> None:
    file_reads.note_opened(reader, getattr(loader, "archive", path))


# The functions that Python code reads by, in modules and their classes, and what notes their calls.
# Some modules have another name of their own for one.
_READING: Final[tuple[tuple[str, str, _Note], ...]] = (
    ("builtins", "open", _hear_open),
    ("io", "open", _hear_open),
    ("io", "open_code", _hear_open),
    ("bz2", "_builtin_open", _hear_open),
    ("tarfile", "bltn_open", _hear_open),
    ("tokenize", "_builtin_open", _hear_open),
    ("os", "open", _hear_os_open),
    ("os", "listdir", _hear_listing),
    ("os", "scandir", _hear_listing),
    ("glob", "_StringGlobber.scandir", _hear_listing),
    ("os", "system", lambda reader, command: _hear_program(reader, None, command)),
    ("subprocess", "Popen.__init__", _hear_program),
    ("sqlite3", "connect", _hear_sqlite),
    ("sqlite3.dbapi2", "connect", _hear_sqlite),
    ("importlib._bootstrap_external", "FileLoader.get_data", _hear_loader),
    ("zipimport", "zipimporter.get_data", _hear_loader),
)


def _list_places() -> Iterator[tuple[Any, str, Hear]]:
    with suppress(ImportError):
        # Of other modules that are imported later, what we replace is in those they import.
        import sqlite3  # noqa: F401
    for module, names, note in _READING:
        outer, _, name = names.rpartition(".")
        owner: Any = sys.modules.get(module)
        if outer:
            owner = getattr(owner, outer, None)
        if hasattr(owner, name):
            yield owner, name, partial(file_reads.hear, note)


def _find_reader(frame: FrameType, *, anybody: bool) -> str | None:
    """Return the project's file whose code reads; None for the import system, or for nobody's.

    The import system looks everywhere, and what it finds shows when it runs. With *anybody*, all
    other code counts, as nobody's.
    """
    place: FrameType | None = frame
    while place is not None:
        name = place.f_code.co_filename
        if name.startswith(_IMPORT_SYSTEM):
            return None
        if anybody:
            return ""
        if not name.startswith("<") and is_own_file(name):
            return name
        place = place.f_back
    return None


def _list_named(program: Any, arguments: Any = (), directory: Any = None) -> Iterator[str]:
    given = [arguments] if isinstance(arguments, str | bytes | os.PathLike) else arguments or ()
    for words in (program, *given):
        for word in os.fsdecode(words or "").split():
            path = os.path.join(directory or "", word)  # noqa: PTH118  # as text
            with suppress(OSError, ValueError):
                # Not isfile(), which may be what is recorded.
                if stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # the same
                    yield make_absolute(path)


def make_absolute(path: str | bytes | os.PathLike[Any]) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # the same


def digest_bytes(data: bytes) -> str:
    """Return 20 hexadecimal digits that stand for bytes."""
    return hashlib.blake2b(data, digest_size=10).hexdigest()


def digest_file(path: str) -> str:
    """Return a digest of a file, empty where there is none that can be read."""
    try:
        with _OPEN(path, "rb", buffering=0) as file:
            return digest_bytes(file.read())
    except (OSError, ValueError):
        return ""


@cache
def is_own_file(path: str) -> bool:
    """Tell whether a file, by its absolute path, is the project's or its data."""
    return not path.startswith(_PSEUDO) and not os.path.realpath(path).startswith(_INSTALLED)


file_reads: Final = FileReads()
