"""Everything that a database holds, to be compared: rows in their order, sequences, catalogs."""

from typing import Any

from psycopg import Connection, sql

# What the server keeps for itself: other values are no other contents.
HOUSEKEEPING = [
    *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen"),
    *("relfrozenxid", "relminmxid", "indcheckxmin"),
]

CATALOGS = """
    SELECT relname, array_agg(attname::text)
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
     WHERE relkind = 'r' AND relnamespace = 'pg_catalog'::regnamespace AND NOT relisshared
       AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')
       AND attnum > 0 AND attname <> ALL (%s)
     GROUP BY relname
"""
RELATIONS = """
    SELECT oid::regclass::text, relkind::text FROM pg_class
     WHERE relkind IN ('r', 'm', 'S') AND relpersistence <> 't' AND oid >= 16384
"""


def contents(connection: Connection) -> dict[str, Any]:
    """Return what a database holds, by names that a comparison shows."""
    found: dict[str, Any] = {}
    catalogs = connection.execute(CATALOGS, [HOUSEKEEPING]).fetchall()
    digests = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, count(*), sum(hashtext(ROW({})::text)::bigint) FROM {} t").format(
            sql.Literal(name),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.Identifier(name),
        )
        for name, columns in catalogs
    )
    found |= {name: (count, digest) for name, count, digest in connection.execute(digests)}
    for name, kind in connection.execute(RELATIONS).fetchall():
        columns = sql.SQL("last_value, is_called" if kind == "S" else "t::text")
        rows = sql.SQL("SELECT {} FROM ONLY {} t").format(columns, sql.SQL(name))
        found[name] = connection.execute(rows).fetchall()
    return found
