"""Tell by digests whether two states are the same: each table row by row, and all files."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

from django.conf import settings
from django.db import connection
from psycopg.sql import SQL, Identifier

# MD5 because it is fast; nobody is trying to deceive us.
FILES = "files in MEDIA_ROOT"
DIGEST = SQL("""
    SELECT count(*), coalesce(md5(string_agg(row, '' ORDER BY row)), '')
    FROM (SELECT md5(t::text) AS row FROM {} t) rows
""")


@dataclass(frozen=True, kw_only=True)
class TableDigest:
    """The contents of a table, or of all files.

    Attributes:
        rows: How many rows or files there are.
        md5: Of all columns of all rows, in whatever order they are stored.
    """

    rows: int
    md5: str


def digest_everything() -> dict[str, TableDigest]:
    """Return a digest of every table, computed by the server, and one of all files."""
    digests = {FILES: _digest_files()}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(DIGEST.format(Identifier(table)))
            rows, md5 = cursor.fetchone()
            digests[table] = TableDigest(rows=rows, md5=md5)
    return digests


def _digest_files() -> TableDigest:
    files = sorted(path for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file())
    content = md5(usedforsecurity=False)
    for path in files:
        content.update(str(path).encode() + path.read_bytes())
    return TableDigest(rows=len(files), md5=content.hexdigest())


def changed_tables(
    before: Mapping[str, TableDigest], after: Mapping[str, TableDigest]
) -> list[str]:
    """Return the tables that are not the same in both, or not there in one of them."""
    return sorted(
        table for table in before.keys() | after.keys() if before.get(table) != after.get(table)
    )
