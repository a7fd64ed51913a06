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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from psycopg import sql

from ..postgres.session import Query
from .sides import Result, Side, ask_both
from .tables import Table, TablePair

Item = TypeVar("Item")
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


def find_different_tables(
    before: Side, after: Side, tables: Sequence[tuple[Table, Table]]
) -> list[tuple[Table, Table]]:
    """Return the tables to look into: all but small ones whose row versions are the same."""
    small = [pair for pair in tables if all(table.blocks <= SMALL_BLOCKS for table in pair)]
    same: set[int] = set()
    for some in in_batches(small, _TABLES_PER_QUERY):
        olds, news = zip(*some, strict=True)
        old, new = ask_both(_table_sums, (before, olds), (after, news))
        same |= {oid for oid in old if old[oid] == new[oid]}
    return [(old, new) for old, new in tables if old.oid not in same]


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield so many items at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass(frozen=True, kw_only=True)
class VersionSearch:
    """Looks for row versions that only one side of a table has."""

    pair: TablePair  # what the two tables are parts of
    old: Table
    new: Table
    on_blocks: Callable[[int], None]  # hears how many blocks more have been compared

    def find(self, most: int) -> tuple[set[str], set[str]] | None:
        """Return the places that only the older, and only the newer side has; None for too many."""
        only_old: set[str] = set()
        only_new: set[str] = set()
        for blocks in self._find_blocks():
            olds, news = self._ask(_versions, blocks)
            only_old |= {place for place, _ in olds - news}
            only_new |= {place for place, _ in news - olds}
            if len(only_old) + len(only_new) > most:
                return None
        return only_old, only_new

    def _find_blocks(self) -> Iterator[Sequence[int]]:
        """Yield the blocks that differ, some at a time."""
        blocks = max(self.old.blocks, self.new.blocks)
        size = _RANGE_BLOCKS
        while blocks > size * _MOST_RANGES:
            size *= _PARTS
        ranges = range(0, blocks, size)
        old, new = self._first_sums(ranges, size)
        yield from self._find_in([r for r in ranges if old[r] != new[r]], size)

    def _find_in(self, ranges: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        if size == 1:  # single blocks are read row by row
            yield from in_batches(ranges, _BLOCKS_PER_QUERY)
            return
        smaller = size // _PARTS
        for some in in_batches(ranges, _RANGES_PER_QUERY):
            parts = [part for first in some for part in range(first, first + size, smaller)]
            old, new = self._ask(_range_sums, parts, smaller)
            yield from self._find_in([p for p in parts if old[p] != new[p]], smaller)

    def _ask(self, work: Callable[..., Result], *what: Any) -> tuple[Result, Result]:
        return ask_both(work, (self.pair.before, self.old), (self.pair.after, self.new), *what)

    def _first_sums(self, ranges: Sequence[int], size: int) -> tuple[Sums, Sums]:
        """Return the sums of all ranges; what is known of a copy is not read again."""
        before, after = self.pair.before, self.pair.after
        known = {} if before.sums is None else before.sums
        name = f"{self.old.oid} {size}"
        twin = after.twin if name in known else None
        old: Sums = dict.fromkeys(ranges, 0)
        new: Sums = {}
        if twin:
            old.update(zip(ranges, known[name], strict=False))
        for some in in_batches(ranges, _RANGES_PER_STEP):
            if twin:  # the copy has nothing to do, so two sessions read the open database
                middle = len(some) // 2
                halves = (twin(), self.new, some[:middle]), (after, self.new, some[middle:])
                for sums in ask_both(_range_sums, *halves, size):
                    new.update(sums)
            else:
                olds, news = self._ask(_range_sums, some, size)
                old.update(olds)
                new.update(news)
            self.on_blocks(size * len(some))
        known.setdefault(name, list(old.values()))
        return old, new


def _table_sums(side: Side, tables: Sequence[Table]) -> Sums:
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, COALESCE(bit_xor({}), 0) FROM {}").format(
            sql.Literal(table.oid), _hash(side), table.identifier
        )
        for table in tables
    )
    return dict(side.session.rows(query))


def _range_sums(side: Side, table: Table, ranges: Sequence[int], size: int) -> Sums:
    query = sql.SQL(
        "SELECT first, COALESCE(total, 0) FROM {}, LATERAL (SELECT bit_xor({}) FROM {} WHERE {})"
        " s (total)"
    ).format(_starts(ranges), _hash(side), table.identifier, _is_in(size))
    return dict(side.session.rows(query))


def _versions(side: Side, table: Table, blocks: Sequence[int]) -> set[Version]:
    query = sql.SQL(
        "SELECT s.* FROM {}, LATERAL (SELECT ctid::text, {} FROM {} WHERE {} OFFSET 0) s"
    ).format(_starts(blocks), _hash(side), table.identifier, _is_in(1))
    return set(side.session.rows(query))


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
