"""Setting a test database up and taking it away again: the use cases behind the test runners."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from django.db.backends.base.base import BaseDatabaseWrapper

from ...clones.for_tests import TestDatabaseComment, find_database, write_comment
from ...conf import config
from ...connections.reconnect import clear_caches, close_pools
from ...postgres.inspection import read_activity
from ...postgres.server import server_errors
from ...postgres.session import Session
from ...postgres.targets import get_server
from . import clones, own_databases, templates
from .facts import Facts, read_facts
from .own_databases import OwnDatabase
from .recording import find_change, record, unseal
from .templates import Tell, Wanted

# Creates and migrates a test database, or only migrates it if called with True, as it is there.
Migrate = Callable[[bool], object]


@dataclass(frozen=True, kw_only=True)
class TestDatabaseSlot:
    """A test database whose name this run has claimed; the alias leads to *source* elsewhere.

    With *keep*, the database of an earlier run is used, and kept again.
    """

    connection: BaseDatabaseWrapper
    session: Session
    name: str
    source: str
    keep: bool

    def describe(self, recording: str) -> TestDatabaseComment:
        """Return the comment for this test database when it is complete."""
        return TestDatabaseComment(
            database=self.name,
            source=self.source,
            complete=True,
            kept=self.keep,
            recording=recording if self.keep else "",
        )

    def register(self, template: str | None, *, rows_written: int = 0) -> None:
        """Note that the test database is complete and belongs to this process."""
        alias = self.connection.alias
        own = OwnDatabase(
            alias=alias, name=self.name, source=self.source, template=template, written=rows_written
        )
        own_databases.register_database(own)


@contextmanager
def claim_slot(
    connection: BaseDatabaseWrapper, name: str, *, keep: bool
) -> Iterator[TestDatabaseSlot]:
    """Claim the name of a test database, then drop what killed runs left.

    Raises:
        DatabaseBusyError: Another run uses it, or sessions are on what an earlier one left.
    """
    source = _get_source(connection)
    with server_errors():
        session = own_databases.get_lock_session(get_server(connection))
        own_databases.claim_name(session, name)
        clones.sweep_dead_runs(session, source)
        yield TestDatabaseSlot(
            connection=connection, session=session, name=name, source=source, keep=keep
        )


def _get_source(connection: BaseDatabaseWrapper) -> str:
    """Return the name of the database that an alias leads to outside of tests."""
    own = own_databases.find_own_database(connection.alias)
    return own.source if own else str(connection.settings_dict["NAME"])


def set_up_database(slot: TestDatabaseSlot, migrate: Migrate, tell: Tell) -> bool:
    """Fill a test database from its template, and return whether that took no migrating.

    The template is made if it is not there. Why one is used or not, what is waited for, and what
    could not be kept, is told.
    """
    session = slot.session
    facts = read_facts(slot.connection, session, slot.source)
    found = find_database(session, slot.name)
    if slot.keep and found and found.comment and found.comment.complete and not found.broken:
        return _use_again(slot, found.comment, facts, migrate, tell)
    wanted = Wanted(alias=slot.connection.alias, source=slot.source, facts=facts)
    with templates.lock_building(session, wanted, tell):
        template = templates.find_template(session, wanted, tell)
        if found is not None:
            clones.drop_test_database(session, slot.name)
        if template is None:
            _make(slot, wanted, migrate, tell)
            return False
        made = templates.obtain_template_spare(session, template)
        clones.turn_into_test_database(
            session,
            made or clones.make_shut_clone(session, template.database),
            slot.describe(template.recording),
        )
        templates.note_use(session, template)
    slot.register(template.database)
    return True


def _use_again(
    slot: TestDatabaseSlot, comment: TestDatabaseComment, facts: Facts, migrate: Migrate, tell: Tell
) -> bool:
    """Use a kept database with all that is in it, so never as something to make a template of."""
    then = unseal(comment.recording)
    change = find_change(then, facts) if then else "what it was made from is not known"
    if change is not None:
        tell(f"Alias {slot.connection.alias!r}: migrated what was kept, because {change}.", 2)
        with record(facts) as recorded:
            migrate(True)
        comment = replace(comment, recording=templates.seal_or_tell(recorded, tell))
    slot.session.execute(write_comment(replace(comment, kept=True)))
    slot.register(None)
    return change is None


def _make(slot: TestDatabaseSlot, wanted: Wanted, migrate: Migrate, tell: Tell) -> None:
    session = slot.session
    with record(wanted.facts) as recorded:
        migrate(False)
    sealed = templates.seal_or_tell(recorded, tell) if slot.keep or config().test.keep else ""
    _disconnect(slot.connection)
    template = templates.publish_or_tell(session, slot.name, wanted, sealed, tell)
    session.execute(write_comment(slot.describe(sealed)))
    rows = read_activity(session, slot.name).rows
    slot.register(template.database if template else None, rows_written=rows)


def mark_unfinished(connection: BaseDatabaseWrapper, name: str) -> None:
    """Comment on a test database that is about to be migrated, in case the run is killed."""
    comment = TestDatabaseComment(
        database=name, source=_get_source(connection), complete=False, kept=False
    )
    own_databases.get_lock_session(get_server(connection)).execute(write_comment(comment))


def clone_for_worker(slot: TestDatabaseSlot, original: OwnDatabase) -> None:
    session = slot.session
    state = find_database(session, original.name)
    recording = state.comment.recording if state and state.comment else ""
    found = find_database(session, slot.name)
    is_current = found and (found.comment is None or found.comment.recording == recording != "")
    if not (slot.keep and found and is_current and not found.broken):
        if found:
            clones.drop_test_database(session, slot.name)
        if original.template is None:
            _disconnect(slot.connection)
        made = clones.make_shut_clone(session, original.template or original.name)
        clones.turn_into_test_database(session, made, slot.describe(recording))
    slot.register(original.template)


def give_up_database(connection: BaseDatabaseWrapper, name: str, *, keep: bool) -> None:
    """End the use of a test database, which stays for a later run, or the server drops it."""
    server = get_server(connection)
    own = own_databases.find_own_database(connection.alias, name)
    _disconnect(connection)
    with server_errors():
        session = own_databases.get_lock_session(server)
        if not keep:
            clones.remove_snapshots(session, name)
        elif (found := find_database(session, name)) and found.comment:
            session.execute(write_comment(replace(found.comment, kept=True)))
        own_databases.forget_database(server, name)
        if not keep:
            clones.drop_in_background(server, name)
        others = {each.template for each in own_databases.list_made_databases()}
        if own and own.template and own.template not in others:
            templates.order_template_spare(server, own.template)


def clone_anew(connection: BaseDatabaseWrapper) -> None:
    """Put a test database back to what its template holds, if it was cloned from one."""
    own = own_databases.find_own_database(connection.alias)
    if own is None or own.template is None:
        return
    _disconnect(connection)
    session = own_databases.get_lock_session(get_server(connection))
    found = find_database(session, own.name)
    if found and found.comment:
        with server_errors():
            clones.drop_test_database(session, own.name)
            clone = clones.make_shut_clone(session, own.template)
            clones.turn_into_test_database(session, clone, found.comment)
    # Among what Django remembers may be rows that are gone.
    clear_caches(own.alias)


def _disconnect(connection: BaseDatabaseWrapper) -> None:
    connection.close()
    close_pools([connection.alias])
