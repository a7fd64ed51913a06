"""Which files migrations read, and whether they are still the same."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_pgsnap.errors import ConfigurationError
from django_pgsnap.testbed import opened


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    opened._opened.digests.clear()
    opened._opened.written.clear()
    yield
    opened._opened.digests.clear()
    opened._opened.written.clear()


def names() -> set[str]:
    return {Path(name).name for name, _ in opened.noted()}


def test_read(tmp_path: Path) -> None:
    """Files that are read are known, by whatever name, as they were."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")
    with opened.noting():
        rows.read_text()
        os.close(os.open(os.fsencode(rows), os.O_RDONLY))
    noted = opened.noted()

    assert len(noted) == 1
    assert opened.unchanged(noted)
    rows.write_text("new")
    assert not opened.unchanged(noted)
    rows.unlink()
    assert not opened.unchanged(noted)


def test_changed_before_the_end(tmp_path: Path) -> None:
    """What counts is what was read, not what was there afterwards."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")
    with opened.noting():
        rows.read_text()
        rows.write_text("new")

    assert not opened.unchanged(opened.noted())


def test_of_no_account(tmp_path: Path) -> None:
    """What is no data of the project does not count."""
    for name in ("code.py", "temporary.txt", "later.txt"):
        (tmp_path / name).write_text("")
    with opened.noting():
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
    monkeypatch.setattr(opened, "_root", lambda: str(tmp_path / "one"))
    with opened.noting():
        (tmp_path / "one" / "rows.csv").read_text()
    noted = opened.noted()

    assert [name for name, _ in noted] == ["rows.csv"]
    monkeypatch.setattr(opened, "_root", lambda: str(tmp_path / "two"))
    assert not opened.unchanged(noted)


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than a comment should hold are not compared in part."""
    monkeypatch.setattr(opened, "_MAX_FILES", 1)
    with opened.noting():
        for name in "ab":
            (tmp_path / name).write_bytes(b"")
            opened._opened.written.clear()
            (tmp_path / name).read_bytes()

    with pytest.raises(ConfigurationError, match="Migrations have read 2 files, more than the 1"):
        opened.noted()


def test_root() -> None:
    """The project's modules are imported from the directory that its settings' package is in."""
    assert opened._root() == str(Path(__file__).parents[1])
