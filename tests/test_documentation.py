"""What the documentation refers to is there."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.project import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\(([^)#]+)|^\[[a-z]+\]: (\S+)", re.MULTILINE)
SOURCE = re.compile(r"`((?:django_pgsnap|tests|benchmarks|docs|example_project)/[\w/.]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Links to pages of this repository lead to files of it; the README's work elsewhere too."""
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    base = f"{repository['Repository']}/blob/main/"
    targets = [first or second for first, second in LINK.findall(page.read_text())]
    ours = [target for target in targets if not target.startswith("http")]
    files = [page.parent / target for target in ours]
    files += [ROOT / each.removeprefix(base) for each in targets if each.startswith(base)]

    assert [file for file in files if not file.exists()] == []
    assert page.name != "README.md" or ours == []


def test_module_for_files_is_the_tested_one() -> None:
    """What docs/files.md says to copy is what the example project uses."""
    code = (ROOT / "example_project/contracts/media.py").read_text()

    assert f"```python\n{code}```" in (ROOT / "docs/files.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """Files of this repository that a page names are there."""
    named = SOURCE.findall(page.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []
