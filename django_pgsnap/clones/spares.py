"""Spares: clones of a copy that stand ready, so that a restore only has to rename one.

The server makes them by itself; see `background`.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import sql

from ..conf import config
from ..messages import Message, message
from ..postgres.advisory_locks import (
    read_lock_holder,
    release_lock,
    try_acquire_lock,
    wait_for_lock,
)
from ..postgres.backends import end_diffs
from ..postgres.session import Session
from ..reporting import Reporter
from .catalog import AnyDatabase, Database, load_catalog
from .names import spare_name
from .records import Record
from .strategy import Clone, parse_strategy, shares_blocks


def plan_spare(copy: Database[Record]) -> Clone:
    """Return what the spare of a copy is to be, made the way the copy was made."""
    return Clone(
        source=copy.name,
        name=spare_name(copy.record.identity),
        owner=copy.owner,
        strategy=parse_strategy(copy.record.strategy),
    )


def describe_taken_name(copy: Record, taken: AnyDatabase) -> Message:
    """Return why a copy gets no spare, where another database has its spare's name."""
    return message(
        "The spare of {copy!r} cannot be made, since a database of the role {role!r} has its "
        "name, {name!r}.",
        copy=copy.name,
        role=taken.owner,
        name=taken.name,
    )


def wants_spare(record: Record) -> bool:
    """Tell whether the settings want a spare of a copy like this."""
    settings = config()
    return settings.spares > 0 and (
        record.size_bytes <= settings.spare_max_bytes
        or shares_blocks(record.strategy, record.size_bytes, record.seconds)
    )


def obtain_spare(
    session: Session, watcher: Session, copy: Record, reporter: Reporter
) -> AnyDatabase | None:
    """Return the spare of a copy, None if there is none.

    One that is being made is waited for, which is never slower than copying afresh. The session
    holds the lock of the spare's name from then on, so that nobody drops it. The watcher, which
    has looked at the catalog before, does so quicker.
    """
    if not _lock(session, copy, reporter):
        return None
    return load_catalog(watcher).spares.get(copy.identity)


def wait_for_spare(session: Session, copy: Record, reporter: Reporter) -> None:
    """Wait until nobody makes a spare of this copy, which keeps it from being changed."""
    if _lock(session, copy, reporter):
        release_lock(session, spare_name(copy.identity))


def cancel_spare(session: Session, copy: Record) -> None:
    """Stop what would keep a copy from being renamed: the making of its spare, and diffs."""
    end_diffs(session, [copy.database])
    name = spare_name(copy.identity)
    maker = read_lock_holder(session, name)
    if maker is None:
        return
    # Another role's we may not be allowed to stop; then it takes the time it takes.
    with suppress(psycopg.errors.InsufficientPrivilege):
        session.rows(sql.SQL("SELECT pg_cancel_backend(%s)"), [maker.pid])
    if wait_for_lock(session, name, config().wait_s):
        release_lock(session, name)


def _lock(session: Session, copy: Record, reporter: Reporter) -> bool:
    """Take the lock of a copy's spare, unless a role that may make none keeps it from us."""
    name = spare_name(copy.identity)
    if try_acquire_lock(session, name):
        return True
    holder = read_lock_holder(session, name)
    by = ""
    if holder is not None and holder.is_stranger:
        by = message(" by {holder}", holder=holder.description)
    reporter.wait(
        message("Waiting for the spare of {name!r}, which is being made{by}", name=copy.name, by=by)
    )
    return wait_for_lock(session, name, config().wait_s, reporter)
