"""Everything that a database holds, to be compared: rows in their order, sequences, catalogs."""

from typing import Any

from psycopg import Connection, sql

# What the server keeps for itself: other values are no other contents.
HOUSEKEEPING = [
    *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen"),
    *("relfrozenxid", "relminmxid", "indcheckxmin"),
]

CATALOGS = """
    SELECT relname FROM pg_class
     WHERE relkind = 'r' AND relnamespace = 'pg_catalog'::regnamespace AND NOT relisshared
       AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')
"""
RELATIONS = """
    SELECT oid::regclass::text, relkind::text FROM pg_class
     WHERE relkind IN ('r', 'm', 'S') AND relpersistence <> 't' AND oid >= 16384
"""


def contents(connection: Connection) -> dict[str, Any]:
    """Return what a database holds, by names that a comparison shows."""
    found: dict[str, Any] = {}
    for (catalog,) in connection.execute(CATALOGS).fetchall():
        query = sql.SQL(
            "SELECT count(*), sum(hashtext((to_jsonb(t) - %s::text[])::text)::bigint) FROM {} t"
        ).format(sql.Identifier(catalog))
        found[catalog] = connection.execute(query, [HOUSEKEEPING]).fetchone()
    for name, kind in connection.execute(RELATIONS).fetchall():
        columns = sql.SQL("last_value, is_called" if kind == "S" else "t::text")
        rows = sql.SQL("SELECT {} FROM ONLY {} t").format(columns, sql.SQL(name))
        found[name] = connection.execute(rows).fetchall()
    return found
