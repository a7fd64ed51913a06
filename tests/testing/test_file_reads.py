"""How it is heard what Python reads: while it is of interest, and without a trace afterwards."""

import builtins
import bz2
import copy
import glob
import gzip
import importlib
import inspect
import io
import lzma
import os
import sqlite3
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any
from unittest import mock

import pytest

from django_pgsnap.testing.databases import file_reads as module
from django_pgsnap.testing.databases.file_reads import FileReads, file_reads
from tests.suites.project import ROOT

PLACES: Any = [
    *((builtins, "open"), (io, "open"), (io, "open_code"), (tokenize, "_builtin_open")),
    *((os, "open"), (os, "listdir"), (os, "scandir"), (os, "system")),
    *((subprocess.Popen, "__init__"), (sqlite3, "connect"), (sqlite3.dbapi2, "connect")),
    (importlib._bootstrap_external.FileLoader, "get_data"),
]


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    noted = vars(file_reads).copy()
    vars(file_reads).update(vars(FileReads()))
    yield
    vars(file_reads).update(noted)


def find_all() -> list[object]:
    """Return the functions, or their code where that is Python's."""
    found = [vars(owner)[name] for owner, name in PLACES]
    return [getattr(each, "__code__", each) for each in found]


def test_no_trace() -> None:
    """What Python reads by is its own again after the start, and after a recording."""
    before = find_all()
    assert isinstance(open, BuiltinFunctionType)  # since pytest has collected the tests

    file_reads.begin()
    with file_reads.record():
        assert not any(now is then for now, then in zip(find_all(), before, strict=True))
    assert open is not before[0]
    file_reads.end()

    assert all(now is then for now, then in zip(find_all(), before, strict=True))
    with pytest.raises(ZeroDivisionError), file_reads.record():
        1 / 0  # noqa: B018
    assert all(now is then for now, then in zip(find_all(), before, strict=True))


def test_no_audit_hook() -> None:
    """None is added, because none can be removed, and all that Python does would be slower."""
    sources = (ROOT / "django_pgsnap").rglob("*.py")

    assert not [str(path) for path in sources if "addaudithook" in path.read_text()]


def test_functions_are_what_they_were() -> None:
    """Who looks at a function that is listened to sees the same."""
    before = open, os.open, os.scandir

    with file_reads.record():
        now = open, os.open, os.scandir
        assert [each.__name__ for each in now] == ["open", "open", "scandir"]
        assert inspect.signature(open) == inspect.signature(before[0])
        # As shutil asks, to remove trees without following links.
        assert {os.open, os.stat} <= os.supports_dir_fd
        assert os.scandir in os.supports_fd
        assert copy.deepcopy(now) == before
        assert copy.copy(open) is before[0]
        # A built-in function does not become a method.
        assert type("Reader", (), {"read": open})().read(os.devnull).close() is None
        with pytest.raises(TypeError, match="missing required argument"):
            os.open()  # type: ignore[call-arg]
        with pytest.raises(FileNotFoundError):
            subprocess.Popen(["/no/such/program"])


def test_of_somebody_else(tmp_path: Path) -> None:
    """What somebody puts over ours meanwhile stays, calls the function, and leaves no layers."""
    original = os.listdir
    file_reads.begin()
    ours = os.listdir
    with mock.patch.object(os, "listdir", lambda path: [*ours(path), "more"]):
        file_reads.end()
        assert os.listdir(tmp_path) == ["more"]  # noqa: PTH208
        assert not file_reads.directories

    assert os.listdir is ours
    with file_reads.record():
        os.listdir(tmp_path)  # noqa: PTH208
    assert file_reads.directories == {"": {str(tmp_path)}}
    assert os.listdir is original


def test_kept(tmp_path: Path) -> None:
    """What code took for itself while the run started is heard in a recording, and only there."""
    file_reads.begin()
    taken = open
    file_reads.end()

    taken(os.devnull).close()
    (tmp_path / "seed").touch()
    taken(tmp_path / "seed").close()
    assert not file_reads.files[""]
    with file_reads.record():
        taken(tmp_path / "seed").close()
    assert set(file_reads.files[""]) == {str(tmp_path / "seed")}


@pytest.mark.parametrize(
    "look",
    [
        os.walk,
        Path.iterdir,
        lambda place: place.glob("*"),
        lambda place: place.rglob("*"),
        lambda place: glob.glob(f"{place}/*"),  # noqa: PTH207
    ],
    ids=["walk", "iterdir", "glob", "rglob", "glob of texts"],
)
def test_listings(tmp_path: Path, look: Callable[[Path], Iterable[object]]) -> None:
    """Directories are heard of by whatever way of Python's they are listed."""
    with file_reads.record():
        list(look(tmp_path))

    assert file_reads.directories == {"": {str(tmp_path)}}


@pytest.mark.parametrize("kind", [bz2, gzip, lzma, tokenize])
def test_files(tmp_path: Path, kind: Any) -> None:
    """Files are heard of that modules of Python read."""
    path = tmp_path / "seed"
    with path.open("wb") if kind is tokenize else kind.open(path, "wb") as file:
        file.write(b"seed")

    with file_reads.record():
        kind.open(path).close()

    assert set(file_reads.files[""]) == {str(path)}


def test_threads(tmp_path: Path) -> None:
    """What several threads read at once is all heard."""
    paths = [tmp_path / str(number) for number in range(200)]
    for path in paths:
        path.write_text(path.name)

    with file_reads.record(), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(Path.read_text, paths)) == [path.name for path in paths]

    assert set(file_reads.files[""]) == {str(path) for path in paths}


def test_own_reads(tmp_path: Path) -> None:
    """To compare a file is not to read it."""
    (tmp_path / "seed").touch()

    with file_reads.record():
        module.digest_file(str(tmp_path / "seed"))

    assert not file_reads.files[""]


WORKERS = """
import multiprocessing
import sys


def begin():
    from django.conf import settings

    settings.configure(TEST_RUNNER="django_pgsnap.testing.SnapshotRunner")
    import django_pgsnap.apps

    return type(open).__name__


if __name__ == "__main__":
    sys.argv[1:] = ["test"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(begin(), pool.apply(begin))
"""


def test_workers(tmp_path: Path) -> None:
    """A process that runs tests for another one does not listen: nobody migrates in it."""
    (tmp_path / "workers.py").write_text(WORKERS)

    ended = subprocess.run(
        [sys.executable, tmp_path / "workers.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.split() == ["Telling", "builtin_function_or_method"]
