"""Digests of the system catalogs, which tell whether a schema is the same as before.

DDL and large objects write to the catalogs. Where that was undone again, as DROP TABLE undoes
CREATE TABLE, a catalog holds the same row versions as before: in the same places (``ctid``), from
the same transactions (``xmin``). A clone has them, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from psycopg import sql

from ...postgres.session import Session

# Of each catalog, by oid: how many rows it has, and a hash of them all.
CatalogDigests = Mapping[int, tuple[int, int]]

# Rows of these are often updated and then updated back. They are few.
_COMPARED_BY_VALUE: Final = ("pg_class", "pg_sequence", "pg_trigger")

_ROW_VERSION: Final = "pg_catalog.hashtidextended(t.ctid, t.xmin::pg_catalog.text::pg_catalog.int8)"

# TRUNCATE and VACUUM change where rows are stored. The flags that tell whether a table has or had
# indexes, rules, triggers or children stay when those are dropped (manual, pg_class).
_STORED: Final = {
    *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid"),
    *("relminmxid", "relhasindex", "relhasrules", "relhastriggers", "relhassubclass"),
}


def read_catalog_digests(
    inside: Session, oids: Collection[int] | None = None
) -> dict[int, tuple[int, int]]:
    """Return the digests of the catalogs that our role may read.

    Args:
        inside: A session on the database, without temporary tables of its own.
        oids: Only these catalogs; None for all.
    """
    catalogs = inside.rows(_CATALOGS, [None if oids is None else list(oids)])
    digests = (_digest(oid, name, columns) for oid, name, columns in catalogs)
    rows = inside.rows(sql.SQL(" UNION ALL ").join(digests)) if catalogs else []
    return {oid: (count, digest) for oid, count, digest in rows}


def drop_relations(inside: Session, oids: Collection[int]) -> None:
    """Drop tables, views and sequences, and what depends on them.

    Raises:
        psycopg.Error: Our role may not.
    """
    statements = [
        sql.SQL("DROP {} IF EXISTS {} CASCADE").format(sql.SQL(kind), sql.Identifier(schema, name))
        for kind, schema, name in inside.rows(_RELATIONS, [list(oids)])
    ]
    inside.execute(sql.SQL("; ").join(statements))


def _digest(oid: int, name: str, columns: list[str]) -> sql.Composed:
    query = sql.SQL(
        "SELECT {}::pg_catalog.oid, pg_catalog.count(*), pg_catalog.bit_xor({}) FROM {} t WHERE {}"
    )
    version: sql.Composable = sql.SQL(_ROW_VERSION)
    condition = sql.SQL("true")
    if name in _COMPARED_BY_VALUE:
        kept = [sql.Identifier("t", column) for column in columns if column not in _STORED]
        version = sql.SQL("pg_catalog.hashtextextended(ROW({})::pg_catalog.text, 0)").format(
            sql.SQL(", ").join(kept)
        )
    elif name == "pg_namespace":
        # A session's first temporary table makes one, which stays for other sessions.
        condition = sql.SQL("t.nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'")
    table = sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(oid))
    return query.format(table, version, sql.Identifier("pg_catalog", name), condition)


_CATALOGS: Final = sql.SQL(
    "SELECT c.oid, c.relname, (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text)"
    "   FROM pg_catalog.pg_attribute a"
    "   WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0)"
    " FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) 'r'"
    " AND c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace"
    " AND NOT c.relisshared AND c.oid OPERATOR(pg_catalog.<>) ALL (ARRAY["
    "   'pg_catalog.pg_statistic', 'pg_catalog.pg_statistic_ext_data']::pg_catalog.regclass[])"
    " AND pg_catalog.has_table_privilege(c.oid, 'SELECT')"
    " AND c.oid OPERATOR(pg_catalog.=) ANY (coalesce(%s::pg_catalog.oid[], ARRAY[c.oid]))"
)

_RELATIONS: Final = sql.SQL(
    "SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE'"
    "   WHEN c.relkind OPERATOR(pg_catalog.=) 'm' THEN 'MATERIALIZED VIEW'"
    "   WHEN c.relkind OPERATOR(pg_catalog.=) 'v' THEN 'VIEW'"
    "   WHEN c.relkind OPERATOR(pg_catalog.=) 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,"
    " n.nspname, c.relname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.oid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])"
)
