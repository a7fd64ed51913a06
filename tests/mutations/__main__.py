"""Tries mutations: `python -m tests.mutations`, or `tox run -e mutation`.

Each is made in a copy of the package, where the tests that it names are run. If they pass, the
mutation survives: nothing tests what it breaks. It must also fit the package as it is, so whoever
changes the code that it breaks has to say anew what is to be broken.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LISTS = sorted(Path(__file__).parent.glob("*.toml"))
NEEDED = ("django_pgsnap", "tests", "example_project", "docs", "pyproject.toml", "README.md")

HISTORIES = "tests/histories/test_histories.py"

# What pytest's exit status says: tests failed. All else means that they were not run as they are.
FOUND = 1


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A fault, and who has to find it.

    Attributes:
        name: what the package does no longer, or does wrong.
        file: where, below the package.
        old: the text that is replaced; it must be there exactly once.
        new: what it is replaced by.
        tests: for pytest: files, or tests by their node ids.
        server: the PostgreSQL to run on, where it matters; None for whichever is chosen.
        in_histories: whether random histories find it, too; see `--histories`.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list[str]
    server: str | None = None
    in_histories: bool = False

    def apply(self, tree: Path) -> None:
        """Make the fault in a copy of the project.

        Raises:
            ValueError: It does not fit the code as it is now.
        """
        file = tree / "django_pgsnap" / self.file
        code = file.read_text() if file.exists() else ""
        count = code.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file} has the text {count} times: {self.old!r}")
        file.write_text(code.replace(self.old, self.new))


def read_mutations() -> list[Mutation]:
    """Return all mutations of the lists beside this file."""
    return [
        Mutation(**values)
        for path in LISTS
        for values in tomllib.loads(path.read_text())["mutation"]
    ]


def try_out(mutation: Mutation, histories: int = 0) -> str:
    """Return why the mutation was not found; empty if it was.

    Args:
        mutation: What is to be found.
        histories: After how many random histories, instead of by the tests that it names.
    """
    tests = [HISTORIES] if histories else mutation.tests
    with _copied_project() as tree:
        try:
            mutation.apply(tree)
        except ValueError as error:
            return f"does not fit: {error}"
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"),
                *("-n0", "--override-ini=timeout=90", *tests),
            ],
            cwd=tree,
            env=_environment(tree, mutation.server, histories),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if ended.returncode == FOUND:
        return ""
    if ended.returncode == 0:
        return "survives"
    return f"pytest ended with {ended.returncode}:\n{ended.stdout[-3000:]}"


def _timed(mutation: Mutation, *, histories: int) -> tuple[str, float]:
    began = time.monotonic()
    return try_out(mutation, histories), time.monotonic() - began


@contextmanager
def _copied_project() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgsnap-mutation-") as directory:
        tree = Path(directory)
        for name in NEEDED:
            source, target = ROOT / name, tree / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, target)
        yield tree


def _environment(tree: Path, server: str | None, histories: int) -> dict[str, str]:
    # The copy is to be imported, wherever else the package is installed.
    others = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    chosen = {"PGSNAP_TEST_SERVER": server} if server else {}
    if histories:
        chosen |= {"PGSNAP_HISTORIES": str(histories), "PGSNAP_SHRINKING": "0"}
    return {**others, "PYTHONPATH": str(tree), **chosen}


def main() -> int:
    """Try the chosen mutations, and say which are not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutations whose names have one of these")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--histories", type=int, default=0, help="have so many random histories find them"
    )
    options = parser.parse_args()
    chosen = [
        each
        for each in read_mutations()
        if (each.in_histories or not options.histories)
        and (not options.words or any(word in each.name for word in options.words))
    ]
    missed = 0
    with ThreadPoolExecutor(options.processes) as pool:
        found = pool.map(partial(_timed, histories=options.histories), chosen)
        for mutation, (problem, seconds) in zip(chosen, found, strict=True):
            missed += bool(problem)
            print(f"{mutation.name}: {problem or 'found'} ({seconds:.0f} s)", flush=True)  # noqa: T201
    print(f"{len(chosen)} mutations, {missed} of them not found")  # noqa: T201
    return int(bool(missed) or not chosen)


if __name__ == "__main__":
    sys.exit(main())
