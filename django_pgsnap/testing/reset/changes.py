"""What was written in a test database, without reading its tables.

The server counts the rows that are inserted, updated and deleted in each table, those of
transactions that were rolled back, too, and apart from that those that were committed since the
last ANALYZE (manual, pg_stat_all_tables). It counts each look at a sequence's only block
(pg_statio_all_sequences), which nextval and setval cannot do without. What a session counted is
complete once its backend is gone, so nobody else may be connected when the counters are read.
TRUNCATE gives a table another file.

DDL and large objects write to the system catalogs. Where that was undone again, as DROP TABLE
undoes CREATE TABLE, a catalog has as many rows as before, and none from a later transaction
(``xmin``). The same holds for a clone.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from psycopg import sql

from ...postgres.session import Session

# What comes with the server has lower oids (manual, "OIDs Assigned ...", bki.html).
_FIRST_USER_OID: Final = 16384


class RelationCounter(NamedTuple):
    """What the server has counted of a table, a view or a sequence."""

    is_sequence: bool
    written: int  # how many rows ever were; of a sequence, how often it was looked at
    committed: int  # how many rows were written since the last ANALYZE, and committed
    analyzed: int
    file: int  # number of its file, another one after TRUNCATE

    def differs_from(self, before: "RelationCounter") -> bool:
        """Tell whether anything was written and not rolled back, or a sequence was looked at."""
        if self.file != before.file:
            return True
        tells_committed = not self.is_sequence and self.analyzed == before.analyzed
        was_rolled_back = tells_committed and self.committed == before.committed
        return self.written != before.written and not was_rolled_back


# By oid.
TableCounters = Mapping[int, RelationCounter]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was written between two readings of the counters, and not rolled back, by oids."""

    catalogs: frozenset[int]  # system catalogs, which DDL and large objects write to
    created: frozenset[int]  # tables, views and sequences that were not there before
    tables: frozenset[int]
    sequences: frozenset[int]  # those that may have moved
    rows: int  # how many were written in the tables

    @property
    def relations(self) -> frozenset[int]:
        return self.tables | self.sequences


def read_table_counters(
    inside: Session, oids: Iterable[int] | None = None, *, is_new: bool = False
) -> TableCounters:
    """Return what the server has counted in all tables and sequences, or in these.

    Nobody else may be connected.
    """
    if not is_new:  # it has done something since it began or was renewed
        # The counts of this session itself are complete after this statement.
        inside.rows(_FLUSH_COUNTS)
    rows = inside.rows(_COUNTS, [None if oids is None else list(oids)])
    return {oid: RelationCounter(*counter) for oid, *counter in rows}


def are_sequences_unmoved(inside: Session, counters: TableCounters) -> bool:
    """Tell whether no sequence was looked at since counters were read."""
    looks = {oid: each.written for oid, each in counters.items() if each.is_sequence}
    return not looks or inside.value(_LOOKS, [list(looks)]) == sum(looks.values())


def find_changes(before: TableCounters, now: TableCounters) -> Changes:
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


@dataclass(frozen=True, kw_only=True)
class CatalogState:
    """What a system catalog holds."""

    # Returns the catalog's oid, its number of rows, and hashes of those that were written after
    # this state: NULL where rows are not compared by value.
    query: sql.Composed
    count: int
    hashes: frozenset[int]  # those of all rows, if they are compared by value


# By oid.
CatalogStates = Mapping[int, CatalogState]

# Rows of these are often updated and then updated back.
_COMPARED_BY_VALUE: Final = ("pg_class", "pg_sequence", "pg_trigger")

# TRUNCATE and VACUUM change where rows are stored. The flags that tell whether a table has or had
# indexes, rules, triggers or children stay when those are dropped (manual, pg_class).
_STORED: Final = {
    *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid"),
    *("relminmxid", "relhasindex", "relhasrules", "relhastriggers", "relhassubclass"),
}


def read_catalog_states(inside: Session) -> CatalogStates:
    """Return the states of the catalogs that our role may read.

    Nobody else may be connected, and the session must have no temporary tables.
    """
    is_later = _IS_LATER.format(inside.value(_NEXT_TRANSACTION))
    catalogs = inside.rows(_CATALOGS)
    later = {oid: _query_catalog(oid, name, columns, is_later) for oid, name, columns in catalogs}
    now = [
        _query_catalog(oid, name, columns, sql.Literal(name in _COMPARED_BY_VALUE))
        for oid, name, columns in catalogs
    ]
    return {
        oid: CatalogState(query=later[oid], count=count, hashes=frozenset(hashes or ()))
        for oid, count, hashes in inside.rows(_UNION.join(now))
    }


def are_catalogs_unchanged(
    inside: Session, states: CatalogStates, written: Collection[int]
) -> bool:
    """Tell whether catalogs that were written to hold what they did when states were read."""
    if not states.keys() >= set(written):
        return False
    found = inside.rows(_UNION.join(states[oid].query for oid in written)) if written else []
    # As many rows as before, of which each was there before or equals one that was: they are the
    # same, since no two rows have the same oid.
    return all(
        count == states[oid].count and states[oid].hashes.issuperset(hashes or ())
        for oid, count, hashes in found
    )


def read_user_objects(inside: Session) -> frozenset[int]:
    """Return the oids of what the database has beside what every database has."""
    return frozenset(oid for oid, _, _ in inside.rows(_OBJECTS, [[]]))


def drop_new_objects(inside: Session, old: Collection[int]) -> bool:
    """Drop objects that were not there before, and what depends on them; tell if there were any."""
    found = inside.rows(_OBJECTS, [list(old)])
    inside.execute(
        sql.SQL("; ").join(
            sql.SQL("DROP {} IF EXISTS {} CASCADE").format(sql.SQL(kind), sql.SQL(identity))
            for _, kind, identity in found
        )
    )
    return bool(found)


def _query_catalog(
    oid: int, name: str, columns: list[str], has_hash: sql.Composable
) -> sql.Composed:
    hashed: sql.Composable = sql.SQL("NULL::pg_catalog.int8")
    condition = sql.SQL("true")
    if name in _COMPARED_BY_VALUE:
        kept = [sql.Identifier("t", column) for column in columns if column not in _STORED]
        hashed = sql.SQL("pg_catalog.hashtextextended(ROW({})::pg_catalog.text, 0)").format(
            sql.SQL(", ").join(kept)
        )
    elif name == "pg_namespace":
        # A session's first temporary table makes one, which stays for other sessions.
        condition = sql.SQL("t.nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'")
    return sql.SQL(
        "SELECT {}::pg_catalog.oid, pg_catalog.count(*),"
        " pg_catalog.array_agg({}) FILTER (WHERE {}) FROM {} t WHERE {}"
    ).format(oid, hashed, has_hash, sql.Identifier("pg_catalog", name), condition)


_UNION: Final = sql.SQL(" UNION ALL ")

# All that is committed in this database so far is from earlier transactions.
_NEXT_TRANSACTION: Final = sql.SQL(
    "SELECT pg_catalog.xid(pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()))"
    "::pg_catalog.text"
)
_IS_LATER: Final = sql.SQL(
    "pg_catalog.age(t.xmin) OPERATOR(pg_catalog.<=) pg_catalog.age({}::pg_catalog.xid)"
)

_CATALOGS: Final = sql.SQL(
    "SELECT c.oid, c.relname, (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text)"
    "   FROM pg_catalog.pg_attribute a"
    "   WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0)"
    " FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) 'r'"
    " AND c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace"
    " AND NOT c.relisshared AND c.oid OPERATOR(pg_catalog.<>) ALL (ARRAY["
    "   'pg_catalog.pg_statistic', 'pg_catalog.pg_statistic_ext_data']::pg_catalog.regclass[])"
    " AND pg_catalog.has_table_privilege(c.oid, 'SELECT')"
)

# What comes with the server has lower oids (manual, "System Catalog Initial Data"). What belongs to
# something else goes with it, which comes first: the server does not drop a table's sequence alone.
_OBJECTS: Final = sql.SQL(
    "SELECT o.oid, i.type, i.identity FROM ("
    " SELECT 1 AS place, 'pg_catalog.pg_extension'::pg_catalog.regclass AS catalog, oid"
    "   FROM pg_catalog.pg_extension"
    " UNION ALL SELECT 2, 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'"
    " UNION ALL SELECT CASE WHEN relkind OPERATOR(pg_catalog.=) ANY (ARRAY['S', 'i', 'I'])"
    "   THEN 4 ELSE 3 END, 'pg_catalog.pg_class'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_class c WHERE relkind OPERATOR(pg_catalog.=)"
    "   ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S', 'i', 'I'])"
    "   AND relpersistence OPERATOR(pg_catalog.<>) 't'"
    "   AND relnamespace OPERATOR(pg_catalog.<>) 'pg_toast'::pg_catalog.regnamespace"
    "   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint"
    "     WHERE conindid OPERATOR(pg_catalog.=) c.oid)"
    " UNION ALL SELECT 4, 'pg_catalog.pg_trigger'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_trigger WHERE NOT tgisinternal"
    " UNION ALL SELECT 6, 'pg_catalog.pg_proc'::pg_catalog.regclass, oid FROM pg_catalog.pg_proc"
    " UNION ALL SELECT 5, 'pg_catalog.pg_type'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_type t WHERE typtype OPERATOR(pg_catalog.=) ANY (ARRAY['e', 'd', 'r'])"
    "   OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) t.typrelid"
    "     AND c.relkind OPERATOR(pg_catalog.=) 'c')"
    " ) o, pg_catalog.pg_identify_object(o.catalog, o.oid, 0) i"
    " WHERE o.oid OPERATOR(pg_catalog.>=) 16384"
    " AND o.oid OPERATOR(pg_catalog.<>) ALL (%s::pg_catalog.oid[])"
    " ORDER BY o.place, o.oid"
)
