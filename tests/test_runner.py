"""The test runner, on real suites in processes of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ListDatabases, RunSql
from tests.servers import Server
from tests.suites.project import Project


@pytest.fixture
def project(clean_server: Server, tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, clean_server)
    yield project
    project.end()


def test_second_run_does_not_migrate(project: Project) -> None:
    """The first run migrates, the second finds what it needs."""
    assert project.test() == ["first"]
    assert project.test() == []
