"""Tell by a digest of each table whether two states of the database are the same, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection
from psycopg.sql import SQL, Identifier

# MD5 because it is fast; nobody is trying to deceive us.
DIGEST = SQL("""
    SELECT count(*), coalesce(md5(string_agg(row, '' ORDER BY row)), '')
    FROM (SELECT md5(t::text) AS row FROM {} t) rows
""")


@dataclass(frozen=True, kw_only=True)
class TableDigest:
    """The contents of a table.

    Attributes:
        rows: How many there are.
        md5: Of all columns of all rows, in whatever order they are stored.
    """

    rows: int
    md5: str


def digest_database() -> dict[str, TableDigest]:
    """Return a digest of every table, computed by the server, so that no row travels."""
    digests = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(DIGEST.format(Identifier(table)))
            rows, md5 = cursor.fetchone()
            digests[table] = TableDigest(rows=rows, md5=md5)
    return digests


def changed_tables(
    before: Mapping[str, TableDigest], after: Mapping[str, TableDigest]
) -> list[str]:
    """Return the tables that are not the same in both, or not there in one of them."""
    return sorted(
        table for table in before.keys() | after.keys() if before.get(table) != after.get(table)
    )
