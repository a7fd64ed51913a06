"""Run the suites with both runners, in several ways, and print what differs and how long it took.

Ways are: as they come, with two processes, and in a shuffled order. As they come they are run twice
with ours, the first time without a template.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.compat.projects import DATABASE, PROJECTS, Project
from tests.servers import SUPERUSER, Server, find_bin_dir

OUTCOMES = ("failures", "errors", "skipped", "expectedFailures", "unexpectedSuccesses")
ROOT = Path(__file__).parents[2]
RUNNERS = {"stock": "tests.compat.runners.Stock", "ours": "tests.compat.runners.Ours"}
# By the way to run: which runners, one after the other, and the options of unittest and of pytest.
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "as they come": (("stock", "ours", "ours"), (), ()),
    "two processes": (("stock", "ours"), ("--parallel=2",), ("-n", "2")),
    "shuffled": (
        ("stock", "ours"),
        ("--shuffle=1",),
        ("-p", "random_order", "--random-order", "--random-order-seed=1"),
    ),
}
TIMEOUT_S = 3600
# Named as what Python installs into, so that it counts as installed here, too.
PACKAGES = "site-packages"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a suite.

    Attributes:
        outcomes: How its tests ended.
        wall_s: How long it took.
        cpu_s: How much time processors spent on it, in the tests and in the server.
    """

    outcomes: Any
    wall_s: float
    cpu_s: float


def read_cpu(server: Server) -> float:
    """Return how much time our children so far and the server have had, in seconds (proc(5))."""
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    postmaster = (server.data_dir / "postmaster.pid").read_text().split()[0]
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            parent, user, system, user_of_ended, system_of_ended = map(
                int, (fields[1], *fields[11:15])
            )
            if path.parent.name == postmaster:
                ticks += user + system + user_of_ended + system_of_ended
            elif str(parent) == postmaster:
                ticks += user + system
    return ours.ru_utime + ours.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def fetch(project: Project, into: Path, repositories: Path | None) -> Path:
    """Fetch a project's source and return where it is.

    That is a source distribution from pip, of Django in the version that runs; where those are
    without tests, the repository.
    """
    if project.repository:
        root = into / project.repository.rpartition("/")[2]
        kept = repositories and repositories / project.repository.replace("/", "+")
        is_kept = kept is not None and kept.exists()
        address = kept if is_kept else f"https://github.com/{project.repository}"
        depth = () if is_kept else ("--depth=1",)
        subprocess.run(["git", "clone", "-q", *depth, str(address), str(root)], check=True)
        return root
    requirement = project.requirement
    if requirement == "django":
        requirement = f"django=={importlib.metadata.version('django')}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "-d", str(into), requirement], check=True, stderr=subprocess.DEVNULL)
    (archive,) = into.glob("*.tar.gz")
    shutil.unpack_archive(archive, into, filter="data")
    (root,) = (path for path in into.iterdir() if path.is_dir())
    return root


def install_needs(project: Project, root: Path) -> None:
    """Install what a suite needs beside it, in the versions that are here where they are here."""
    needs = (*project.needs, *(("pytest-random-order",) if project.by_pytest else ()))
    if not needs:
        return
    constraints = root / "compat_constraints.txt"
    constraints.write_text(
        "".join(f"{each.name}=={each.version}\n" for each in importlib.metadata.distributions())
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--constraint", str(constraints)]
    command = [*pip, "--target", str(root / PACKAGES), *needs]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def run(project: Project, root: Path, server: Server, runner: str, options: tuple[str, ...]) -> Run:
    """Run a suite."""
    (root / "compat_settings.py").write_text(DATABASE + project.settings)
    outcome = root / f"outcome_{runner}"
    outcome.unlink(missing_ok=True)
    parameters = server.parameters()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(root), project.environment(root), str(ROOT), str(root / PACKAGES)]
        ),
        "COMPAT_HOST": str(parameters["host"]),
        "COMPAT_PORT": str(parameters["port"]),
        "COMPAT_USER": SUPERUSER,
        "COMPAT_PASSWORD": server.password,
        "COMPAT_RUNNER": RUNNERS[runner],
        "COMPAT_OUTCOME": str(outcome),
    }
    by_pytest = (f"--junitxml={outcome}", *(("-p", "no:pgsnap") if runner == "stock" else ()))
    began, cpu_before = time.monotonic(), read_cpu(server)
    ended = subprocess.run(
        [sys.executable, *project.command, *options, *(by_pytest if project.by_pytest else ())],
        cwd=root / project.directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    wall_s, cpu_s = time.monotonic() - began, read_cpu(server) - cpu_before
    (root / f"output_{runner}.txt").write_text(ended.stdout + ended.stderr)
    if not outcome.exists():
        raise RuntimeError(f"the suite did not run: {ended.stdout}{ended.stderr}")
    text = outcome.read_text()
    outcomes = read_junit(text) if project.by_pytest else json.loads(text)
    return Run(outcomes=outcomes, wall_s=wall_s, cpu_s=cpu_s)


def read_junit(text: str) -> dict[str, Any]:
    """Return how tests ended from what pytest wrote down."""
    cases = list(ET.fromstring(text).iter("testcase"))  # noqa: S314  # written here
    found: dict[str, Any] = {outcome: [] for outcome in OUTCOMES}
    kinds = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    for case in cases:
        for each in case:
            if each.tag in kinds:
                found[kinds[each.tag]].append(f"{case.get('classname')}::{case.get('name')}")
    return {**{name: sorted(tests) for name, tests in found.items()}, "ran": len(cases)}


def compare(name: str, server: Server, into: Path, options: argparse.Namespace) -> bool:
    """Run a suite with both runners, print what differs, and tell whether all is alike."""
    project = PROJECTS[name]
    place = into / name
    place.mkdir(parents=True)
    source = place / "source"
    source.mkdir()
    root = fetch(project, source, options.repositories)
    install_needs(project, root)
    alike = True
    for way in options.ways:
        runners, of_unittest, of_pytest = WAYS[way]
        more = of_pytest if project.by_pytest else of_unittest
        found = [run(project, root, server, runner, more) for runner in runners]
        sys.stdout.writelines(f"{line}\n" for line in report(f"{root.name}, {way}", *found))
        sys.stdout.flush()
        alike = alike and all(each.outcomes == found[0].outcomes for each in found)
    return alike


def report(name: str, stock: Run, *ours: Run) -> Iterator[str]:
    """Yield what is to be said of a suite: with stock Django, and of each run with ours."""
    expected = stock.outcomes
    failed = len(expected["failures"]) + len(expected["errors"])
    yield (
        f"{name}: {expected['ran']} tests, {failed} fail with stock Django; {stock.wall_s:.1f} s, "
        f"CPU {stock.cpu_s:.1f} s"
    )
    for run in ours:
        outcomes = run.outcomes
        end = "alike" if outcomes == expected else "not alike:"
        yield (
            f"  with ours {run.wall_s:.1f} s ({run.wall_s / stock.wall_s:.2f}), "
            f"CPU {run.cpu_s:.1f} s ({run.cpu_s / stock.cpu_s:.2f}), {end}"
        )
        if expected["ran"] != outcomes["ran"]:
            yield f"  {outcomes['ran']} tests"
        for outcome in OUTCOMES:
            more, fewer = outcomes[outcome], expected[outcome]
            yield from (f"  + {outcome}: {test}" for test in less(more, fewer))
            yield from (f"  - {outcome}: {test}" for test in less(fewer, more))


def less(tests: list[str], others: list[str]) -> list[str]:
    """Return the tests that are not among others."""
    return [test for test in tests if test not in others]


def main() -> int:
    """Compare the suites that the command line names, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("projects", nargs="*", choices=[*PROJECTS, []], default=[])
    parser.add_argument("--server", default="15", help="one with contrib and ICU")
    parser.add_argument("--directory", type=Path, help="keep what was fetched and printed here")
    parser.add_argument("--repositories", type=Path, help="repositories by 'owner+name'")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    server = Server(find_bin_dir(options.server))
    with tempfile.TemporaryDirectory() as temporary:
        try:
            server.start()
            into = options.directory or Path(temporary)
            alike = [compare(name, server, into, options) for name in options.projects or PROJECTS]
        finally:
            server.remove()
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
