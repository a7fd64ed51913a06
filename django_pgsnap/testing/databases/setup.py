"""Setting a test database up and taking it away again: the use cases behind the test runners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from ...clones.records import TemplateRecord
from ...conf import test_config
from ...connections.reconnect import close_pools
from ...errors import PgsnapError
from ...postgres.counters import count_rows_written
from ...postgres.server import Server, server_errors
from ...postgres.session import Session
from ...postgres.targets import get_server
from . import clones, comments, file_reads, fingerprint, own_databases, template_spares, templates
from .clones import drop_in_background, remove_snapshots
from .comments import FoundDatabase, TestDatabaseComment
from .fingerprint import Fingerprint
from .own_databases import OwnDatabase, is_own_template, release_name


@dataclass(frozen=True, kw_only=True)
class TestDatabaseSlot:
    """A test database whose name this run has claimed, before it is made.

    Attributes:
        source: Name of the database that the alias leads to outside of tests.
    """

    connection: BaseDatabaseWrapper
    server: Server
    name: str
    source: str

    @property
    def session(self) -> Session:
        """The session that holds the lock."""
        return own_databases.get_lock_session(self.server)

    @property
    def alias(self) -> str:
        """The alias."""
        return str(self.connection.alias)

    def find_present(self) -> FoundDatabase | None:
        """Return the database that already has the name, None if there is none."""
        return comments.find_database(self.session, self.name)

    def clear(self) -> None:
        """Drop what an earlier run left under this name."""
        if self.find_present() is not None:
            clones.drop_test_database(self.session, self.name)

    def comment(self, *, fingerprint: str, kept: bool) -> TestDatabaseComment:
        """Return the comment for this test database."""
        return TestDatabaseComment(
            database=self.name, source=self.source, fingerprint=fingerprint, kept=kept
        )

    def register(self, template: str | None, *, rows_written: int = 0) -> None:
        """Note that the test database is complete and belongs to this process."""
        own_databases.register_database(
            OwnDatabase(
                alias=self.alias,
                name=self.name,
                source=self.source,
                template=template,
                written=rows_written,
            )
        )


@contextmanager
def claim_slot(
    connection: BaseDatabaseWrapper, name: str, source: str
) -> Iterator[TestDatabaseSlot]:
    """Claim the name of a test database, then drop what killed runs left.

    Raises:
        DatabaseBusyError: Another run uses it, or sessions are on what an earlier one left.
        ServerError: The server refused something.
        ServerUnavailableError: The server cannot be reached or does not let us in.
    """
    server = get_server(connection)
    with server_errors():
        session = own_databases.get_lock_session(server)
        own_databases.claim_name(session, name)
        clones.sweep_dead_runs(session, source)
        yield TestDatabaseSlot(connection=connection, server=server, name=name, source=source)


def get_source(connection: BaseDatabaseWrapper) -> str:
    """Return the name of the database that an alias leads to outside of tests."""
    own = own_databases.find_own_database(connection.alias)
    return own.source if own else str(connection.settings_dict["NAME"])


def set_up_database(
    slot: TestDatabaseSlot,
    migrate: Callable[[bool], object],
    tell: Callable[[str], object],
    *,
    keep: bool,
) -> bool:
    """Fill a test database from its template, which is made if it is not there.

    Args:
        slot: The test database; what an earlier run of ours left may still have its name.
        migrate: Creates and migrates it, or only migrates it if called with True, as it is there.
        tell: Hears what the user has to wait for, and why a state could not be kept.
        keep: Whether the database of an earlier run is used, and kept again.

    Returns:
        Whether it could be used without migrating.
    """
    session = slot.session
    wanted = fingerprint.take(slot.connection, session, slot.source)
    found = slot.find_present()
    if keep and found and found.comment and found.comment.fingerprint and not found.broken:
        return _use_again(slot, found.comment, wanted, migrate)
    with templates.lock_building(session, wanted, tell):
        template = templates.find_template(session, wanted)
        slot.clear()
        if template is not None:
            _clone(session, template, slot.comment(fingerprint=wanted.digest, kept=keep))
            templates.note_use(session, template)
        else:
            template = _migrate(slot, wanted, migrate, tell)
            session.execute(
                comments.write_comment(slot.comment(fingerprint=wanted.digest, kept=keep))
            )
            rows = count_rows_written(session, slot.name)
            slot.register(template.database if template else None, rows_written=rows)
            return False
    slot.register(template.database)
    return True


def _clone(session: Session, template: TemplateRecord, comment: TestDatabaseComment) -> None:
    spare = template_spares.obtain_template_spare(session, template)
    if spare is None:
        clones.make_test_database(session, template.database, comment)
    else:
        clones.copy_properties(session, spare, template.database)
        clones.turn_into_test_database(session, spare, comment)


def _use_again(
    slot: TestDatabaseSlot,
    comment: TestDatabaseComment,
    wanted: Fingerprint,
    migrate: Callable[[bool], object],
) -> bool:
    """Use a kept database with all that is in it, so never as something to make a template of."""
    is_current = comment.fingerprint == wanted.digest
    if not is_current:
        migrate(True)
    slot.session.execute(
        comments.write_comment(replace(comment, fingerprint=wanted.digest, kept=True))
    )
    slot.register(None)
    return is_current


def _migrate(
    slot: TestDatabaseSlot,
    wanted: Fingerprint,
    migrate: Callable[[bool], object],
    tell: Callable[[str], object],
) -> TemplateRecord | None:
    session = slot.session
    # To look for an ancestor imports the migrations, and they may read files at once.
    with file_reads.noting():
        ancestor = templates.nearest(session, wanted, slot.source)
        if ancestor is not None:
            clones.make_test_database(
                session, ancestor.database, slot.comment(fingerprint="", kept=False)
            )
        migrate(ancestor is not None)
    if not test_config().keep:
        return None
    _disconnect(slot.connection)
    try:
        return templates.publish_template(
            session,
            slot.name,
            wanted,
            alias=slot.alias,
            source=slot.source,
            ancestor=ancestor,
            files=file_reads.noted(),
        )
    except (PgsnapError, psycopg.Error) as error:
        if session.broken:
            raise
        tell(f"The next run will migrate again, since this state could not be kept: {error}")
        return None


def mark_unfinished(connection: BaseDatabaseWrapper, name: str) -> None:
    """Comment on a test database that is about to be migrated, in case the run is killed."""
    comment = TestDatabaseComment(
        database=name, source=get_source(connection), fingerprint="", kept=False
    )
    own_databases.get_lock_session(get_server(connection)).execute(comments.write_comment(comment))


def clone_for_worker(slot: TestDatabaseSlot, original: OwnDatabase, *, keep: bool) -> None:
    """Make a worker's clone of a test database."""
    session = slot.session
    state = comments.find_database(session, original.name)
    complete = state.comment.fingerprint if state and state.comment else ""
    found = slot.find_present()
    is_current = found and (found.comment is None or found.comment.fingerprint == complete != "")
    if keep and found and is_current and not found.broken:
        if found.comment:
            session.execute(comments.write_comment(replace(found.comment, kept=True)))
    else:
        slot.clear()
        if original.template is None:
            _disconnect(slot.connection)
        clones.make_test_database(
            session,
            original.template or original.name,
            slot.comment(fingerprint=complete, kept=keep),
        )
    slot.register(original.template)


def give_up_database(connection: BaseDatabaseWrapper, name: str, *, keep: bool) -> None:
    """End the use of a test database, and have the server drop it unless it is to be kept."""
    server = get_server(connection)
    own = own_databases.get_own_database(connection.alias, name)
    _disconnect(connection)
    with server_errors():
        if not keep:
            remove_snapshots(own_databases.get_lock_session(server), name)
        own_databases.forget_database(server, name)
        release_name(server, name)
        if not keep:
            drop_in_background(server, name)
        if own and own.template and not is_own_template(own.template):
            template_spares.order_template_spare(server, own.template)


def keep_database(connection: BaseDatabaseWrapper, name: str) -> None:
    """End the use of a test database that stays, for a later run to use or to replace."""
    session = own_databases.get_lock_session(get_server(connection))
    with server_errors():
        found = comments.find_database(session, name)
        if found is not None and found.comment is not None:
            session.execute(comments.write_comment(replace(found.comment, kept=True)))
    give_up_database(connection, name, keep=True)


def _disconnect(connection: BaseDatabaseWrapper) -> None:
    connection.close()
    close_pools([connection.alias])
