"""Finding rows that differ by their contents, where two sides share no versions of rows.

Both sides are read in the order of the primary key, or of the whole row where there is none, a
block of rows at a time, so memory stays flat at any size.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from typing import Final

import psycopg
from psycopg import sql

from ..postgres.session import Query
from .sides import Side, ask_both
from .tables import Table, TablePair

Values = tuple[str | None, ...]
# A row of either side: its key as bytes to be ordered by, the key's values, and all values.
Row = tuple[bytes, Values, Values]
# The row as it was, and as it is; None on the side where it is not.
RowPair = tuple[Values, Values | None, Values | None]

_BLOCK: Final = 2_000


def has_rows(side: Side, parts: Iterable[Table]) -> bool:
    """Tell whether a table, or any of its partitions, has a row on one side."""
    exists = sql.SQL("SELECT EXISTS (SELECT FROM {})")
    return any(side.session.value(exists.format(part.identifier)) for part in parts)


def count_rows(side: Side, parts: Iterable[Table]) -> int:
    """Return how many rows a table has on one side, all its partitions together."""
    count = sql.SQL("SELECT count(*) FROM {}")
    return sum(side.session.value(count.format(part.identifier)) for part in parts)


def have_same_contents(pair: TablePair) -> bool:
    """Tell whether all rows are the same, by their number and sums of their hashes."""
    old, new = ask_both(_sum, (pair.before, pair.olds), (pair.after, pair.news), pair.columns)
    return old == new


def compare_contents(pair: TablePair) -> Generator[RowPair, None, None]:
    """Yield the key of each row that differs, as it was and as it is."""
    with (
        closing(_ordered(pair, pair.before, pair.olds)) as olds,
        closing(_ordered(pair, pair.after, pair.news)) as news,
    ):
        old, new = next(olds, None), next(news, None)
        while old is not None or new is not None:
            if new is None or (old is not None and old[0] < new[0]):
                assert old is not None  # noqa: S101  # one of them is there
                yield old[1], old[2], None
                old = next(olds, None)
            elif old is None or new[0] < old[0]:
                yield new[1], None, new[2]
                new = next(news, None)
            else:
                if old[2] != new[2]:
                    yield new[1], old[2], new[2]
                old, new = next(olds, None), next(news, None)


def texts_of(table: Table, columns: Iterable[str]) -> Query:
    """Return the expressions for the values of columns as text."""
    return sql.SQL(", ").join(
        (_OF_MADE_TYPE if "." in table.columns[name] else _OF_OWN_TYPE).format(sql.Identifier(name))
        for name in columns
    )


_OF_OWN_TYPE: Final = sql.SQL("{}::text")
# Whoever made a type may have made a cast to text, which would run a function of theirs in our
# name. The type's output is the server's own. Such types are shown with their schemas.
_OF_MADE_TYPE: Final = sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN concat({0}) END")


def _ordered(pair: TablePair, side: Side, parts: Sequence[Table]) -> Generator[Row, None, None]:
    if not parts:
        return
    cursor = sql.Identifier(f"pgsnap_{id(pair):x}")
    select = sql.SQL(
        "SELECT convert_to(ROW({0})::text, 'UTF8') AS key, ARRAY[{0}]::text[], ARRAY[{1}]::text[]"
        " FROM {2}"
    )
    selects = [
        select.format(texts_of(part, pair.identity), texts_of(part, pair.columns), part.identifier)
        for part in parts
    ]
    declare = sql.SQL("DECLARE {} NO SCROLL CURSOR FOR SELECT * FROM ({}) r ORDER BY key").format(
        cursor, sql.SQL(" UNION ALL ").join(selects)
    )
    side.session.execute(declare)
    fetch = sql.SQL("FETCH {} FROM {}").format(sql.Literal(_BLOCK), cursor)
    try:
        while block := side.session.rows(fetch):
            for order, key_values, row_values in block:
                yield bytes(order), tuple(key_values), tuple(row_values)
    finally:
        # Its sorted rows may take much of the server's disk until the transaction ends. After an
        # error, there is no transaction any more.
        with suppress(psycopg.Error):
            side.session.execute(sql.SQL("CLOSE {}").format(cursor))


def _sum(side: Side, parts: Sequence[Table], columns: Sequence[str]) -> object:
    # Equal rows count as often as they are there, so that they do not cancel each other.
    hashes = sql.SQL(
        "count(*), sum(hashtextextended(row, 0)::numeric), sum(hashtextextended(row, 1)::numeric)"
    )
    rows = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT ROW({})::text AS row FROM {}").format(
            texts_of(part, columns), part.identifier
        )
        for part in parts
    )
    return side.session.rows(sql.SQL("SELECT {} FROM ({}) r").format(hashes, rows))
