"""Other people's themes of the admin show everything that Django's own look does."""

from importlib.util import find_spec
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.urls import include, path

from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests import urls
from tests.browser.conftest import give_up
from tests.browser.visitor import Visitor
from tests.visiting import account, of, page, undo_page
from tests.watching import write

# The app of each theme, and its distribution.
THEMES = {
    "unfold": "django-unfold",
    "jazzmin": "django-jazzmin",
    "grappelli": "django-grappelli",
}

urlpatterns = list(urls.urlpatterns)
if find_spec("grappelli"):
    urlpatterns.append(path("grappelli/", include("grappelli.urls")))


@pytest.fixture(params=THEMES)
def theme(request: pytest.FixtureRequest) -> str:
    """Each theme in turn."""
    app = str(request.param)
    if find_spec(app) is None:
        give_up(f"the theme {app} is not installed (pip install {THEMES[app]})")
    return app


@pytest.fixture
def changed_settings(theme: str) -> dict[str, Any]:
    """The project, with the theme before the admin."""
    return {"INSTALLED_APPS": [theme, *settings.INSTALLED_APPS], "ROOT_URLCONF": __name__}


@pytest.fixture
def snapshot(live: str) -> Snapshot:
    """A snapshot that has been restored."""
    account("ada", is_superuser=True)
    snapshot = take("seeded", note="before the erasure", spare=False)
    write("Lem")
    restore("seeded")
    connection.close()
    return snapshot


def test_everything_is_there(snapshot: Snapshot, theme: str, visitor: Visitor) -> None:
    """Each page names what it is about, and has what one presses there."""
    visitor.go(page("changelist"))
    visitor.log_in("ada")
    expected = {
        page("changelist"): ["seeded", "Replaced states", "Restore"],
        page("add"): ["What will happen", "Take snapshot"],
        undo_page(): ["until the restore of “seeded” on", "Bring back"],
        of("change", snapshot): ["seeded", "Restore", "Delete", "History", "Save"],
        of("restore", snapshot): ["seeded", "What will happen", "Restore"],
        of("delete", snapshot): ["“seeded” of", "Yes, I\u2019m sure"],
        of("history", snapshot): ["seeded"],
    }
    missing = {}
    for address, texts in expected.items():
        visitor.go(address)
        visitor.keep(f"{theme}-{address.strip('/').replace('/', '-')}")
        missing[address] = [text for text in texts if not visitor.sees(text)]
    visitor.go(page("changelist"))
    assert visitor.chromium.find_elements("css selector", f"a[href='{page('add')}']")

    assert {address: texts for address, texts in missing.items() if texts} == {}
