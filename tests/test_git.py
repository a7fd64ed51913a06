"""What the working copy of the project's code is at."""

import subprocess
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_pgsnap import git
from django_pgsnap.git import Checkout, read_checkout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's directory, in no working copy yet."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.setattr(django_settings, "BASE_DIR", directory, raising=False)
    return directory


def run_git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    return subprocess.check_output(["git", *identity, *arguments], cwd=project, text=True).strip()


@pytest.fixture
def commit(project: Path) -> str:
    """The only commit of the project's working copy, whose one file is ``models.py``."""
    run_git(project, "init", "--quiet", "--initial-branch", "feature/übung")
    (project / "models.py").write_text("old")
    run_git(project, "add", ".")
    run_git(project, "commit", "--quiet", "--message", "Begin")
    return run_git(project, "rev-parse", "HEAD")


def test_clean_working_copy(commit: str) -> None:
    """Branch and commit are told, and that nothing was changed since."""
    assert read_checkout() == Checkout(branch="feature/übung", commit=commit, dirty=False)


@settings(max_examples=25)
@given(branch=st.text(st.characters(codec="utf-8"), max_size=12))
@example(branch="a\N{LINE SEPARATOR}b\x85c\N{RIGHT-TO-LEFT OVERRIDE}'\";%s{}$(x)")
def test_any_branch(branch: str, project: Path, commit: str) -> None:
    """A branch has the name that git gives it; where that is none, git's own word is told."""
    (project / ".git" / "HEAD").write_bytes(f"ref: refs/heads/{branch}\n".encode())
    command = ["git", "symbolic-ref", "HEAD"]
    known = subprocess.run(command, cwd=project, capture_output=True, check=False).stdout.decode()

    found = read_checkout()

    assert found.branch == (known.removeprefix("refs/heads/").rstrip("\n") or "(unknown)")


def test_file_with_an_odd_name(project: Path, commit: str) -> None:
    """No name of a changed file is taken for what git says of the branch."""
    run_git(project, "config", "core.quotePath", "false")
    (project / "\N{LINE SEPARATOR}# branch.head").touch()
    run_git(project, "add", ".")

    assert read_checkout() == Checkout(branch="feature/übung", commit=commit, dirty=True)


def test_changed_file_is_dirty(project: Path, commit: str) -> None:
    """A change that is not committed counts."""
    (project / "models.py").write_text("new")

    assert read_checkout() == Checkout(branch="feature/übung", commit=commit, dirty=True)


def test_untracked_file_is_clean(project: Path, commit: str) -> None:
    """A file that git does not know does not count."""
    (project / "notes.txt").write_text("mine")

    assert not read_checkout().dirty


def test_subdirectory(project: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project may be a part of the working copy."""
    (project / "backend").mkdir()
    monkeypatch.setattr(django_settings, "BASE_DIR", str(project / "backend"))

    assert read_checkout().commit == commit


def test_detached_head(project: Path, commit: str) -> None:
    """Without a branch git's own word for that is told."""
    run_git(project, "checkout", "--quiet", "--detach")

    assert read_checkout() == Checkout(branch="(detached)", commit=commit)


def test_nothing_committed_yet(project: Path) -> None:
    """A fresh working copy has a branch, but no commit."""
    run_git(project, "init", "--quiet", "--initial-branch", "main")

    assert read_checkout() == Checkout(branch="main")


def test_no_working_copy(project: Path) -> None:
    """Without git's directory nothing is told."""
    assert read_checkout() == Checkout()


def test_no_directory(project: Path) -> None:
    """A project's directory that does not exist is no reason to fail."""
    project.rmdir()

    assert read_checkout() == Checkout()


def test_no_git(commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git is no reason to fail."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert read_checkout() == Checkout()


def test_slow_git(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that takes too long is not waited for."""
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\nexec sleep 200\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(git, "_TIMEOUT_S", 0.05)

    assert read_checkout() == Checkout()


def test_leaves_the_index_alone(project: Path, commit: str) -> None:
    """Looking takes no lock that a commit at the same time would fail on."""
    index = project / ".git" / "index"
    (project / "models.py").write_text("old")
    before = index.stat().st_mtime_ns, index.read_bytes()

    read_checkout()

    assert (index.stat().st_mtime_ns, index.read_bytes()) == before


def test_without_base_dir(project: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without ``BASE_DIR`` is looked for where the process is."""
    monkeypatch.delattr(django_settings, "BASE_DIR")
    monkeypatch.chdir(project)

    assert read_checkout().commit == commit


def test_empty_base_dir(project: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty path is where the process is, too."""
    monkeypatch.setattr(django_settings, "BASE_DIR", "")
    monkeypatch.chdir(project)

    assert read_checkout().commit == commit
