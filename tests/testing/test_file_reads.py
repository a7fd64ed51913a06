"""Which files migrations read, and whether they are still the same."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_pgsnap.errors import ConfigurationError
from django_pgsnap.testing.databases import file_reads


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    file_reads._opened.digests.clear()
    file_reads._opened.written.clear()
    yield
    file_reads._opened.digests.clear()
    file_reads._opened.written.clear()


def names() -> set[str]:
    return {Path(name).name for name, _ in file_reads.noted()}


def test_read(tmp_path: Path) -> None:
    """Files that are read are known, by whatever name, as they were."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")
    with file_reads.noting():
        rows.read_text()
        os.close(os.open(os.fsencode(rows), os.O_RDONLY))
    noted = file_reads.noted()

    assert len(noted) == 1
    assert file_reads.unchanged(noted)
    rows.write_text("new")
    assert not file_reads.unchanged(noted)
    rows.unlink()
    assert not file_reads.unchanged(noted)


def test_changed_before_the_end(tmp_path: Path) -> None:
    """What counts is what was read, not what was there afterwards."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")
    with file_reads.noting():
        rows.read_text()
        rows.write_text("new")

    assert not file_reads.unchanged(file_reads.noted())


def test_of_no_account(tmp_path: Path) -> None:
    """What is no data of the project does not count."""
    for name in ("code.py", "temporary.txt", "later.txt"):
        (tmp_path / name).write_text("")
    with file_reads.noting():
        (tmp_path / "journal.txt").write_text("written here")
        for name in ("code.py", "temporary.txt", "journal.txt"):
            (tmp_path / name).read_text()
        for path in (pytest.__file__, "/proc/self/status", os.devnull):
            Path(path).read_bytes()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing.txt").read_text()
        (tmp_path / "temporary.txt").unlink()
    (tmp_path / "later.txt").read_text()

    assert names() == set()


def test_another_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are compared in the checkout that tests run in."""
    for checkout, text in (("one", "old"), ("two", "new")):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "rows.csv").write_text(text)
    monkeypatch.setattr(file_reads, "_root", lambda: str(tmp_path / "one"))
    with file_reads.noting():
        (tmp_path / "one" / "rows.csv").read_text()
    noted = file_reads.noted()

    assert [name for name, _ in noted] == ["rows.csv"]
    monkeypatch.setattr(file_reads, "_root", lambda: str(tmp_path / "two"))
    assert not file_reads.unchanged(noted)


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than a comment should hold are not compared in part."""
    monkeypatch.setattr(file_reads, "_MAX_FILES", 1)
    with file_reads.noting():
        for name in "ab":
            (tmp_path / name).write_bytes(b"")
            file_reads._opened.written.clear()
            (tmp_path / name).read_bytes()

    with pytest.raises(ConfigurationError, match="Migrations have read 2 files, more than the 1"):
        file_reads.noted()


def test_root() -> None:
    """The project's modules are imported from the directory that its settings' package is in."""
    assert file_reads._root() == str(Path(__file__).parents[2])
