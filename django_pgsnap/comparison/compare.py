"""Comparing two databases: schema, migrations, and the rows of every table."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, Final, NamedTuple

from psycopg import sql

from ..messages import message
from ..postgres.inspection import read_migrations
from ..postgres.session import Query
from ..reporting import Reporter
from .contents import (
    RowPair,
    Values,
    compare_contents,
    count_rows,
    has_rows,
    have_same_contents,
    texts_of,
)
from .schema import Objects, compare_schemas, read_schema
from .sides import Side, ask_both
from .tables import Table, TablePair, Tables, pair_tables, read_tables, read_types
from .types import ChangeKind, Method, RowChange, SchemaChange, TableDiff
from .versions import SMALL_BLOCKS, VersionSearch, find_different_tables, in_batches

# Beyond this, reading both sides in order is quicker than fetching row by row.
_MOST_VERSIONS: Final = 50_000
_PLACES_PER_QUERY: Final = 1_000
_ROWS_PER_QUERY: Final = 200
_MASKED: Final = "********"
# For showing how far it is: a server can be built with others.
_BLOCK_BYTES: Final = 8192

# A table and the place of a row in it.
Place = tuple[Table, str]
Places = Mapping[Table, Iterable[str]]
Steps = set[tuple[str, str]]


@dataclass(kw_only=True)
class Comparison:
    """Compares databases one after the other, and keeps what changed in them."""

    # Labels of the only models, or names of the only tables, to compare; empty for all.
    models: frozenset[str]
    rows: int  # how many row changes of each table to keep
    # Parts of the names of columns whose values are not shown, in lower case.
    mask: tuple[str, ...]
    on_row: Callable[[RowChange], None] | None
    reporter: Reporter

    # The parts of a `Diff`.
    schema: list[SchemaChange] = field(default_factory=list)
    applied: Steps = field(default_factory=set)
    missing: Steps = field(default_factory=set)
    tables: list[TableDiff] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # what models and tables can be called

    # How far it is in the present database.
    _blocks: int = 0
    _blocks_read: int = 0

    def compare(self, alias: str, before: Side, after: Side) -> None:
        """Compare one database as it was and as it is."""
        self.reporter.step(message("Comparing {alias!r}", alias=alias))
        old, new = ask_both(_read_definitions, (before,), (after,))
        self.schema += compare_schemas(alias, old.schema, new.schema)
        self.applied |= new.steps - old.steps
        self.missing |= old.steps - new.steps
        self.notes += _describe_left_out(alias, after, new.tables)
        pairs = pair_tables(alias, before, after, old.tables, new.tables)
        self.known.update(*(pair.names for pair in pairs))
        if self.models:
            pairs = [pair for pair in pairs if self.models & pair.names]
        self._blocks_read, self._blocks = 0, sum(pair.blocks for pair in pairs)
        share_versions = old.types == new.types and not before.has_wrapped
        sharing = {
            pair: list(zip(pair.olds, pair.news, strict=True))
            for pair in pairs
            if share_versions and pair.shares_versions
        }
        parts = [each for parts in sharing.values() for each in parts]
        different = set(find_different_tables(before, after, parts))
        for pair in pairs:
            if pair not in sharing:
                self._compare_contents(pair)
            elif parts := [each for each in sharing[pair] if each in different]:
                self._compare_versions(pair, parts)

    def _compare_versions(self, pair: TablePair, parts: Sequence[tuple[Table, Table]]) -> None:
        olds: dict[Table, set[str]] = {}
        news: dict[Table, set[str]] = {}
        most = _MOST_VERSIONS
        for old, new in parts:
            search = VersionSearch(pair=pair, old=old, new=new, on_blocks=self._tell_progress)
            if (found := search.find(most)) is None:
                self._compare_contents(pair)
                return
            olds[old], news[new] = found
            most -= sum(map(len, found))
        self._count(pair, _read_versions(pair, olds, news), "row versions")

    def _tell_progress(self, blocks: int) -> None:
        self._blocks_read += blocks
        done, total = self._blocks_read * _BLOCK_BYTES, self._blocks * _BLOCK_BYTES
        # A table that is compared by its contents after all is read twice.
        self.reporter.copied(min(done, total), total)

    def _compare_contents(self, pair: TablePair) -> None:
        if pair.blocks > SMALL_BLOCKS:
            self.reporter.wait(message("Comparing the contents of {name!r}", name=pair.name))
        sides = (pair.before, pair.olds), (pair.after, pair.news)
        filled = [side for side in sides if has_rows(*side)]
        if self.on_row is None and len(filled) == 1:
            # A new table, one that was dropped or emptied: it may be large, and few want its rows.
            with closing(compare_contents(pair)) as found:
                shown = list(islice(found, self.rows))
            kind: ChangeKind = "removed" if filled == [sides[0]] else "added"
            unread = count_rows(*filled[0]) - len(shown)
            self._count(pair, shown, "contents", {kind: unread})
        elif filled and not (len(filled) == len(sides) and have_same_contents(pair)):
            self._count(pair, compare_contents(pair), "contents")

    def _count(
        self,
        pair: TablePair,
        found: Iterable[RowPair],
        method: Method,
        unread: Mapping[ChangeKind, int] | None = None,
    ) -> None:
        kinds: Counter[ChangeKind] = Counter(unread)
        changed_columns: Counter[str] = Counter()
        rows: list[RowChange] = []
        for each in found:
            change = self._describe(pair, *each)
            kinds[change.kind] += 1
            if change.kind == "changed":
                changed_columns.update(change.columns.keys())
            if len(rows) < self.rows:
                rows.append(change)
            if self.on_row is not None:
                self.on_row(change)
        if kinds:
            table = TableDiff(
                alias=pair.alias,
                table=pair.name,
                model=pair.model,
                added=kinds["added"],
                removed=kinds["removed"],
                changed=kinds["changed"],
                changed_columns=dict(changed_columns),
                rows=tuple(rows),
                method=method,
            )
            self.tables.append(table)

    def _describe(
        self, pair: TablePair, key: Values, old: Values | None, new: Values | None
    ) -> RowChange:
        nothing: Values = (None,) * len(pair.columns)
        kind: ChangeKind = "added" if old is None else "removed" if new is None else "changed"
        keys = zip(pair.identity, key, strict=True)
        both = zip(pair.columns, old or nothing, new or nothing, strict=True)
        return RowChange(
            alias=pair.alias,
            table=pair.name,
            model=pair.model,
            kind=kind,
            key={name: self._show(name, value) for name, value in keys},
            columns={
                name: (self._show(name, before), self._show(name, after))
                for name, before, after in both
                if kind != "changed" or before != after
            },
        )

    def _show(self, column: str, value: str | None) -> str | None:
        is_secret = any(part in column.lower() for part in self.mask)
        return _MASKED if is_secret and value is not None else value


class _Definitions(NamedTuple):
    schema: Objects
    types: str
    tables: Tables
    steps: Steps


def _read_definitions(side: Side) -> _Definitions:
    session = side.session
    steps = set(read_migrations(session) or ())
    return _Definitions(read_schema(session), read_types(session), read_tables(session), steps)


def _describe_left_out(alias: str, side: Side, tables: Tables) -> Iterator[str]:
    ((has_large_objects, has_foreign_tables),) = side.session.rows(_LEFT_OUT)
    if has_large_objects and ("pg_catalog", "pg_largeobject") not in tables:
        yield message(
            "Large objects of {alias!r} were not compared: only a superuser may read them all.",
            alias=alias,
        )
    if has_foreign_tables:
        yield message("Foreign tables of {alias!r} were not compared.", alias=alias)


_LEFT_OUT: Final = sql.SQL(
    "SELECT EXISTS (SELECT FROM pg_largeobject_metadata), EXISTS (SELECT FROM pg_foreign_table)"
)


def _read_versions(pair: TablePair, olds: Places, news: Places) -> Iterator[RowPair]:
    """Yield the rows at some places, of which few are held at a time: they may be long."""
    old_keys, new_keys = _read_keys(pair, pair.before, olds), _read_keys(pair, pair.after, news)
    keys = sorted(old_keys.keys() | new_keys.keys(), key=_natural_order)
    for some in in_batches(keys, _ROWS_PER_QUERY):
        before = _read_rows(pair, pair.before, (place for key in some for place in old_keys[key]))
        after = _read_rows(pair, pair.after, (place for key in some for place in new_keys[key]))
        for key in sorted(before.keys() | after.keys(), key=_natural_order):
            # A version that says the same as before is no change.
            was, now = Counter(before[key]), Counter(after[key])
            for old, new in zip_longest((was - now).elements(), (now - was).elements()):
                yield key, old, new


def _natural_order(key: Values) -> list[tuple[bool, int, str]]:
    return [(each is None, len(each) if each and each.isdigit() else 0, each or "") for each in key]


def _read_keys(pair: TablePair, side: Side, places: Places) -> defaultdict[Values, list[Place]]:
    """Return the places of rows by their keys, or by a digest of the row where there is none."""

    def select(table: Table) -> Query:
        columns = texts_of(table, pair.identity)
        key = columns if pair.key else sql.SQL("md5(ROW({})::text)").format(columns)
        return sql.SQL("ctid::text, ARRAY[{}]::text[]").format(key)

    found: defaultdict[Values, list[Place]] = defaultdict(list)
    for table, (place, key) in _read_at(side, places, select):
        found[tuple(key)].append((table, place))
    return found


def _read_rows(
    pair: TablePair, side: Side, places: Iterable[Place]
) -> defaultdict[Values, list[Values]]:
    by_table: defaultdict[Table, list[str]] = defaultdict(list)
    for table, place in places:
        by_table[table].append(place)

    def select(table: Table) -> Query:
        parts = [texts_of(table, names) for names in (pair.identity, pair.columns)]
        return sql.SQL("ARRAY[{}]::text[], ARRAY[{}]::text[]").format(*parts)

    found: defaultdict[Values, list[Values]] = defaultdict(list)
    for _, (key, values) in _read_at(side, by_table, select):
        found[tuple(key)].append(tuple(values))
    return found


def _read_at(
    side: Side, places: Places, select: Callable[[Table], Query]
) -> Iterator[tuple[Table, tuple[Any, ...]]]:
    """Yield what is selected of the rows at some places, with the table of each."""
    query = sql.SQL("SELECT {} FROM {} WHERE ctid = ANY({}::tid[])")
    for table, of_table in places.items():
        for some in in_batches(list(of_table), _PLACES_PER_QUERY):
            statement = query.format(select(table), table.identifier, sql.Literal(some))
            for row in side.session.rows(statement):
                yield table, row
