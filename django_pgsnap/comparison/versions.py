"""Finding rows that differ by the versions of rows that two clones share.

A clone has the same file for a table as what it was cloned from: each version of a row keeps its
place (``ctid``) and the transaction that made it (``xmin``), also when it is frozen. A place is
given to another version only by another transaction. So two sides whose tables have the same oid,
file and columns have the same row wherever place and transaction agree, and nothing but these has
to be read. How many rows are newer than a snapshot would not be enough: with ``take A``, change,
``take B``, ``restore A`` nothing is newer than ``B``, and yet it differs.

Differences are looked for in ever smaller ranges of a table's blocks, then row by row. Ranges are
compared by the exclusive or of 64-bit hashes of their versions. The hashes have a random key, so
two that differ are taken for equal once in 2**64 times, also by somebody who wants them to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from psycopg import sql

from ..postgres.session import Query
from .sides import Side, ask_both
from .tables import Table

# A row's place, and the hash of its place and transaction.
Version = tuple[str, int]
# The exclusive or of the hashes of all versions in a range, by its first block; 0 for none.
Sums = dict[int, int]

# Tables of up to so many blocks (512 KiB) are compared as a whole at first, many at a time.
SMALL_BLOCKS: Final = 64
_TABLES_PER_QUERY: Final = 100
# Larger ones are compared in ranges of so many blocks, of which most are the same. What differs is
# read again in ranges of an eighth. A huge table has larger ranges, not more.
_RANGE_BLOCKS: Final = 8
_PARTS: Final = 8
_MOST_RANGES: Final = 16_384
_RANGES_PER_QUERY: Final = 256
_BLOCKS_PER_QUERY: Final = 32
# It is told how far the comparison is after so many ranges: 128 MiB, unless a table is huge.
_RANGES_PER_STEP: Final = 2048
# Of all transaction ids.
_HALF: Final = 2**31


class TooManyError(Exception):
    """More row versions differ than are worth being looked at one by one."""


def find_different_tables(
    before: Side, after: Side, tables: Sequence[tuple[Table, Table]]
) -> set[int]:
    """Return the oids of those small tables whose row versions are not the same."""
    different: set[int] = set()
    for start in range(0, len(tables), _TABLES_PER_QUERY):
        olds, news = zip(*tables[start : start + _TABLES_PER_QUERY], strict=True)
        old, new = ask_both(
            before, after, partial(_table_sums, tables=olds), partial(_table_sums, tables=news)
        )
        different |= {oid for oid in old if old[oid] != new[oid]}
    return different


def is_small(*tables: Table) -> bool:
    """Tell whether tables are read as a whole rather than in ranges."""
    return all(table.blocks <= SMALL_BLOCKS for table in tables)


def find_different_versions(
    before: Side,
    after: Side,
    old: Table,
    new: Table,
    *,
    most: int,
    on_blocks: Callable[[int], None],
) -> tuple[set[str], set[str]]:
    """Return the places of row versions that only the older, and only the newer side has.

    More than so many are too many. Heard is how many blocks more have been compared.
    """
    only_old: set[str] = set()
    only_new: set[str] = set()
    search = _Search(before=before, after=after, old=old, new=new, on_blocks=on_blocks)
    for blocks in search.find_blocks():
        olds, news = ask_both(
            before,
            after,
            partial(_versions, table=old, blocks=blocks),
            partial(_versions, table=new, blocks=blocks),
        )
        only_old |= {place for place, _ in olds - news}
        only_new |= {place for place, _ in news - olds}
        if len(only_old) + len(only_new) > most:
            raise TooManyError
    return only_old, only_new


@dataclass(frozen=True, kw_only=True)
class _Search:
    before: Side
    after: Side
    old: Table
    new: Table
    on_blocks: Callable[[int], None]

    def find_blocks(self) -> Iterator[Sequence[int]]:
        """Yield the blocks that differ, some at a time."""
        blocks = max(self.old.blocks, self.new.blocks)
        size = _RANGE_BLOCKS
        while blocks > size * _MOST_RANGES:
            size *= _PARTS
        ranges = range(0, blocks, size)
        old, new = self._first_sums(ranges, size)
        yield from self._find_in([r for r in ranges if old[r] != new[r]], size)

    def _find_in(self, ranges: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        # Single blocks are read row by row.
        most = _BLOCKS_PER_QUERY if size == 1 else _RANGES_PER_QUERY
        for start in range(0, len(ranges), most):
            some = ranges[start : start + most]
            if size == 1:
                yield some
                continue
            smaller = size // _PARTS
            parts = [part for first in some for part in range(first, first + size, smaller)]
            old, new = self._sums(parts, smaller)
            yield from self._find_in([p for p in parts if old[p] != new[p]], smaller)

    def _sums(self, ranges: Sequence[int], size: int) -> tuple[Sums, Sums]:
        return ask_both(
            self.before,
            self.after,
            partial(_range_sums, table=self.old, ranges=ranges, size=size),
            partial(_range_sums, table=self.new, ranges=ranges, size=size),
        )

    def _first_sums(self, ranges: Sequence[int], size: int) -> tuple[Sums, Sums]:
        """Return the sums of all ranges; what is known of a copy is not read again."""
        known = {} if self.before.sums is None else self.before.sums
        name = f"{self.old.oid} {size}"
        is_known = name in known and self.after.twin is not None
        old: Sums = dict.fromkeys(ranges, 0)
        new: Sums = {}
        if is_known:
            old.update(zip(ranges, known[name], strict=False))
        for start in range(0, len(ranges), _RANGES_PER_STEP):
            some = ranges[start : start + _RANGES_PER_STEP]
            if is_known:
                new.update(self._newer_sums(some, size))
            else:
                olds, news = self._sums(some, size)
                old.update(olds)
                new.update(news)
            self.on_blocks(size * len(some))
        if not is_known:
            known[name] = list(old.values())
        return old, new

    def _newer_sums(self, ranges: Sequence[int], size: int) -> Sums:
        """Return sums of an open database, which two sessions read: the copy has nothing to do."""
        assert self.after.twin is not None  # noqa: S101  # only asked for with one
        middle = len(ranges) // 2
        first, second = ask_both(
            self.after.twin(),
            self.after,
            partial(_range_sums, table=self.new, ranges=ranges[:middle], size=size),
            partial(_range_sums, table=self.new, ranges=ranges[middle:], size=size),
        )
        return first | second


def _table_sums(side: Side, tables: Sequence[Table]) -> Sums:
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, COALESCE(bit_xor({}), 0) FROM {}").format(
            sql.Literal(table.oid), _hash(side), table.identifier
        )
        for table in tables
    )
    return dict(side.rows(query))  # type: ignore[arg-type]


def _range_sums(side: Side, table: Table, ranges: Sequence[int], size: int) -> Sums:
    query = sql.SQL(
        "SELECT first, COALESCE(total, 0) FROM {}, LATERAL (SELECT bit_xor({}) FROM {} WHERE {})"
        " s (total)"
    ).format(_starts(ranges), _hash(side), table.identifier, _is_in(size))
    return dict(side.rows(query))  # type: ignore[arg-type]


def _versions(side: Side, table: Table, blocks: Sequence[int]) -> set[Version]:
    query = sql.SQL(
        "SELECT s.* FROM {}, LATERAL (SELECT ctid::text, {} FROM {} WHERE {} OFFSET 0) s"
    ).format(_starts(blocks), _hash(side), table.identifier, _is_in(1))
    return set(side.rows(query))  # type: ignore[arg-type]


def _starts(ranges: Sequence[int]) -> Query:
    return sql.SQL("unnest({}::bigint[]) first").format(sql.Literal(list(ranges)))


def _is_in(size: int) -> Query:
    # Blocks are read by a TID range scan, which is planned once for all ranges of a query.
    return sql.SQL(
        "ctid >= format('(%s,0)', first)::tid AND ctid < format('(%s,0)', first + {})::tid"
    ).format(sql.Literal(size))


def _hash(side: Side) -> Query:
    return sql.SQL("hashtidextended(ctid, {})").format(_transaction(side))


def _transaction(side: Side) -> Query:
    """Return the expression for a row's ``xmin`` as a number, added to the key of both sides.

    There is no cast, but age() counts back from a transaction id that is known. To those that the
    server keeps for itself it gives the largest number there is (manual, "Transaction ID and
    Snapshot Information Functions"), which another one can have once half of all are used up.
    """
    if side.next_xid < _HALF:
        return sql.SQL("{}::bigint - age(xmin)").format(sql.Literal(side.key + side.next_xid))
    return sql.SQL(
        "{} + CASE age(xmin) WHEN 2147483647 THEN 0 ELSE ({}::bigint - age(xmin)) & 4294967295 END"
    ).format(sql.Literal(side.key), sql.Literal(side.next_xid))
