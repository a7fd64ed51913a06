"""Run the suites with both runners, and print what differs."""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.compat.projects import DATABASE, PROJECTS, Project
from tests.servers import SUPERUSER, Server, find_bin_dir

OUTCOMES = ("failures", "errors", "skipped", "expectedFailures", "unexpectedSuccesses")
ROOT = Path(__file__).parents[2]
RUNNERS = {"stock": "tests.compat.runners.Stock", "ours": "tests.compat.runners.Ours"}
TIMEOUT_S = 600


def fetch(project: Project, into: Path) -> Path:
    """Have pip fetch a source distribution, of Django in the version that runs, and unpack it."""
    requirement = project.requirement
    if requirement == "django":
        requirement = f"django=={importlib.metadata.version('django')}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "-d", str(into), requirement], check=True, stderr=subprocess.DEVNULL)
    (archive,) = into.glob("*.tar.gz")
    shutil.unpack_archive(archive, into, filter="data")
    (root,) = (path for path in into.iterdir() if path.is_dir())
    return root


def run(project: Project, root: Path, server: Server, runner: str, packages: Path) -> Any:
    """Run a suite, and return how its tests ended."""
    (root / "compat_settings.py").write_text(DATABASE + project.settings)
    outcome = root / f"outcome_{runner}.json"
    parameters = server.parameters()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(root), project.environment(root), str(ROOT), str(packages)]
        ),
        "COMPAT_HOST": str(parameters["host"]),
        "COMPAT_PORT": str(parameters["port"]),
        "COMPAT_USER": SUPERUSER,
        "COMPAT_PASSWORD": server.password,
        "COMPAT_RUNNER": RUNNERS[runner],
        "COMPAT_OUTCOME": str(outcome),
    }
    ended = subprocess.run(
        [sys.executable, *project.command],
        cwd=root / project.directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    (root / f"output_{runner}.txt").write_text(ended.stdout + ended.stderr)
    if not outcome.exists():
        raise RuntimeError(f"the suite did not run: {ended.stdout}{ended.stderr}")
    return json.loads(outcome.read_text())


def compare(name: str, server: Server, into: Path) -> bool:
    """Run a suite with both runners, print what differs, and tell whether all is alike."""
    project = PROJECTS[name]
    place = into / name
    place.mkdir(parents=True)
    packages = place / "packages"
    if project.needs:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*pip, str(packages), *project.needs], check=True, stderr=subprocess.DEVNULL)
    source = place / "source"
    source.mkdir()
    root = fetch(project, source)
    found = {runner: run(project, root, server, runner, packages) for runner in RUNNERS}
    sys.stdout.writelines(f"{line}\n" for line in report(root.name, **found))
    sys.stdout.flush()
    return bool(found["stock"] == found["ours"])


def report(name: str, stock: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    """Yield what is to be said of a suite."""
    failed = len(stock["failures"]) + len(stock["errors"])
    end = "alike with ours" if stock == ours else "not alike with ours:"
    yield f"{name}: {stock['ran']} tests, of which {failed} fail with stock Django; {end}"
    if stock["ran"] != ours["ran"]:
        yield f"  {ours['ran']} tests"
    for outcome in OUTCOMES:
        yield from (f"  + {outcome}: {test}" for test in less(ours[outcome], stock[outcome]))
        yield from (f"  - {outcome}: {test}" for test in less(stock[outcome], ours[outcome]))


def less(tests: list[str], others: list[str]) -> list[str]:
    """Return the tests that are not among others."""
    return [test for test in tests if test not in others]


def main() -> int:
    """Compare the suites that the command line names, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("projects", nargs="*", choices=[*PROJECTS, []], default=[])
    parser.add_argument("--server", default="18")
    parser.add_argument("--directory", type=Path, help="keep what was fetched and printed here")
    options = parser.parse_args()
    server = Server(find_bin_dir(options.server))
    with tempfile.TemporaryDirectory() as temporary:
        try:
            server.start()
            into = options.directory or Path(temporary)
            alike = [compare(name, server, into) for name in options.projects or PROJECTS]
        finally:
            server.remove()
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
