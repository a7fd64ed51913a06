"""Django's ways to create, clone and destroy test databases, with templates instead of migrations.

While a test run sets up and tears down, they replace those of the PostgreSQL wrappers, whatever the
runner. `databases.setup` does the work; this module translates Django's calls.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final
from unittest import mock

import django
from django.apps import apps
from django.conf import settings
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connections
from django.db.backends.base.creation import BaseDatabaseCreation
from django.db.models.signals import post_migrate, pre_migrate
from django.dispatch import Signal

from ..clones.for_tests import find_database
from ..conf import iter_postgresql_wrappers
from ..postgres.inspection import DatabaseCounters, read_activity
from ..postgres.session import Session
from . import cases
from .databases import own_databases, setup
from .databases.templates import Tell
from .reset.changes import TableCounters, find_changes, read_table_counters
from .reset.resetter import close_resetters

# Since Django 6.0 test databases are serialized when all are set up, and to ask for it when one is
# made is deprecated.
_SERIALIZES: Final = True if django.VERSION < (6,) else None

_tell: Tell | None = None


class WorkerCreation(BaseDatabaseCreation):
    """Registers the test databases that workers and mirrors are led to."""

    def setup_worker_connection(self, _worker_id: int) -> None:
        original = own_databases.find_own_database(self.connection.alias)
        super().setup_worker_connection(_worker_id)
        if original is not None:
            name = str(self.connection.settings_dict["NAME"])
            own = replace(original, name=name, written=0, announced=False)
            own_databases.register_database(own)
        # With some start methods a worker knows nothing of its parent.
        cases.install_hooks()

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        source = str(self.connection.settings_dict["NAME"])
        super().set_as_test_mirror(primary_settings_dict)
        own_databases.register_mirror(self.connection.alias, source)


class SnapshotCreation(WorkerCreation):
    """Clones test databases from templates, and migrates only where there is none."""

    def create_test_db(
        self,
        verbosity: int = 1,
        autoclobber: bool = False,
        serialize: bool | None = _SERIALIZES,
        keepdb: bool = False,
    ) -> str:
        name = str(self._get_test_db_name())  # type: ignore[attr-defined]
        with setup.claim_slot(self.connection, name, keep=keepdb) as slot:
            found = find_database(slot.session, name)
            if found is not None and found.comment is None:
                if keepdb:
                    # Somebody made it by hand, or without us: it is theirs to keep.
                    options = {} if serialize is None else {"serialize": serialize}
                    super().create_test_db(verbosity, autoclobber, keepdb=keepdb, **options)
                    slot.register(None)
                    return name
                # Django asks whether it may be replaced, and ends the run if not.
                self._create_test_db(verbosity, autoclobber, False)

            def migrate(exists: bool) -> None:
                # What it holds is serialized below, where Django wants it here at all.
                options = {} if _SERIALIZES is None else {"serialize": False}
                super(SnapshotCreation, self).create_test_db(
                    verbosity, True, keepdb=exists, **options
                )

            def tell(text: str, level: int) -> None:
                if _tell is not None:
                    _tell(text, level)
                elif verbosity >= level:
                    self.log(text)

            needed_no_migrating = setup.set_up_database(slot, migrate, tell)
        if needed_no_migrating:
            action = "Using existing" if keepdb else "Creating"
            self._say(f"{action} test database", name, verbosity)
            self.connection.close()
            settings.DATABASES[self.connection.alias]["NAME"] = name
            self.connection.settings_dict["NAME"] = name
            tell_receivers(self.connection.alias, max(verbosity - 1, 0))
        if serialize:
            self.connection._test_serialized_contents = self.serialize_db_to_string()  # type: ignore[attr-defined]
        self.connection.ensure_connection()
        return name

    def clone_test_db(
        self, suffix: str, verbosity: int = 1, autoclobber: bool = False, keepdb: bool = False
    ) -> None:
        original = own_databases.find_own_database(self.connection.alias)
        if original is None:
            super().clone_test_db(suffix, verbosity, autoclobber, keepdb)
            return
        name = str(self.get_test_db_clone_settings(suffix)["NAME"])
        action = "Using existing clone" if keepdb else "Cloning test database"
        self._say(action, original.name, verbosity)
        with setup.claim_slot(self.connection, name, keep=keepdb) as slot:
            setup.clone_for_worker(slot, original)

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        name = str(super()._create_test_db(verbosity, autoclobber, keepdb))  # type: ignore[misc]
        if not keepdb:
            setup.mark_unfinished(self.connection, name)
        return name

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None:
        if own_databases.find_own_database(self.connection.alias, test_database_name) is None:
            super()._destroy_test_db(test_database_name, verbosity)  # type: ignore[misc]
            return
        # The session that holds the locks ends with the last test database. A test may destroy one
        # that it made, and the others have baselines that were taken before it.
        close_resetters(test_database_name)
        setup.give_up_database(self.connection, test_database_name, keep=False)

    def _say(self, action: str, name: str, verbosity: int) -> None:
        if verbosity >= 1:
            shown = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            self.log(f"{action} for alias {shown}...")


# Django's own make permissions, content types and the default site. They write nowhere but to the
# database, where the template has it all, and take as long as everything else together. Ours does
# nothing in tests.
_SPARED: Final = ("django.", "django_pgsnap.")


def tell_receivers(alias: str, verbosity: int) -> None:
    """Send the signals of a migration with nothing to do to all receivers but the spared ones.

    Where a template is cloned nothing is migrated. Still they may fill something in the process,
    which no template can hold. What they write to the database is taken back: the template has
    what they wrote when it was made, and not twice.
    """
    with _without_spared(pre_migrate), _without_spared(post_migrate):
        signals, senders = (pre_migrate, post_migrate), apps.get_app_configs()
        if not any(signal.has_listeners(each) for signal in signals for each in senders):
            return
        activity, counters = _read_counters(alias)
        for emit in (emit_pre_migrate_signal, emit_post_migrate_signal):
            emit(verbosity=verbosity, interactive=False, db=alias, apps=apps, plan=[])
    activity_now, counters_now = _read_counters(alias)
    changes = find_changes(counters, counters_now)
    # Where not all is counted, no epoch is like another.
    if changes.catalogs or changes.relations or not activity_now.continues(activity):
        # No transaction would do: none puts sequences back, and receivers may end theirs.
        setup.clone_anew(connections[alias])


def _without_spared(signal: Signal) -> Any:
    """Return a context in which a signal has no receivers but those that are not spared."""
    find = signal._live_receivers

    def find_others(sender: object) -> list[list[Any]]:
        return [[each for each in found if not _is_spared(each)] for found in find(sender)]

    return mock.patch.object(signal, "_live_receivers", find_others)


def _is_spared(receiver: Any) -> bool:
    return str(getattr(receiver, "__module__", "")).startswith(_SPARED)


def _read_counters(alias: str) -> tuple[DatabaseCounters, TableCounters]:
    wrapper = connections[alias]
    wrapper.ensure_connection()
    session, name = Session(wrapper.connection), str(wrapper.settings_dict["NAME"])
    with session.in_autocommit():
        return read_activity(session, name), read_table_counters(session)


def install(tell: Tell | None = None, *, under_pytest: bool = False) -> None:
    """Have test databases made here, and reset between tests, from now on in this thread.

    A runner that prints in its own way gives *tell*, which does so.
    """
    global _tell  # noqa: PLW0603  # one process has one run
    _tell = tell
    own_databases.announce_tests()
    _extend_creations(SnapshotCreation)
    cases.install_hooks(under_pytest=under_pytest)


def uninstall() -> None:
    cases.uninstall_hooks()
    _leave_creations()
    own_databases.withdraw_announcement()


def keep(databases: Iterable[own_databases.OwnDatabase]) -> None:
    """Have test databases stay for a later run."""
    for own in databases:
        # One that several aliases lead to is given up by the first of them.
        if own_databases.find_own_database(own.alias, own.name):
            close_resetters(own.name)
            setup.give_up_database(connections[own.alias], own.name, keep=True)


def adopt() -> None:
    """Lead this process, which a test has started, to the test databases of that test."""
    own_databases.adopt_announced_databases()
    _extend_creations(WorkerCreation)


def _extend_creations(mixin: type[WorkerCreation]) -> None:
    # A project may have a backend, and so a creation, of its own. Its state stays.
    _leave_creations()
    for wrapper in iter_postgresql_wrappers():
        kind = type(wrapper.creation)
        wrapper.creation.__class__ = type(f"{mixin.__name__}Over{kind.__name__}", (mixin, kind), {})


def _leave_creations() -> None:
    for wrapper in iter_postgresql_wrappers():
        kind = type(wrapper.creation)
        if issubclass(kind, WorkerCreation):
            wrapper.creation.__class__ = kind.__bases__[1]
