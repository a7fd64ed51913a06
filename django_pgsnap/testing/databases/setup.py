"""Setting a test database up and taking it away again: the use cases behind the test runners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from ...clones.records import Record
from ...conf import test_config
from ...connections.reconnect import close_pools
from ...errors import PgsnapError
from ...postgres.counters import count_rows_written
from ...postgres.server import Server, server_errors
from ...postgres.session import Session
from ...postgres.targets import get_server
from . import clones, file_reads, fingerprint, marks, own_databases, template_spares, templates
from .clones import remove_snapshots, send_off
from .fingerprint import Fingerprint
from .marks import Found, Mark
from .own_databases import OwnDatabase, is_own_template, let_go


@dataclass(frozen=True, kw_only=True)
class Bed:
    """The place of a test database: its name is claimed, its contents are yet to come.

    Attributes:
        connection: Django's wrapper of the alias.
        server: The server.
        name: Name of the test database.
        source: Name of the database that the alias leads to outside of tests.
    """

    connection: BaseDatabaseWrapper
    server: Server
    name: str
    source: str

    @property
    def session(self) -> Session:
        """The session that holds the lock."""
        return own_databases.session(self.server)

    @property
    def alias(self) -> str:
        """The alias."""
        return str(self.connection.alias)

    def present(self) -> Found | None:
        """Return the database that already has the name, None if there is none."""
        return marks.find(self.session, self.name)

    def clear(self) -> None:
        """Drop what an earlier run left in this place."""
        if self.present() is not None:
            clones.drop(self.session, self.name)

    def mark(self, *, fingerprint: str, kept: bool) -> Mark:
        """Return a mark for this test database."""
        return Mark(database=self.name, source=self.source, fingerprint=fingerprint, kept=kept)

    def settle(self, template: str | None, *, rows_written: int = 0) -> None:
        """Take note that the test database is complete, and this process'."""
        own_databases.register(
            OwnDatabase(
                alias=self.alias,
                name=self.name,
                source=self.source,
                template=template,
                written=rows_written,
            )
        )


@contextmanager
def claim(connection: BaseDatabaseWrapper, name: str, source: str) -> Iterator[Bed]:
    """Claim the name of a test database, once what killed runs left is swept away.

    Raises:
        DatabaseBusyError: Another run uses it, or sessions are on what an earlier one left.
        ServerError: The server refused something.
        ServerUnavailableError: The server cannot be reached or does not let us in.
    """
    server = get_server(connection)
    with server_errors():
        session = own_databases.session(server)
        own_databases.hold(session, name)
        clones.sweep(session, source)
        yield Bed(connection=connection, server=server, name=name, source=source)


def source_of(connection: BaseDatabaseWrapper) -> str:
    """Return the name of the database that an alias leads to outside of tests."""
    own = own_databases.find(connection.alias)
    return own.source if own else str(connection.settings_dict["NAME"])


def set_up(
    bed: Bed, migrate: Callable[[bool], object], tell: Callable[[str], object], *, keep: bool
) -> bool:
    """Fill a test database from its template, which is made if it is not there.

    Args:
        bed: Its place, with nothing in it but what an earlier run of ours left.
        migrate: Creates and migrates it, or only migrates it if called with True, as it is there.
        tell: Hears what the user has to wait for, and why a state could not be kept.
        keep: Whether the database of an earlier run is used, and kept again.

    Returns:
        Whether it could be used without migrating.
    """
    session = bed.session
    wanted = fingerprint.take(bed.connection, session, bed.source)
    found = bed.present()
    if keep and found and found.mark and found.mark.fingerprint and not found.broken:
        return _use_again(bed, found.mark, wanted, migrate)
    with templates.lock(session, wanted, tell):
        template = templates.find(session, wanted)
        bed.clear()
        if template is not None:
            _clone(session, template, bed.mark(fingerprint=wanted.digest, kept=keep))
            templates.touch(session, template)
        else:
            template = _migrate(bed, wanted, migrate, tell)
            session.execute(marks.write(bed.mark(fingerprint=wanted.digest, kept=keep)))
            rows = count_rows_written(session, bed.name)
            bed.settle(template.database if template else None, rows_written=rows)
            return False
    bed.settle(template.database)
    return True


def _clone(session: Session, template: Record, mark: Mark) -> None:
    spare = template_spares.take(session, template)
    if spare is None:
        clones.make(session, template.database, mark)
    else:
        clones.furnish(session, spare, template.database)
        clones.become(session, spare, mark)


def _use_again(
    bed: Bed, mark: Mark, wanted: Fingerprint, migrate: Callable[[bool], object]
) -> bool:
    """Use a kept database with all that is in it, so never as something to make a template of."""
    is_current = mark.fingerprint == wanted.digest
    if not is_current:
        migrate(True)
    bed.session.execute(marks.write(replace(mark, fingerprint=wanted.digest, kept=True)))
    bed.settle(None)
    return is_current


def _migrate(
    bed: Bed,
    wanted: Fingerprint,
    migrate: Callable[[bool], object],
    tell: Callable[[str], object],
) -> Record | None:
    session = bed.session
    # To look for an ancestor imports the migrations, and they may read files at once.
    with file_reads.noting():
        ancestor = templates.nearest(session, wanted, bed.source)
        if ancestor is not None:
            clones.make(session, ancestor.database, bed.mark(fingerprint="", kept=False))
        migrate(ancestor is not None)
    if not test_config().keep:
        return None
    _leave(bed.connection)
    try:
        return templates.publish(
            session,
            bed.name,
            wanted,
            alias=bed.alias,
            source=bed.source,
            ancestor=ancestor,
            files=file_reads.noted(),
        )
    except (PgsnapError, psycopg.Error) as error:
        if session.broken:
            raise
        tell(f"The next run will migrate again, since this state could not be kept: {error}")
        return None


def mark_unfinished(connection: BaseDatabaseWrapper, name: str) -> None:
    """Mark a test database that is about to be migrated, in case the run is killed meanwhile."""
    mark = Mark(database=name, source=source_of(connection), fingerprint="", kept=False)
    own_databases.session(get_server(connection)).execute(marks.write(mark))


def copy(bed: Bed, original: OwnDatabase, *, keep: bool) -> None:
    """Make a worker's clone of a test database."""
    session = bed.session
    state = marks.find(session, original.name)
    complete = state.mark.fingerprint if state and state.mark else ""
    found = bed.present()
    is_current = found and (found.mark is None or found.mark.fingerprint == complete != "")
    if keep and found and is_current and not found.broken:
        if found.mark:
            session.execute(marks.write(replace(found.mark, kept=True)))
    else:
        bed.clear()
        if original.template is None:
            _leave(bed.connection)
        clones.make(
            session,
            original.template or original.name,
            bed.mark(fingerprint=complete, kept=keep),
        )
    bed.settle(original.template)


def give_up(connection: BaseDatabaseWrapper, name: str, *, keep: bool) -> None:
    """End the use of a test database, and have the server drop it unless it is to be kept."""
    server = get_server(connection)
    own = own_databases.known(connection.alias, name)
    _leave(connection)
    with server_errors():
        if not keep:
            remove_snapshots(own_databases.session(server), name)
        own_databases.forget(server, name)
        let_go(server, name)
        if not keep:
            send_off(server, name)
        if own and own.template and not is_own_template(own.template):
            template_spares.order(server, own.template)


def keep(connection: BaseDatabaseWrapper, name: str) -> None:
    """End the use of a test database that stays, for a later run to use or to replace."""
    session = own_databases.session(get_server(connection))
    with server_errors():
        found = marks.find(session, name)
        if found is not None and found.mark is not None:
            session.execute(marks.write(replace(found.mark, kept=True)))
    give_up(connection, name, keep=True)


def _leave(connection: BaseDatabaseWrapper) -> None:
    connection.close()
    close_pools([connection.alias])
