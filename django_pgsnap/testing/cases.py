"""What Django, unittest and pytest do between tests, with resets instead of flushes.

Every class starts from a baseline, and so does every test that commits. Classes of ``TestCase``
keep their transactions. `SnapshotTestCase` starts from a clone of a development snapshot. That is
migrated to the state of the code and then kept like a template, as long as the snapshot is the same
and nothing changes that migrating it used. The development database is not touched.
"""

import sys
import unittest
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import SkipTest, mock
from unittest.util import strclass
from weakref import WeakSet

from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connections
from django.test import TestCase, TransactionTestCase
from django.test.testcases import TestData  # type: ignore[attr-defined]

from ..clones.catalog import Database, load_catalog
from ..clones.names import nearest_names
from ..clones.records import CopyRecord
from ..conf import config
from ..connections.reconnect import clear_caches
from ..errors import ConfigurationError, PgsnapError, SnapshotNotFoundError
from .databases import recording, templates
from .databases.facts import read_facts
from .reset.baseline import Baseline
from .reset.connections import unwatch_connections, watch_connections
from .reset.resetter import (
    DatabaseResetter,
    close_resetters,
    explain_errors,
    get_resetter,
    list_resetters,
    use_run_baselines,
)


class SnapshotTestCase(TransactionTestCase):
    """Tests that start from a development snapshot, migrated to the state of the code.

    Aliases that it has no copy of are as in other cases.
    """

    snapshot: str

    @classmethod
    def setUpClass(cls) -> None:
        """Put the snapshot into the test databases, or skip the class where there is none."""
        _start_from_snapshot(strclass(cls), list_resetters(cls), cls.snapshot)
        super().setUpClass()


def _start_from_snapshot(
    who: str, resetters: list[tuple[str, DatabaseResetter]], snapshot: str
) -> None:
    """Have a class or test start from a development snapshot, or skip it where there is none."""
    if not resetters:
        raise ConfigurationError(
            f"{who} cannot start from the snapshot {snapshot!r}, since its databases "
            "were not made by django_pgsnap.",
            hint="Set TEST_RUNNER = 'django_pgsnap.testing.SnapshotRunner'.",
        )
    copies = {alias: _list_copies(alias, resetter) for alias, resetter in resetters}
    if not any(snapshot in each for each in copies.values()):
        alias, resetter = resetters[0]
        near = nearest_names(snapshot, copies[alias])
        instead = f" There is {', '.join(map(repr, near))}." if near else ""
        sources = " or ".join(map(repr, resetter.list_sources(alias)))
        error = SnapshotNotFoundError(
            f"There is no snapshot {snapshot!r} of the database {sources}.{instead}",
            hint=f"Take it: ./manage.py pgsnap take {snapshot}",
        )
        raise error if config().test.require_snapshots else SkipTest(str(error))
    for alias, resetter in resetters:
        if (copy := copies[alias].get(snapshot)) is not None:
            with explain_errors(who, alias):
                prepare = partial(_prepare_copy, resetter, copy)
                resetter.start(resetter.get_named_baseline(copy.record.identity, prepare))


def _list_copies(alias: str, resetter: DatabaseResetter) -> dict[str, Database[CopyRecord]]:
    """Return copies that tests can start from, by the names of their snapshots."""
    sources = resetter.list_sources(alias)
    copies = load_catalog(resetter.session).copies(sources)
    copies.sort(key=lambda copy: sources.index(copy.record.source))
    return {copy.record.name: copy for copy in reversed(copies)}


def _prepare_copy(resetter: DatabaseResetter, copy: Database[CopyRecord]) -> Baseline:
    """Have tests start from a snapshot's copy, migrated."""
    session = resetter.session
    facts = read_facts(connections[resetter.alias], session, copy.record.source)
    wanted = templates.Wanted(
        alias=resetter.alias,
        source=copy.record.source,
        name=copy.record.name,
        snapshot=copy.record.identity,
        facts=facts,
    )
    with templates.lock_building(session, wanted, _tell_nobody):
        found = templates.find_template(session, wanted, _tell_nobody)
        if found is not None:
            templates.note_use(session, found)
            return resetter.start_from_clone(found.database)
        resetter.start_from_clone(copy.name)
        with recording.record(facts) as recorded:
            _migrate_snapshot(resetter.alias, copy.record.name)
        resetter.disconnect_all()
        sealed = templates.seal_or_tell(recorded, _tell_nobody)
        made = templates.publish_or_tell(session, resetter.name, wanted, sealed, _tell_nobody)
        return resetter.start_from_clone(made.database if made else resetter.clone_state())


def _tell_nobody(_text: str, _verbosity: int) -> None:
    """Leave unsaid what a test would have to be told in the middle of a run."""


def _migrate_snapshot(alias: str, snapshot: str) -> None:
    if connections.settings[alias]["TEST"]["MIGRATE"] is False:
        return
    try:
        call_command("migrate", database=alias, verbosity=0, interactive=False, run_syncdb=True)
    except Exception as error:
        error.add_note(
            f"So the snapshot {snapshot!r} cannot be brought to the state of the code, in alias "
            f"{alias!r}.\nTake it again: ./manage.py pgsnap take {snapshot} --replace"
        )
        raise


# Classes whose own data is in their baseline.
_with_data: WeakSet[type] = WeakSet()


def _start_class(cls: type) -> None:
    """Put the databases that a test class may use to what it starts from."""
    _with_data.discard(cls)
    for alias, resetter in list_resetters(cls):
        with explain_errors(strclass(cls), alias):
            flushed = _get_flushed_baseline(cls, alias, resetter)
            # With stock Django, numbers that were taken and rolled back are not given again.
            resetter.start(flushed, leave_sequences=issubclass(cls, TestCase))


def _start_from_class_baselines(who: str) -> None:
    """Put all databases to what classes start from by default."""
    for alias, resetter in list_resetters():
        with explain_errors(who, alias):
            resetter.start()
        clear_caches(alias)


def adopt_states(who: str, cls: type | None = None) -> dict[str, Baseline]:
    """Have classes start from what the databases are at now, and return it by alias."""
    found = {}
    for alias, resetter in list_resetters(cls):
        with explain_errors(who, alias):
            found[alias] = resetter.class_baseline = resetter.adopt_state()
    return found


def _set_up_fixtures(cls: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_setup``: what is there already is not made.

    Data of migrations is there, so nothing is deserialized. Fixtures are loaded before each test;
    but where the class makes data, once, so that they belong to its baseline.
    """
    _repeat_failed_resets(cls)
    if cls in _with_data:
        return
    resetters = dict(list_resetters(cls))
    set_up = _stock_methods["_fixture_setup"].__func__
    try:
        if _starts_flushed(cls):
            set_up(cls)
        else:
            with _leave_to_django(cls):
                set_up(cls)
            for alias in resetters:
                if cls.reset_sequences:
                    _restart_sequences(alias)
                if cls.fixtures:
                    call_command("loaddata", *cls.fixtures, verbosity=0, database=alias)
        if resetters and hasattr(cls, "setUpTestData"):
            _set_up_test_data(cls, resetters)
    except BaseException as error:
        # Django tears nothing down where a set-up has failed.
        try:
            _reset_all(resetters, strclass(cls))
        except PgsnapError as failed:  # the next test tries again
            error.add_note(str(failed))
        raise


def _tear_down_fixtures(self: Any) -> None:
    """Stand in for ``TransactionTestCase._fixture_teardown``: a reset instead of a flush."""
    resetters = dict(list_resetters(type(self)))
    try:
        with _leave_to_django(type(self)):
            _stock_methods["_fixture_teardown"](self)
    finally:
        _reset_all(resetters, f"what comes after {self.id()}")


def _reset_all(resetters: dict[str, DatabaseResetter], who: str) -> None:
    with ExitStack() as stack:
        for alias, resetter in resetters.items():
            # Called in any case; what one of them raises does not keep the others from it.
            stack.callback(_reset, resetter, alias, who)


def _repeat_failed_resets(cls: Any) -> None:
    """Put back what could not be put back after the last test of a class."""
    for alias, resetter in list_resetters(cls):
        if resetter.has_failed:
            _reset(resetter, alias, strclass(cls))


def _reset(resetter: DatabaseResetter, alias: str, who: str) -> None:
    with explain_errors(who, alias):
        resetter.reset()
    # A flush does so, too, by way of post_migrate.
    clear_caches(alias)


def _leave_to_django(cls: Any) -> Any:
    """Have Django itself care for the databases of a class that are not ours."""
    # A second alias of one that is ours is reset, too, though `list_resetters` names it once.
    names = cls._databases_names(include_mirrors=False)
    others = [name for name in names if not get_resetter(name)]
    return mock.patch.object(cls, "_databases_names", classmethod(lambda _, **__: others))


def _set_up_test_data(cls: Any, resetters: dict[str, DatabaseResetter]) -> None:
    """Have a class make its data once, and its tests start from them."""
    before = dict(vars(cls))
    cls.setUpTestData()
    for name, value in dict(vars(cls)).items():
        if value is not before.get(name):
            setattr(cls, name, TestData(name, value))
    for alias, resetter in resetters.items():
        with explain_errors(strclass(cls), alias):
            resetter.adopt_state()
    _with_data.add(cls)


def _get_flushed_baseline(cls: Any, alias: str, resetter: DatabaseResetter) -> Baseline | None:
    """Return what a flush leaves, if that is what a class starts from."""
    if not _starts_flushed(cls):
        return None
    # Where Django itself fills the tables before each test, its flush leaves them quite empty.
    bare = cls.available_apps is not None or cls.serialized_rollback

    def flush() -> Baseline:
        resetter.start(resetter.run_baseline)
        how = {"reset_sequences": False, "allow_cascade": True, "inhibit_post_migrate": bare}
        call_command("flush", verbosity=0, interactive=False, database=alias, **how)
        return resetter.adopt_state()

    return resetter.get_named_baseline("flushed, bare" if bare else "flushed", flush)


def _starts_flushed(cls: type) -> bool:
    commits = issubclass(cls, TransactionTestCase) and not issubclass(cls, TestCase)
    return commits and not issubclass(cls, SnapshotTestCase) and config().test.baseline == "flushed"


def _has_own_start(cls: type) -> bool:
    """Tell whether a class' tests start from data of its own, or from a snapshot."""
    return cls in _with_data or issubclass(cls, SnapshotTestCase)


def _restart_sequences(alias: str) -> None:
    """Number rows from 1 on in the tables that have none; what migrations inserted has numbers."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        sequences = connection.introspection.sequence_list()
        empty = []
        for sequence in sequences:
            table = connection.ops.quote_name(sequence["table"])
            cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608  # quoted
            if cursor.fetchone() == (False,):
                empty.append(sequence)
        for statement in connection.ops.sequence_reset_by_name_sql(no_style(), empty):
            cursor.execute(statement)


def _handle_class_set_up(self: Any, test: Any, result: Any) -> None:
    """Have a class start from its baseline; what is wrong with that is the class' failure.

    This is the only point after the previous class's cleanup and before any code of the next class,
    which may write before it calls its parent's ``setUpClass``.
    """
    cls = type(test)
    if (
        cls is not getattr(result, "_previousTestClass", None)
        and not getattr(result, "_moduleSetUpFailed", False)
        and not getattr(cls, "__unittest_skip__", False)
        and not _succeeds(self, result, "setUpClass", strclass(cls), lambda: _start_class(cls))
    ):
        cls._classSetupFailed = True
        return
    _stock_methods["_handleClassSetUp"](self, test, result)


def _handle_module_fixture(self: Any, test: Any, result: Any) -> None:
    """Have the classes of a module start from what its ``setUpModule`` makes."""
    name = type(test).__module__
    succeeds = partial(_succeeds, self, result, "setUpModule", name)
    is_next = name != self._get_previous_module(result)
    has_set_up = is_next and hasattr(sys.modules.get(name), "setUpModule")
    if is_next:
        use_run_baselines()
    if has_set_up and not succeeds(partial(_start_from_class_baselines, "the module")):
        result._moduleSetUpFailed = True
        return
    _stock_methods["_handleModuleFixture"](self, test, result)
    if has_set_up and not result._moduleSetUpFailed:
        result._moduleSetUpFailed = not succeeds(partial(adopt_states, "the module"))


def _succeeds(suite: Any, result: Any, method: str, owner: str, work: Callable[[], object]) -> bool:
    try:
        work()
    except Exception as error:  # a flush calls receivers of the project, which may raise anything
        if isinstance(result, unittest.suite._DebugResult):  # type: ignore[attr-defined]
            raise
        suite._createClassOrModuleLevelException(result, error, method, owner)
        return False
    return True


# The development snapshot that pytest's tests start from now, empty for none.
_snapshot = ""


def restore_states(before: dict[str, Baseline]) -> None:
    for alias, resetter in list_resetters():
        if alias in before:
            resetter.class_baseline = before[alias]
    _start_from_class_baselines("what comes next")


def leave_class(cls: type) -> None:
    """Put back what a class' tests started from, once the last of them is over."""
    if _has_own_start(cls):
        _start_from_class_baselines("what comes next")


def use_snapshot(snapshot: str, who: str = "") -> None:
    """Have a test, and those after it, start from a development snapshot; from none if empty.

    Raises:
        SkipTest: There is no such snapshot, and ``REQUIRE_SNAPSHOTS`` is off.
        PgsnapError: There is none, and it is on; or it cannot be used.
    """
    global _snapshot  # noqa: PLW0603  # one process has one set of test databases
    if snapshot == _snapshot:
        return
    _snapshot = ""
    _start_from_class_baselines("what comes next")
    if snapshot:
        _start_from_snapshot(who, list_resetters(), snapshot)
        _snapshot = snapshot


def _set_up_after_fixtures(cls: Any) -> None:
    """Stand in for ``_fixture_setup`` under pytest, where fixtures of any scope may write before.

    A test that commits starts from what it finds, and the databases are put back to that after it.
    So what fixtures of a module or a class have committed stays, which a flush would take with it.
    """
    _repeat_failed_resets(cls)
    if not _snapshot and not _has_own_start(cls):
        adopt_states(strclass(cls), cls)
        if _starts_flushed(cls):
            _start_class(cls)
    _set_up_fixtures(cls)


# What ours stand in for while tests run, by name, and how to put it back.
_stock_methods: dict[str, Any] = {}
_patches = ExitStack()


def install_hooks(*, under_pytest: bool = False) -> None:
    """Have tests start from baselines from now on, in this process."""
    watch_connections()
    set_up = _set_up_after_fixtures if under_pytest else _set_up_fixtures
    hooks: list[tuple[type, str, Any]] = [
        (TransactionTestCase, "_fixture_setup", classmethod(set_up)),
        (TransactionTestCase, "_fixture_teardown", _tear_down_fixtures),
    ]
    if not under_pytest:
        hooks.append((unittest.TestSuite, "_handleClassSetUp", _handle_class_set_up))
        hooks.append((unittest.TestSuite, "_handleModuleFixture", _handle_module_fixture))
    for owner, name, hook in hooks:
        _stock_methods.setdefault(name, owner.__dict__[name])
        _patches.enter_context(mock.patch.object(owner, name, hook))


def uninstall_hooks() -> None:
    """Leave tests to Django and unittest again, and give up what was kept for them."""
    unwatch_connections()
    _patches.close()
    _stock_methods.clear()
    close_resetters()
