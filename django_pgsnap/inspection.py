"""What is read inside a live database, before it is copied."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from .metadata import Migrations
from .session import Session


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a live database holds, as far as a snapshot wants to know.

    Attributes:
        migrations: Applied migrations as (app, name), sorted.
        sequences: Digest of all sequences' positions; empty where our role may not read them.
        unlogged: Names of the unlogged tables.
    """

    migrations: Migrations
    sequences: str
    unlogged: tuple[str, ...]


def inspect(session: Session) -> Contents:
    """Return what the database that the session is on holds."""
    return Contents(
        migrations=_migrations(session),
        sequences=sequences_digest(session),
        unlogged=tuple(name for (name,) in session.rows(_UNLOGGED)),
    )


def sequences_digest(session: Session) -> str:
    """Return a digest of where all sequences are; empty where our role may not read one.

    Neither statistics nor ``pg_sequences`` show a ``setval(…, false)``, so each sequence is read.
    """
    sequences = session.rows(_SEQUENCES)
    digest = hashlib.sha256()
    for start in range(0, len(sequences), _SEQUENCES_PER_QUERY):
        part = sequences[start : start + _SEQUENCES_PER_QUERY]
        positions = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::oid, last_value, is_called FROM {}").format(
                sql.Literal(oid), sql.Identifier(schema, name)
            )
            for oid, schema, name in part
        )
        try:
            digest.update(repr(session.rows(positions)).encode())
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            return ""
    return digest.hexdigest()


def _migrations(session: Session) -> Migrations:
    # Django finds the table by the search path, and so does this.
    if session.value(sql.SQL("SELECT to_regclass('django_migrations')")) is None:
        return ()
    try:
        rows = session.rows(sql.SQL("SELECT DISTINCT app, name FROM django_migrations"))
    except psycopg.errors.InsufficientPrivilege:
        return ()
    return tuple(sorted((app, name) for app, name in rows))


_SEQUENCES_PER_QUERY: Final = 200

_SEQUENCES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'S' AND c.relpersistence <> 't' ORDER BY c.oid"
)
_UNLOGGED: Final = sql.SQL(
    "SELECT c.oid::regclass::text FROM pg_class c"
    " WHERE c.relpersistence = 'u' AND c.relkind = 'r' ORDER BY 1"
)
