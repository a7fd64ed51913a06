"""What was written in a test database: which tables and sequences, told without reading them.

The server counts the rows that are inserted, updated and deleted in each table, those of
transactions that were rolled back, too (manual, pg_stat_all_tables), and each look at a sequence's
only block (pg_statio_all_sequences), which nextval and setval cannot do without. The counts of
other sessions are complete once their backends are gone, so nobody else may be there when this
looks. TRUNCATE gives a table another file. DDL and large objects write to the system catalogs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from ...postgres.session import Session

# What comes with the server has lower oids (manual, "OIDs Assigned ...", bki.html).
_FIRST_OF_USERS: Final = 16384


@dataclass(frozen=True, kw_only=True)
class Count:
    """What the server has counted of a table, a materialized view or a sequence.

    Attributes:
        is_sequence: Whether it is a sequence.
        written: How many rows were ever written, or how often it was looked at.
        file: Number of its file, another one after TRUNCATE.
    """

    is_sequence: bool
    written: int
    file: int


# By oid.
Look = Mapping[int, Count]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was written between two looks.

    Attributes:
        catalogs: Whether it was more than rows and sequences: DDL, large objects.
        tables: Oids of the tables.
        sequences: Oids of the sequences that may have moved.
    """

    catalogs: bool
    tables: frozenset[int]
    sequences: frozenset[int]

    @property
    def anything(self) -> bool:
        """Whether there was anything."""
        return self.catalogs or bool(self.tables or self.sequences)


def look(inside: Session, oids: Iterable[int] | None = None) -> Look:
    """Return what the server has counted.

    Args:
        inside: A session on the database, where nobody else is.
        oids: Only these tables and sequences; None for all.
    """
    # A session's own counts are complete when it has been told to hand them over.
    inside.rows(_HAND_OVER)
    return {
        oid: Count(is_sequence=is_sequence, written=written, file=file)
        for oid, is_sequence, written, file in inside.rows(
            _COUNTS, [None if oids is None else list(oids)]
        )
    }


def changes(before: Look, now: Look) -> Changes:
    """Return what was written between two looks."""
    differing = {oid for oid, count in now.items() if before.get(oid) != count}
    return Changes(
        catalogs=before.keys() != now.keys() or any(oid < _FIRST_OF_USERS for oid in differing),
        tables=frozenset(oid for oid in differing if not now[oid].is_sequence),
        sequences=frozenset(oid for oid in differing if now[oid].is_sequence),
    )


def has_moved(found: Look) -> bool:
    """Tell whether a sequence may have moved since the database was made."""
    return any(count.is_sequence and count.written for count in found.values())


_HAND_OVER: Final = sql.SQL("SELECT pg_stat_force_next_flush()")

# ANALYZE writes statistics, which change no result.
_COUNTS: Final = sql.SQL(
    "SELECT c.oid, c.relkind = 'S', CASE WHEN c.relkind = 'S'"
    " THEN pg_stat_get_blocks_fetched(c.oid)"
    " ELSE pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)"
    "   + pg_stat_get_tuples_deleted(c.oid) END, c.relfilenode"
    " FROM pg_catalog.pg_class c"
    " WHERE c.relkind IN ('r', 'm', 'S') AND NOT c.relisshared AND c.relpersistence <> 't'"
    " AND c.oid <> ALL (ARRAY['pg_catalog.pg_statistic', 'pg_catalog.pg_statistic_ext_data']"
    "   ::regclass[])"
    " AND c.oid = ANY (coalesce(%s::oid[], ARRAY[c.oid]))"
)
