"""What the working copy of the project's code is at, by git."""

import subprocess
from dataclasses import dataclass

from django.conf import settings

_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Branch, commit and cleanliness of a git working copy; empty where there is none."""

    branch: str = ""
    commit: str = ""
    dirty: bool = False


def read_checkout() -> Checkout:
    """Return what the project's directory is at; an empty `Checkout` without git."""
    # One process tells all three: "# branch.oid", "# branch.head", then a line per change.
    # Without the optional lock it is in the way of no commit.
    try:
        status = subprocess.run(
            ("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "-uno"),  # noqa: S607
            cwd=getattr(settings, "BASE_DIR", "") or ".",
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return Checkout()
    # Not splitlines(): a branch may be called by what else ends a line for Python.
    lines = status.split("\n")
    headers = dict(
        line.removeprefix("# ").split(" ", 1) for line in lines if line.startswith("# branch.")
    )
    return Checkout(
        branch=headers.get("branch.head", ""),
        commit=headers.get("branch.oid", "").removeprefix("(initial)"),  # no commit yet
        dirty=any(line and not line.startswith("#") for line in lines),
    )
