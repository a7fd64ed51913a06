"""Finding rows that differ by the versions of rows that two clones share.

A clone has the same file for a table as what it was cloned from: each version of a row keeps its
place (``ctid``) and the transaction that made it (``xmin``), also when it is frozen. A place is
given to another version only by another transaction. So two sides whose tables have the same oid,
file and columns have the same row wherever place and transaction agree, and nothing but these has
to be read. How many rows are newer than a snapshot would not be enough: with ``take A``, change,
``take B``, ``restore A`` nothing is newer than ``B``, and yet it differs.

Differences are looked for in ever smaller parts of a table: ranges of blocks, then one bucket of
many in these ranges, then single rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from psycopg import sql

from ..postgres.session import Query
from .sides import Side, ask_both
from .tables import Table

# A row's place and transaction, both as the server writes them.
Version = tuple[str, int]
# How many versions there are, and the exclusive or of their hashes.
Sum = tuple[int, int]

# Larger tables are read in ranges of so many blocks (512 KiB), of which most are the same. What
# differs is read again in parts, so that small ranges cost less than large ones.
_RANGE_BLOCKS: Final = 64
_RANGES_PER_QUERY: Final = 128
_TABLES_PER_QUERY: Final = 100
_BUCKETS: Final = 1024


class TooManyError(Exception):
    """More row versions differ than are worth being looked at one by one."""


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Blocks of a table, from ``first`` on, to before ``end``; the last one has no end."""

    table: Table
    first: int
    end: int | None

    @property
    def condition(self) -> Query:
        start = sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({self.first},0)"))
        if self.end is None:
            return start
        return sql.SQL("{} AND ctid < {}::tid").format(start, sql.Literal(f"({self.end},0)"))


def find_different_tables(
    before: Side, after: Side, tables: Sequence[tuple[Table, Table]]
) -> set[int]:
    """Return the oids of those small tables whose row versions are not the same."""
    different: set[int] = set()
    for start in range(0, len(tables), _TABLES_PER_QUERY):
        part = tables[start : start + _TABLES_PER_QUERY]
        old, new = ask_both(
            before,
            after,
            partial(_sums, ranges=[_whole(table) for table, _ in part]),
            partial(_sums, ranges=[_whole(table) for _, table in part]),
        )
        different |= {pair[0].oid for pair, a, b in zip(part, old, new, strict=True) if a != b}
    return different


def is_small(*tables: Table) -> bool:
    """Tell whether tables are read as a whole rather than in ranges."""
    return all(table.blocks <= _RANGE_BLOCKS for table in tables)


def find_different_versions(
    before: Side, after: Side, old: Table, new: Table, *, most: int
) -> tuple[set[Version], set[Version]]:
    """Return the row versions that only the older, and only the newer side of a table has.

    Args:
        before: The older side.
        after: The newer side.
        old: The table on the older side.
        new: The same table on the newer side.
        most: How many versions to return at most.

    Raises:
        TooManyError: There are more.
    """
    only_old: set[Version] = set()
    only_new: set[Version] = set()
    for ranges in _different_ranges(before, after, old, new):
        for a, b in ranges:
            old_sums, new_sums = ask_both(
                before,
                after,
                partial(_buckets, part=a),
                partial(_buckets, part=b),
            )
            buckets = [
                key
                for key in old_sums.keys() | new_sums.keys()
                if old_sums.get(key) != new_sums.get(key)
            ]
            if not buckets:
                continue
            olds, news = ask_both(
                before,
                after,
                partial(_versions, part=a, buckets=buckets),
                partial(_versions, part=b, buckets=buckets),
            )
            only_old |= olds - news
            only_new |= news - olds
            if len(only_old) + len(only_new) > most:
                raise TooManyError
    return only_old, only_new


def _different_ranges(
    before: Side, after: Side, old: Table, new: Table
) -> Iterator[list[tuple[_Range, _Range]]]:
    """Yield the ranges of blocks whose versions are not the same, some at a time."""
    firsts = range(0, max(old.blocks, new.blocks, 1), _RANGE_BLOCKS)
    for start in range(0, len(firsts), _RANGES_PER_QUERY):
        part = firsts[start : start + _RANGES_PER_QUERY]
        # Blocks that are added while this runs are after the last one.
        ends = [first + _RANGE_BLOCKS if first != firsts[-1] else None for first in part]
        mine = [_Range(table=old, first=f, end=end) for f, end in zip(part, ends, strict=True)]
        yours = [_Range(table=new, first=f, end=end) for f, end in zip(part, ends, strict=True)]
        old_sums, new_sums = ask_both(
            before,
            after,
            partial(_sums, ranges=mine),
            partial(_sums, ranges=yours),
        )
        yield [
            (a, b)
            for a, b, old_sum, new_sum in zip(mine, yours, old_sums, new_sums, strict=True)
            if old_sum != new_sum
        ]


def _whole(table: Table) -> _Range:
    return _Range(table=table, first=0, end=None)


def _sums(side: Side, ranges: Iterable[_Range]) -> list[Sum]:
    """Return number and hash of the versions in each range, in one query."""
    parts = [
        sql.SQL("SELECT {}, count(*), COALESCE(bit_xor({}), 0) FROM {} WHERE {}").format(
            sql.Literal(number), _hash(side), each.table.identifier, each.condition
        )
        if each.first or each.end is not None
        else sql.SQL("SELECT {}, count(*), COALESCE(bit_xor({}), 0) FROM {}").format(
            sql.Literal(number), _hash(side), each.table.identifier
        )
        for number, each in enumerate(ranges)
    ]
    found = {number: (count, total) for number, count, total in side.rows(_union(parts))}
    return [found[number] for number in range(len(parts))]  # type: ignore[misc]


def _buckets(side: Side, part: _Range) -> dict[int, Sum]:
    query = sql.SQL(
        "SELECT hashtid(ctid) & {}, count(*), bit_xor({}) FROM {} WHERE {} GROUP BY 1"
    ).format(sql.Literal(_BUCKETS - 1), _hash(side), part.table.identifier, part.condition)
    return {bucket: (count, total) for bucket, count, total in side.rows(query)}  # type: ignore[misc]


def _versions(side: Side, part: _Range, buckets: Sequence[int]) -> set[Version]:
    query = sql.SQL(
        "SELECT ctid::text, {} FROM {} WHERE {} AND hashtid(ctid) & {} = ANY({}::int[])"
    ).format(
        _transaction(side),
        part.table.identifier,
        part.condition,
        sql.Literal(_BUCKETS - 1),
        sql.Literal(list(buckets)),
    )
    return {(place, transaction) for place, transaction in side.rows(query)}  # type: ignore[misc]


def _hash(side: Side) -> Query:
    return sql.SQL("hashtidextended(ctid, {})").format(_transaction(side))


def _transaction(side: Side) -> Query:
    """Return the expression for a row's ``xmin`` as a number.

    There is no cast, but age() counts back from a transaction id that is known; to those that
    the server keeps for itself it gives the largest number there is (manual, "Transaction ID and
    Snapshot Information Functions").
    """
    return sql.SQL(
        "CASE age(xmin) WHEN 2147483647 THEN 0 ELSE ({} - age(xmin)) & 4294967295 END"
    ).format(sql.SQL("{}::bigint").format(sql.Literal(side.next_xid)))


def _union(parts: Sequence[Query]) -> Query:
    return sql.SQL(" UNION ALL ").join(parts)
