"""What was written in a test database, without reading its tables.

The server counts the rows that are inserted, updated and deleted in each table, those of
transactions that were rolled back, too, and apart from that those that were committed since the
last ANALYZE (manual, pg_stat_all_tables). It counts each look at a sequence's only block
(pg_statio_all_sequences), which nextval and setval cannot do without. What a session counted is
complete once its backend is gone, so nobody else may be connected when the counters are read.
TRUNCATE gives a table another file. DDL and large objects write to the system catalogs, and
`read_catalog_states` tells whether it was undone again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from psycopg import sql

from ...postgres.session import Session

# What comes with the server has lower oids (manual, "OIDs Assigned ...", bki.html).
_FIRST_USER_OID: Final = 16384


class RelationCounter(NamedTuple):
    """What the server has counted of a table, a view or a sequence.

    Attributes:
        written: How many rows were ever written; of a sequence, how often it was looked at.
        committed: How many rows were written since the last ANALYZE, and committed.
        analyzed: How often there was an ANALYZE.
        file: Number of its file, another one after TRUNCATE.
    """

    is_sequence: bool
    written: int
    committed: int
    analyzed: int
    file: int

    @property
    def of_a_clone(self) -> RelationCounter:
        """What the server has counted of it in a clone that nobody has connected to."""
        return self._replace(written=0, committed=0, analyzed=0)

    def differs_from(self, before: RelationCounter) -> bool:
        """Tell whether anything was written and not rolled back, or a sequence was looked at."""
        if self.file != before.file:
            return True
        known = not self.is_sequence and self.analyzed == before.analyzed
        return self.written != before.written and not (known and self.committed == before.committed)


# By oid.
TableCounters = Mapping[int, RelationCounter]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was written between two readings of the counters, and not rolled back.

    Attributes:
        catalogs: Oids of the system catalogs, which DDL and large objects write to.
        created: Oids of the tables, views and sequences that were not there before.
        tables: Oids of the tables.
        sequences: Oids of the sequences that may have moved.
        rows: How many rows were written in the tables.
    """

    catalogs: frozenset[int]
    created: frozenset[int]
    tables: frozenset[int]
    sequences: frozenset[int]
    rows: int

    @property
    def relations(self) -> frozenset[int]:
        """Oids of tables and sequences alike."""
        return self.tables | self.sequences


def read_table_counters(
    inside: Session, oids: Iterable[int] | None = None, *, is_new: bool = False
) -> TableCounters:
    """Return what the server has counted.

    Args:
        inside: A session on the database, to which nobody else is connected.
        oids: Only these tables and sequences; None for all.
        is_new: Whether the session has done nothing since it began or was renewed.
    """
    if not is_new:
        # The counts of this session itself are complete after this statement.
        inside.rows(_FLUSH_COUNTS)
    rows = inside.rows(_COUNTS, [None if oids is None else list(oids)])
    return {oid: RelationCounter(*counter) for oid, *counter in rows}


def are_sequences_unmoved(inside: Session, counters: TableCounters) -> bool:
    """Tell whether no sequence was looked at since counters were read."""
    looks = {oid: each.written for oid, each in counters.items() if each.is_sequence}
    return not looks or inside.value(_LOOKS, [list(looks)]) == sum(looks.values())


def find_changes(before: TableCounters, now: TableCounters) -> Changes:
    """Return what was written between two readings."""
    differing = frozenset(
        oid
        for oid, counter in now.items()
        if oid not in before or counter.differs_from(before[oid])
    )
    catalogs = frozenset(oid for oid in differing if oid < _FIRST_USER_OID)
    sequences = frozenset(oid for oid in differing if now[oid].is_sequence)
    tables = differing - catalogs - sequences
    return Changes(
        catalogs=catalogs,
        created=frozenset(now.keys() - before.keys()),
        tables=tables,
        sequences=sequences,
        rows=sum(now[oid].written - before[oid].written for oid in tables if oid in before),
    )


_FLUSH_COUNTS: Final = sql.SQL("SELECT pg_catalog.pg_stat_force_next_flush()")

# Those on sequences, whose number never falls.
_LOOKS: Final = sql.SQL(
    "SELECT pg_catalog.sum(pg_catalog.pg_stat_get_blocks_fetched(oid))"
    " FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS s (oid)"
)

# ANALYZE writes statistics, which change no result.
# What stores no rows is here to be seen when it is new; what of that comes with the server is not.
_COUNTS: Final = sql.SQL(
    "SELECT c.oid, c.relkind OPERATOR(pg_catalog.=) 'S',"
    " CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S'"
    " THEN pg_catalog.pg_stat_get_blocks_fetched(c.oid)"
    " ELSE pg_catalog.pg_stat_get_tuples_inserted(c.oid)"
    "   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_tuples_updated(c.oid)"
    "   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_tuples_deleted(c.oid) END,"
    " pg_catalog.pg_stat_get_mod_since_analyze(c.oid), pg_catalog.pg_stat_get_analyze_count(c.oid)"
    "   OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_autoanalyze_count(c.oid), c.relfilenode"
    " FROM pg_catalog.pg_class c"
    " WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'm', 'S', 'p', 'v', 'f'])"
    " AND (c.relkind OPERATOR(pg_catalog.=) 'r' OR c.oid OPERATOR(pg_catalog.>=) 16384)"
    " AND NOT c.relisshared AND c.relpersistence OPERATOR(pg_catalog.<>) 't'"
    " AND c.oid OPERATOR(pg_catalog.<>) ALL"
    " (ARRAY['pg_catalog.pg_statistic', 'pg_catalog.pg_statistic_ext_data']"
    "   ::pg_catalog.regclass[])"
    " AND c.oid OPERATOR(pg_catalog.=) ANY (coalesce(%s::pg_catalog.oid[], ARRAY[c.oid]))"
)
