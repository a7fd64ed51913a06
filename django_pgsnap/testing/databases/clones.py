"""Test databases on the server: made as clones, marked from their first moment, and dropped."""

from contextlib import suppress
from typing import Final

import psycopg
from psycopg import sql

from ...clones import transitions
from ...clones.catalog import load_catalog
from ...clones.for_tests import (
    TestDatabaseComment,
    encode_comment,
    find_database,
    list_comments,
    run_lock_key,
)
from ...clones.names import new_identity, spare_name, to_drop_name, unfinished_name
from ...clones.records import Strategy
from ...clones.spares import drop_leftovers
from ...clones.strategy import is_wal_log_safe
from ...errors import DatabaseBusyError
from ...postgres.advisory_locks import lock_if_free, release_lock, try_acquire_lock
from ...postgres.backends import read_backends, wait_until_backends_gone
from ...postgres.properties import Properties, apply_properties, read_properties
from ...postgres.server import Server
from ...postgres.session import Query, Session
from ...postgres.targets import live_database_names
from ...reporting import Reporter
from .own_databases import list_made_databases

# Test databases are many small files. To copy those, the server has the disk write each of them:
# 16 MB with 200 tables take 1.2 to 2.1 s, and 0.5 to 0.7 s by way of the write-ahead log.
_WAL_LOG_MAX_BYTES: Final = 64 * 1024**2

_OWNER_AND_SIZE: Final = sql.SQL("SELECT current_user::text, pg_database_size(%s)")


def make_shut_clone(session: Session, source: str) -> str:
    """Clone a database, with its settings and privileges, and return the clone's name.

    It is shut and not published; if it stays so, the next operation drops it.
    """
    clone = plan_clone(session, source, unfinished_name(new_identity()))
    # The server would look every 100 ms only.
    wait_until_backends_gone(session, [source])
    try_acquire_lock(session, clone.name)
    try:
        session.execute(clone.statement)
    except psycopg.errors.ObjectInUse as error:
        release_lock(session, clone.name)
        raise _busy(session, source, "cloned") from error
    copy_properties(session, clone.name, source)
    return clone.name


def plan_clone(session: Session, source: str, name: str) -> transitions.Clone:
    """Return what a clone of a database is to be, and prepare the session that will make it."""
    owner, size_bytes = session.rows(_OWNER_AND_SIZE, [source])[0]
    is_small = size_bytes <= _WAL_LOG_MAX_BYTES
    strategy: Strategy = "wal_log" if is_small and is_wal_log_safe(session) else "file_copy"
    clone = transitions.Clone(source=source, name=name, owner=owner, strategy=strategy)
    clone.prepare(session)
    return clone


def copy_properties(session: Session, name: str, source: str) -> None:
    wanted, present = read_properties(session, source, name)
    apply_properties(session, wanted, present, name)


def turn_into_test_database(
    session: Session, unfinished: str, comment: TestDatabaseComment
) -> None:
    """Make a shut clone, whose lock is held, a test database."""
    text = encode_comment(comment)
    session.execute(transitions.open_database(unfinished, comment.database, text))
    release_lock(session, unfinished)


def drop_test_database(session: Session, name: str) -> None:
    """Drop a test database whose lock is held, or that nobody else can know of."""
    wait_until_backends_gone(session, [name])
    try:
        session.execute(transitions.drop_database(name))
    except psycopg.errors.ObjectInUse as error:
        raise _busy(session, name, "dropped") from error


def drop_in_background(server: Server, name: str) -> None:
    """Have the server drop a test database by itself, since that makes it write to the disk.

    Its name is free at once: a run that knows nothing of us may want it in the next moment.
    """
    with server.session("clearing up") as session:
        if not try_acquire_lock(session, run_lock_key(name)):
            return  # the next run has come for it already
        wait_until_backends_gone(session, [name])
        to_drop = to_drop_name(new_identity())
        try_acquire_lock(session, to_drop)
        try:
            session.execute(_shut_to_drop(name, to_drop))
        except psycopg.errors.InvalidCatalogName:
            return  # a test has dropped it
        except psycopg.errors.ObjectInUse as error:
            raise _busy(session, name, "dropped") from error
        session.fire(transitions.drop_database(to_drop))


def sweep_dead_runs(session: Session, source: str) -> None:
    """Drop what killed runs on this live database left.

    That a run lives is told by its lock. What a run was told to keep is not swept.
    """
    spared = {*live_database_names(), *(own.name for own in list_made_databases())}
    for comment in list_comments(session):
        name = comment.database
        if comment.source != source or comment.kept or name in spared:
            continue
        with lock_if_free(session, run_lock_key(name)) as is_ours:
            # Once more: until we had the lock, a new run may have taken its place.
            found = find_database(session, name) if is_ours else None
            if found and found.comment == comment and not read_backends(session, [name]):
                # Where somebody looks at it, a later run drops it.
                with suppress(psycopg.errors.ObjectInUse):
                    session.execute(transitions.drop_database(name))
                    remove_snapshots(session, name)
    # Also what killed operations of other projects left: its lock is free, too.
    drop_leftovers(session, load_catalog(session).leftovers([], spared), Reporter())


def remove_snapshots(session: Session, name: str) -> None:
    """Drop the snapshots and undos that tests took of a test database which is gone."""
    present = load_catalog(session)
    for database in [*present.copies([name]), *present.undos([name])]:
        record, spare = database.record, spare_name(database.record.identity)
        # Where a spare is being made, the next run finds both.
        with lock_if_free(session, name, spare) as is_ours:
            if is_ours and database.trusted:
                session.execute(transitions.unpublish(record))
                session.execute(transitions.drop_database(to_drop_name(record.identity)))
                session.execute(transitions.drop_database(spare))


def _busy(session: Session, name: str, done: str) -> DatabaseBusyError:
    left = "".join(f"\n  {backend}" for backend in read_backends(session, [name]))
    return DatabaseBusyError(
        f"The database {name!r} cannot be {done}, since other sessions are using it:{left}",
        hint="Close them, then run the tests again.",
    )


def replace_test_database(
    session: Session, name: str, incoming: str, properties: Properties
) -> str | None:
    """Let a shut clone, whose lock is given back then, take the name of a test database.

    The database that had the name is shut. Its new name is returned, whose lock the session holds;
    None if there was no such database.
    """
    limit = properties.connection_limit
    statement = transitions.open_database(incoming, name, properties.comment, limit=limit)
    outgoing = None
    if find_database(session, name) is not None:
        outgoing = to_drop_name(new_identity())
        try_acquire_lock(session, outgoing)
        statement = transitions.join_statements([_shut_to_drop(name, outgoing), statement])
    session.execute(statement)
    release_lock(session, incoming)
    return outgoing


def _shut_to_drop(name: str, to_drop: str) -> Query:
    return transitions.join_statements(
        [transitions.rename_database(name, to_drop), transitions.shut_database(to_drop, None)]
    )
