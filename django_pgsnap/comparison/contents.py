"""Finding rows that differ by their contents, where two sides share no versions of rows.

Both sides are read in the order of the primary key, or of the whole row where there is none, a
block of rows at a time, so memory stays flat at any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from ..postgres.session import Query
from .sides import Side, ask_both
from .tables import Table

Values = tuple[str | None, ...]
# A row of either side: its key as bytes to be ordered by, the key's values, and all values.
Row = tuple[bytes, Values, Values]
# The row as it was, and as it is; None on the side where it is not.
Pair = tuple[Values, Values | None, Values | None]

_BLOCK: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is read of a table on both sides."""

    old_parts: tuple[Table, ...]
    new_parts: tuple[Table, ...]
    columns: tuple[str, ...]  # the columns that both sides have
    key: tuple[str, ...]  # the primary key that both sides have; all columns without one
    has_key: bool  # whether these values tell rows apart

    @classmethod
    def of(cls, old_parts: Sequence[Table], new_parts: Sequence[Table]) -> Shape:
        """Return what the tables of both sides have in common; one side may have none."""
        sides = [parts[0].columns for parts in (new_parts, old_parts) if parts]
        columns = tuple(name for name in sides[0] if all(name in side for side in sides))
        keys = {table.key for table in (*old_parts, *new_parts)}
        key = keys.pop() if len(keys) == 1 else ()
        return cls(
            old_parts=tuple(old_parts),
            new_parts=tuple(new_parts),
            columns=columns,
            key=key or columns,
            has_key=bool(key),
        )


def have_same_contents(before: Side, after: Side, shape: Shape) -> bool:
    """Tell whether all rows are the same, by their number and sums of their hashes."""
    olds, news = _sum(shape.old_parts, shape.columns), _sum(shape.new_parts, shape.columns)
    old, new = ask_both(before, after, lambda side: side.rows(olds), lambda side: side.rows(news))
    return old == new


def compare_contents(before: Side, after: Side, shape: Shape) -> Iterator[Pair]:
    """Yield the key of each row that differs, as it was and as it is."""
    olds = _ordered(before, shape.old_parts, shape)
    news = _ordered(after, shape.new_parts, shape)
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


def _ordered(side: Side, parts: Sequence[Table], shape: Shape) -> Iterator[Row]:
    if not parts:
        return
    cursor = sql.Identifier(f"pgsnap_{id(shape):x}")
    select = sql.SQL(
        "SELECT convert_to(ROW({0})::text, 'UTF8') AS key, ARRAY[{0}]::text[], ARRAY[{1}]::text[]"
        " FROM {2}"
    )
    selects = [
        select.format(texts_of(part, shape.key), texts_of(part, shape.columns), part.identifier)
        for part in parts
    ]
    declare = sql.SQL("DECLARE {} NO SCROLL CURSOR FOR SELECT * FROM ({}) r ORDER BY key").format(
        cursor, sql.SQL(" UNION ALL ").join(selects)
    )
    side.session.execute(declare)
    fetch = sql.SQL("FETCH {} FROM {}").format(sql.Literal(_BLOCK), cursor)
    while block := side.session.rows(fetch):
        for order, key_values, row_values in block:
            yield bytes(order), tuple(key_values), tuple(row_values)
    # Its sorted rows may take much of the server's disk. Otherwise the transaction's end closes it.
    side.session.execute(sql.SQL("CLOSE {}").format(cursor))


def _sum(parts: Sequence[Table], columns: Sequence[str]) -> Query:
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
    return sql.SQL("SELECT {} FROM ({}) r").format(hashes, rows)
