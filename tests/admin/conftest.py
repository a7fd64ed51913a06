"""Fixtures: a page that waits for its work, however busy the machine."""

import pytest

from django_pgsnap.admin import progress_pages
from tests.watching import PATIENCE_S


@pytest.fixture(autouse=True)
def _pages_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have work answered at once; what needs longer has tests of its own."""
    monkeypatch.setattr(progress_pages, "_PATIENCE_S", PATIENCE_S)
