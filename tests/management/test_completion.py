"""Shell completion, as the shells themselves do it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from django_pgsnap.management.arguments import SHELLS, SUBCOMMANDS
from django_pgsnap.management.completion import completion_script
from django_pgsnap.snapshots.take import take
from tests.conftest import Call
from tests.project import Manage

# The last word is the one that the cursor is in.
ASK_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_pgsnap
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(tmp_path: Path, *words: str) -> list[str]:
    """Return what bash offers after these words."""
    script = tmp_path / "completion.bash"
    script.write_text(completion_script("bash"))
    environment = {**os.environ, "PGSNAP_COMPLETION_DIR": str(tmp_path / "names")}
    ended = subprocess.run(
        ["bash", "-c", ASK_BASH, "bash", str(script), *words],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert ended.stderr == ""
    return ended.stdout.split()


def test_subcommands_and_options(tmp_path: Path) -> None:
    """Verbs, with their other words, and the options of each are offered, by any way to call it."""
    words = {word for name, each in SUBCOMMANDS.items() for word in (name, *each.aliases)}

    assert set(complete(tmp_path, "./manage.py", "pgsnap", "")) == words
    assert complete(tmp_path, "python", "manage.py", "pgsnap", "sta") == ["status"]
    assert complete(tmp_path, "./manage.py", "pgsnap", "prune", "--k") == ["--keep"]
    assert complete(tmp_path, "./manage.py", "pgsnap", "rm", "--al") == ["--all"]
    assert complete(tmp_path, "./manage.py", "pg") == ["pgsnap"]
    assert complete(tmp_path, "python", "script.py", "arg") == []


def test_names(live: str, manage: Manage, tmp_path: Path) -> None:
    """Names that the last command left are offered where a name belongs; no Django is started."""
    take("seeded", spare=False)
    take("feature/x", spare=False)
    names = tmp_path / "names"

    manage("pgsnap", "list", env={"PGSNAP_COMPLETION_DIR": str(names)})
    (file,) = names.iterdir()
    # What stands for manage.py here is a module of Django's.
    (names / str(tmp_path).replace("/", "%")).write_text(file.read_text())

    assert file.name.replace("%", "/").startswith("/")
    assert set(complete(tmp_path, "./manage.py", "pgsnap", "restore", "")) == {
        "seeded",
        "feature/x",
    }
    assert complete(tmp_path, "./manage.py", "pgsnap", "restore", "fea") == ["feature/x"]
    assert complete(tmp_path, "./manage.py", "pgsnap", "list", "") == []


def test_nothing_is_left_unasked(live: str, manage: Manage, tmp_path: Path) -> None:
    """Where no shell asks for names, none are written."""
    manage("pgsnap", "take", "seeded", env={"HOME": str(tmp_path)})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_one_of_the_shell(shell: str, call: Call) -> None:
    """The command prints a script that the shell can read, where that shell is installed."""
    script = call("pgsnap", "completion", shell).stdout

    assert "PGSNAP_COMPLETION_DIR" in script
    assert script.isascii()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    read = subprocess.run([shell, "-n"], check=False, input=script, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_options_in_fish(tmp_path: Path) -> None:
    """Options are offered after each name of a subcommand."""
    script = tmp_path / "completion.fish"
    script.write_text(completion_script("fish"))

    for name in ("delete", "rm"):
        ask = f"source {script}; complete -C 'manage.py pgsnap {name} --fo'"
        ended = subprocess.run(
            ["fish", "--no-config", "-c", ask],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert ended.stdout.split() == ["--force"]
