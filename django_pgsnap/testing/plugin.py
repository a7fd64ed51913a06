"""The pytest plugin: what the runner does, for suites that pytest-django runs.

pytest loads this before there are settings, and where there will never be any. So it imports
nothing of Django at first, and does nothing where ``django_pgsnap`` is not among the installed
apps.
"""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker

    from ..snapshots.types import Snapshot


# pytest-django's, once there are test databases.
_BLOCKER = pytest.StashKey["DjangoDbBlocker"]()

# What was said of templates; several workers may say the same.
_SAID = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Note which files code reads from now on, when nobody has imported models yet."""
    if early_config.pluginmanager.hasplugin("django"):
        from .databases.file_reads import file_reads

        file_reads.begin()


def pytest_collection_finish() -> None:
    """Leave what is read from now on to the tests."""
    from .databases.file_reads import file_reads

    file_reads.end()


# Where nothing was collected, too.
pytest_unconfigure = pytest_collection_finish


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "pgsnap(snapshot): have the test start from a development snapshot."
    )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Say what a worker of pytest-xdist would have said."""
    for text in getattr(node, "workeroutput", {}).get("pgsnap", ()):
        _say(node.config, text, 0)


def _say(config: pytest.Config, text: str, level: int) -> None:
    """Say what Django says from this verbosity on, at once, or when a worker ends.

    pytest's ``-v`` is worth two.
    """
    said = config.stash.setdefault(_SAID, [])
    if config.option.verbose + 1 < level or text in said:
        return
    said.append(text)
    if hasattr(config, "workeroutput"):
        config.workeroutput["pgsnap"] = said
    elif reporter := config.pluginmanager.getplugin("terminalreporter"):
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(f"pgsnap: {text}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Announce that tests run, also for those that use no database, or set it up themselves."""
    if _is_on():
        from .databases import own_databases

        own_databases.announce_tests()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let tests with the mark use the database; how, they may say by pytest-django's own."""
    if _snapshot_of(item) and item.get_closest_marker("django_db") is None:
        item.add_marker("django_db")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse tests with the mark where it can mean nothing."""
    if _snapshot_of(item):
        _require_app("mark pgsnap")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Have test databases cloned from templates, whoever's fixture it is that sets them up."""
    if fixturedef.argname == "django_db_setup" and _is_on():
        from ..errors import PgsnapError
        from . import creation

        creation.install(partial(_say, request.config), under_pytest=True)
        request.config.stash[_BLOCKER] = request.getfixturevalue("django_db_blocker")
        try:
            return (yield)
        except PgsnapError as error:
            # Each further test would only say it again.
            request.session.shouldfail = "there are no test databases"
            raise pytest.fail.Exception(str(error), pytrace=False) from None
    elif fixturedef.argname == "_django_db_helper" and _snapshot_of(request.node):
        from ..errors import PgsnapError
        from .cases import use_snapshot

        # Before pytest-django begins the test's transaction, and when there are test databases.
        who = f"{request.module.__name__}.{request.node.name}"
        try:
            with request.config.stash[_BLOCKER].unblock():
                use_snapshot(_snapshot_of(request.node), who)
        except (PgsnapError, SkipTest):
            # pytest needs the fixture to have been set up, whatever is wrong with the test.
            yield
            raise
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Put back what tests started from, when the next one starts from something else."""
    try:
        return (yield)
    finally:
        if (blocker := item.config.stash.get(_BLOCKER, None)) is not None:
            from .cases import leave_class, use_snapshot

            cls = getattr(item, "cls", None)
            with blocker.unblock():
                if cls is not None and cls is not getattr(nextitem, "cls", None):
                    leave_class(cls)
                if _snapshot_of(nextitem) != _snapshot_of(item):
                    use_snapshot("")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    """Leave test databases to Django again, once all fixtures are torn down."""
    result = yield
    if _is_on():
        from . import creation
        from .databases.own_databases import find_own_database, list_made_databases

        # Where they are kept, aliases still lead to them. What a test made the next run sweeps.
        creation.keep(own for own in list_made_databases() if find_own_database(own.alias) == own)
        creation.uninstall()
    return result


@pytest.fixture
def pgsnap(transactional_db: None) -> Iterator[SimpleNamespace]:  # noqa: ARG001  # for its effect
    """Take snapshots of the test databases and restore them; they are gone after the test.

    ``take`` names one that is given no name ``snap1``, ``snap2``, …. ``restore`` and ``undo`` are
    those of the package.
    """
    _require_app("fixture pgsnap")
    from ..snapshots.manage import delete
    from ..snapshots.restore import restore, undo
    from ..snapshots.take import take

    taken = []

    def take_until_end(name: str | None = None) -> "Snapshot":
        # No spare: a restore in the next moment would wait for it.
        snapshot = take(name, spare=False)
        taken.append(snapshot.name)
        return snapshot

    yield SimpleNamespace(take=take_until_end, restore=restore, undo=undo)
    if taken:
        delete(*taken)


@pytest.fixture
def assert_database_changes() -> Callable[..., AbstractContextManager[None]]:
    """Assert what a block does to the database, and that it does nothing else."""
    from .assertions import DatabaseChangesMixin

    return DatabaseChangesMixin().assertDatabaseChanges


@pytest.fixture(scope="class")
def pgsnap_class(
    django_db_setup: None,  # noqa: ARG001  # for its effect
    django_db_blocker: "DjangoDbBlocker",
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Let fixtures of a class write to the test databases; it is undone after the class.

    What the class' tests start from is made in its ``with`` block::

        @pytest.fixture(scope="class")
        def shop(pgsnap_class):
            with pgsnap_class():
                return Shop.objects.create(name="first")
    """
    _require_app("fixture pgsnap_class")
    from .cases import adopt_states, restore_states

    with django_db_blocker.unblock():
        before = adopt_states("a class")
    yield django_db_blocker.unblock
    with django_db_blocker.unblock():
        restore_states(before)


def _snapshot_of(item: pytest.Item | None) -> str:
    marker = item.get_closest_marker("pgsnap") if item is not None else None
    return str(marker.args[0]) if marker is not None else ""


def _require_app(what: str) -> None:
    if not _is_on():
        pytest.fail(f"The {what} needs django_pgsnap in INSTALLED_APPS.", pytrace=False)


def _is_on() -> bool:
    """Tell whether this is a Django project that has the app."""
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return False
    from django.apps import apps

    return apps.ready and apps.is_installed("django_pgsnap")
