"""Fixtures: a real browser, and the project as a server process for it to visit."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.browser.visitor import Visitor
from tests.ports import free_port
from tests.project import ROOT, Manage, child_environment

PATIENCE_S = 30

# Everything that would have it talk to somebody else than us is off.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--lang=en-US",
)


# Where `npm install axe-core` puts it.
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core; without it the test is skipped, and fails on CI."""
    path = Path(os.environ.get("PGSNAP_AXE", AXE))
    if not path.exists():
        give_up(f"{path} is not there (npm install axe-core)")
    return path.read_text()


def give_up(reason: str) -> NoReturn:
    """Skip a test for want of something, and fail on CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find(program: str) -> str:
    """Return where a program is; without it the test is skipped, and fails on CI."""
    path = shutil.which(program)
    if path is None:
        give_up(f"{program} is not installed (on Debian: apt install chromium chromium-driver)")
    return path


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium without a window, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium")
    service = Service(find("chromedriver"))
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def changed_settings() -> dict[str, Any]:
    """The settings that are others in the served project than here."""
    return {}


@pytest.fixture
def address(live: str, manage: Manage, changed_settings: dict[str, Any]) -> str:
    """The address of the project, served by a process of its own."""
    address = f"http://127.0.0.1:{free_port()}"
    place = address.removeprefix("http://")
    environment = child_environment(**changed_settings)
    manage.start("runserver", "--noreload", "--insecure", place, env=environment)
    deadline = time.monotonic() + PATIENCE_S
    while not answers(f"{address}/admin/login/"):
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.02)
    return address


@pytest.fixture
def visitor(chromium: webdriver.Chrome, address: str) -> Iterator[Visitor]:
    """Somebody at the browser, who has not logged in yet."""
    visitor = Visitor(chromium, address, screenshots())
    yield visitor
    chromium.delete_all_cookies()


def screenshots() -> Path | None:
    """Return where to leave screenshots for people to look at, None for nowhere."""
    place = os.environ.get("PGSNAP_SCREENSHOTS")
    return Path(place) if place else None


def answers(address: str) -> bool:
    """Tell whether a page is served."""
    try:
        with urlopen(address, timeout=PATIENCE_S):  # noqa: S310  # http, and our own
            return True
    except URLError:
        return False
