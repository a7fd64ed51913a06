"""States of the system catalogs, which tell whether a schema is the same as before.

DDL and large objects write to the catalogs. Where that was undone again, as DROP TABLE undoes
CREATE TABLE, a catalog has as many rows as before, and none from a later transaction (``xmin``).
The same holds for a clone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from ...postgres.session import Session


@dataclass(frozen=True, kw_only=True)
class CatalogState:
    """What a system catalog holds.

    Attributes:
        query: Returns the catalog's oid, its number of rows, and hashes of those that were written
            after this state: NULL where rows are not compared by value.
        count: How many rows that was.
        hashes: Hashes of all rows, if they are compared by value.
    """

    query: sql.Composed
    count: int
    hashes: frozenset[int]


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

    Args:
        inside: A session on the database, to which nobody else is connected, without temporary
            tables of its own.
    """
    is_later = _IS_LATER.format(inside.value(_NEXT_TRANSACTION))
    catalogs = inside.rows(_CATALOGS)
    later = {oid: _read(oid, name, columns, is_later) for oid, name, columns in catalogs}
    now = [
        _read(oid, name, columns, sql.Literal(name in _COMPARED_BY_VALUE))
        for oid, name, columns in catalogs
    ]
    return {
        oid: CatalogState(query=later[oid], count=count, hashes=frozenset(hashes or ()))
        for oid, count, hashes in inside.rows(_UNION.join(now))
    }


def are_unchanged(inside: Session, states: CatalogStates) -> bool:
    """Tell whether catalogs hold what they did when their states were read."""
    found = inside.rows(_UNION.join(state.query for state in states.values())) if states else []
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
    """Drop objects that were not there before, and what depends on them; tell if there were any.

    Raises:
        psycopg.Error: Our role may not.
    """
    found = inside.rows(_OBJECTS, [list(old)])
    inside.execute(
        sql.SQL("; ").join(
            sql.SQL("DROP {} IF EXISTS {} CASCADE").format(sql.SQL(kind), sql.SQL(identity))
            for _, kind, identity in found
        )
    )
    return bool(found)


def _read(oid: int, name: str, columns: list[str], has_hash: sql.Composable) -> sql.Composed:
    """Return a query for a catalog's oid, its number of rows, and hashes of some of them."""
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
# something else goes with it, which comes first.
_OBJECTS: Final = sql.SQL(
    "SELECT o.oid, i.type, i.identity FROM ("
    " SELECT 1 AS place, 'pg_catalog.pg_extension'::pg_catalog.regclass AS catalog, oid"
    "   FROM pg_catalog.pg_extension"
    " UNION ALL SELECT 2, 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'"
    " UNION ALL SELECT 3, 'pg_catalog.pg_class'::pg_catalog.regclass, oid"
    "   FROM pg_catalog.pg_class WHERE relkind OPERATOR(pg_catalog.=)"
    "   ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S']) AND relpersistence OPERATOR(pg_catalog.<>) 't'"
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
