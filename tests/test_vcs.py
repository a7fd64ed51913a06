"""What the working copy of the project's code is at."""

import subprocess
from pathlib import Path

import pytest
from django.conf import settings

from django_pgsnap import vcs
from django_pgsnap.vcs import Checkout, checkout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's directory, in no working copy yet."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.setattr(settings, "BASE_DIR", directory, raising=False)
    return directory


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    return subprocess.check_output(["git", *identity, *arguments], cwd=project, text=True).strip()


@pytest.fixture
def commit(project: Path) -> str:
    """The only commit of the project's working copy, whose one file is ``models.py``."""
    git(project, "init", "--quiet", "--initial-branch", "feature/übung")
    (project / "models.py").write_text("old")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "Begin")
    return git(project, "rev-parse", "HEAD")


def test_clean_working_copy(commit: str) -> None:
    """Branch and commit are told, and that nothing was changed since."""
    assert checkout() == Checkout(branch="feature/übung", commit=commit, dirty=False)


def test_changed_file_is_dirty(project: Path, commit: str) -> None:
    """A change that is not committed counts."""
    (project / "models.py").write_text("new")

    assert checkout() == Checkout(branch="feature/übung", commit=commit, dirty=True)


def test_untracked_file_is_clean(project: Path, commit: str) -> None:
    """A file that git does not know does not count."""
    (project / "notes.txt").write_text("mine")

    assert not checkout().dirty


def test_subdirectory(project: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project may be a part of the working copy."""
    (project / "backend").mkdir()
    monkeypatch.setattr(settings, "BASE_DIR", str(project / "backend"))

    assert checkout().commit == commit


def test_detached_head(project: Path, commit: str) -> None:
    """Without a branch git's own word for that is told."""
    git(project, "checkout", "--quiet", "--detach")

    assert checkout() == Checkout(branch="(detached)", commit=commit)


def test_nothing_committed_yet(project: Path) -> None:
    """A fresh working copy has a branch, but no commit."""
    git(project, "init", "--quiet", "--initial-branch", "main")

    assert checkout() == Checkout(branch="main")


def test_no_working_copy(project: Path) -> None:
    """Without git's directory nothing is told."""
    assert checkout() == Checkout()


def test_no_directory(project: Path) -> None:
    """A project's directory that does not exist is no reason to fail."""
    project.rmdir()

    assert checkout() == Checkout()


def test_no_git(commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git is no reason to fail."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert checkout() == Checkout()


def test_slow_git(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that takes too long is not waited for."""
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\nexec sleep 200\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(vcs, "_TIMEOUT_S", 0.05)

    assert checkout() == Checkout()


def test_leaves_the_index_alone(project: Path, commit: str) -> None:
    """Looking takes no lock that a commit at the same time would fail on."""
    index = project / ".git" / "index"
    (project / "models.py").write_text("old")
    before = index.stat().st_mtime_ns, index.read_bytes()

    checkout()

    assert (index.stat().st_mtime_ns, index.read_bytes()) == before


def test_without_base_dir(project: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without ``BASE_DIR`` is looked for where the process is."""
    monkeypatch.delattr(settings, "BASE_DIR")
    monkeypatch.chdir(project)

    assert checkout().commit == commit
