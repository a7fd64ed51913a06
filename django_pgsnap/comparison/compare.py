"""Comparing two databases: schema, migrations, and the rows of every table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Final

from django.apps import apps
from psycopg import sql

from ..messages import message
from ..postgres.inspection import Migrations, read_migrations
from ..reporting import Reporter
from .contents import Pair, Shape, Values, compare_contents, have_same_contents, texts_of
from .schema import Objects, compare_schemas, read_schema
from .sides import Side, ask_both
from .tables import Table, read_tables, read_types
from .types import ChangeKind, Method, RowChange, SchemaChange, TableDiff
from .versions import (
    SMALL_BLOCKS,
    TooManyError,
    find_different_tables,
    find_different_versions,
    is_small,
)

# Beyond this, reading both sides in order is quicker than fetching row by row.
_MOST_VERSIONS: Final = 50_000
_PLACES_PER_QUERY: Final = 1_000
_ROWS_PER_QUERY: Final = 200
_MASKED: Final = "********"
# For showing how far it is: a server can be built with others.
_BLOCK_BYTES: Final = 8192

Tables = Mapping[tuple[str, str], Table]
# A table and the place of a row in it.
Place = tuple[Table, str]
Places = dict[Table, set[str]]
OnRow = Callable[[RowChange], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is wanted of a comparison."""

    # Labels of the only models, or names of the only tables, to compare; empty for all.
    models: frozenset[str] = frozenset()
    rows: int = 0
    # Parts of the names of columns whose values are not shown, in lower case.
    mask: tuple[str, ...] = ()
    on_row: OnRow = lambda _: None
    reporter: Reporter = field(default_factory=Reporter)


@dataclass(frozen=True, kw_only=True)
class DatabaseDiff:
    """What changed in one database; the parts of a `Diff`."""

    schema: tuple[SchemaChange, ...]
    applied: Migrations
    missing: Migrations
    tables: tuple[TableDiff, ...]
    notes: tuple[str, ...]
    known: frozenset[str]


def compare_databases(alias: str, before: Side, after: Side, options: Options) -> DatabaseDiff:
    """Return what changed from one side to the other."""
    (old_schema, old_types, olds), (new_schema, new_types, news) = ask_both(
        before, after, _read_definitions, _read_definitions
    )
    old_steps, new_steps = [set(read_migrations(side.session) or ()) for side in (before, after)]
    share_versions = old_types == new_types and not before.has_wrapped
    comparison = _Comparison(alias, before, after, options, share_versions=share_versions)
    groups = _groups(olds, news, after.schema)
    tables = tuple(comparison.run(groups))
    return DatabaseDiff(
        schema=tuple(compare_schemas(alias, old_schema, new_schema)),
        applied=tuple(sorted(new_steps - old_steps)),
        missing=tuple(sorted(old_steps - new_steps)),
        tables=tables,
        notes=tuple(_notes(alias, after, news)),
        known=frozenset[str]().union(*(group.names for group in groups)),
    )


def _read_definitions(side: Side) -> tuple[Objects, str, Tables]:
    return read_schema(side.session), read_types(side.session), read_tables(side.session)


def _notes(alias: str, side: Side, tables: Tables) -> Iterator[str]:
    ((has_large_objects, has_foreign_tables),) = side.rows(_LEFT_OUT)
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


class _Comparison:
    def __init__(
        self, alias: str, before: Side, after: Side, options: Options, *, share_versions: bool
    ) -> None:
        self._alias = alias
        self._before = before
        self._after = after
        self._options = options
        self._share_versions = share_versions
        self._all_blocks = 0
        self._read_blocks = 0

    def run(self, all_groups: Sequence[_Group]) -> Iterator[TableDiff]:
        """Yield the tables whose rows differ."""
        wanted = self._options.models
        groups = [group for group in all_groups if not wanted or wanted & group.names]
        sharing = [group for group in groups if self._share_versions and group.shares_versions]
        small = [pair for group in sharing for pair in group.pairs if is_small(*pair)]
        self._all_blocks = sum(group.blocks for group in groups)
        self._options.reporter.step(message("Comparing {alias!r}", alias=self._alias))
        different = find_different_tables(self._before, self._after, small)
        for group in groups:
            if group in sharing:
                pairs = [p for p in group.pairs if p[0].oid in different or not is_small(*p)]
                found = self._by_versions(group, pairs) if pairs else None
            else:
                found = self._by_contents(group)
            if found is not None:
                yield found

    def _by_versions(self, group: _Group, pairs: Sequence[tuple[Table, Table]]) -> TableDiff | None:
        olds: Places = {}
        news: Places = {}
        most = _MOST_VERSIONS
        for old, new in pairs:
            try:
                olds[old], news[new] = find_different_versions(
                    self._before, self._after, old, new, most=most, on_blocks=self._tell_progress
                )
            except TooManyError:
                return self._by_contents(group)
            most -= len(olds[old]) + len(news[new])
        changes = self._read_versions(group.shape, olds, news)
        return self._counted(group, changes, "row versions")

    def _read_versions(self, shape: Shape, olds: Places, news: Places) -> Iterator[Pair]:
        """Yield the rows at some places, of which few are held at a time: they may be long."""
        old_keys, new_keys = _keys(self._before, olds, shape), _keys(self._after, news, shape)
        keys = sorted(old_keys.keys() | new_keys.keys(), key=_natural_order)
        for start in range(0, len(keys), _ROWS_PER_QUERY):
            some = keys[start : start + _ROWS_PER_QUERY]
            yield from _paired(
                _rows(self._before, (place for key in some for place in old_keys[key]), shape),
                _rows(self._after, (place for key in some for place in new_keys[key]), shape),
            )

    def _tell_progress(self, blocks: int) -> None:
        self._read_blocks += blocks
        done, total = self._read_blocks * _BLOCK_BYTES, self._all_blocks * _BLOCK_BYTES
        # A table that is compared by its contents after all is read twice.
        self._options.reporter.copied(min(done, total), total)

    def _by_contents(self, group: _Group) -> TableDiff | None:
        if group.blocks > SMALL_BLOCKS:
            what = message("Comparing the contents of {name!r}", name=group.table)
            self._options.reporter.wait(what)
        both = self._before, self._after, group.shape
        if group.olds and group.news and have_same_contents(*both):
            return None
        return self._counted(group, compare_contents(*both), "contents")

    def _counted(self, group: _Group, pairs: Iterable[Pair], method: Method) -> TableDiff | None:
        kinds: Counter[ChangeKind] = Counter()
        changed_columns: Counter[str] = Counter()
        rows: list[RowChange] = []
        for key, old, new in pairs:
            change = self._change(group, key, old, new)
            kinds[change.kind] += 1
            if change.kind == "changed":
                changed_columns.update(change.columns.keys())
            if len(rows) < self._options.rows:
                rows.append(change)
            self._options.on_row(change)
        if not kinds:
            return None
        return TableDiff(
            alias=self._alias,
            table=group.table,
            model=group.model,
            added=kinds["added"],
            removed=kinds["removed"],
            changed=kinds["changed"],
            changed_columns=dict(changed_columns),
            rows=tuple(rows),
            method=method,
        )

    def _change(
        self, group: _Group, key: Values, old: Values | None, new: Values | None
    ) -> RowChange:
        shape = group.shape
        nothing: Values = (None,) * len(shape.columns)
        kind: ChangeKind = "added" if old is None else "removed" if new is None else "changed"
        keys = zip(shape.key, key, strict=True)
        both = zip(shape.columns, old or nothing, new or nothing, strict=True)
        return RowChange(
            alias=self._alias,
            table=group.table,
            model=group.model,
            kind=kind,
            key={name: self._shown(name, value) for name, value in keys},
            columns={
                name: (self._shown(name, before), self._shown(name, after))
                for name, before, after in both
                if kind != "changed" or before != after
            },
        )

    def _shown(self, column: str, value: str | None) -> str | None:
        is_secret = any(part in column.lower() for part in self._options.mask)
        return _MASKED if is_secret and value is not None else value


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A table, or one with its partitions, on both sides."""

    table: str
    model: str
    olds: tuple[Table, ...]
    news: tuple[Table, ...]

    @property
    def names(self) -> frozenset[str]:
        """What it can be called in `Options.models`: as in Django, whatever the model's case."""
        return frozenset({self.model, self.model.lower(), self.table})

    @cached_property
    def shape(self) -> Shape:
        """What is read of it on both sides."""
        return Shape.of(self.olds, self.news)

    @property
    def blocks(self) -> int:
        """How many blocks the larger of both sides has."""
        return max(sum(table.blocks for table in side) for side in (self.olds, self.news))

    @property
    def pairs(self) -> list[tuple[Table, Table]]:
        """The same tables on both sides."""
        return list(zip(self.olds, self.news, strict=True))

    @property
    def shares_versions(self) -> bool:
        """Whether each table has the same file on both sides, and means the same by it."""
        olds, news = ([table.physical for table in side] for side in (self.olds, self.news))
        return olds == news and None not in olds


def _groups(olds: Tables, news: Tables, usual_schema: str) -> list[_Group]:
    models = {
        model._meta.db_table: model._meta.label  # noqa: SLF001  # Django's API of models
        for model in apps.get_models(include_auto_created=True)
    }
    roots = {table.root for side in (olds, news) for table in side.values()}
    return [
        _Group(
            table=name if schema == usual_schema else f"{schema}.{name}",
            model=models.get(name, "") if schema == usual_schema else "",
            olds=tuple(table for table in olds.values() if table.root == (schema, name)),
            news=tuple(table for table in news.values() if table.root == (schema, name)),
        )
        for schema, name in sorted(roots)
    ]


def _keys(side: Side, places: Places, shape: Shape) -> defaultdict[Values, list[Place]]:
    """Return the places of rows by their keys, or by a digest of the row where there is none."""
    query = sql.SQL("SELECT ctid::text, ARRAY[{}]::text[] FROM {} WHERE ctid = ANY({}::tid[])")
    found: defaultdict[Values, list[Place]] = defaultdict(list)
    for table, of_table in places.items():
        columns = texts_of(table, shape.key)
        key = columns if shape.has_key else sql.SQL("md5(ROW({})::text)").format(columns)
        ordered = list(of_table)
        for start in range(0, len(ordered), _PLACES_PER_QUERY):
            some = sql.Literal(ordered[start : start + _PLACES_PER_QUERY])
            for place, values in side.rows(query.format(key, table.identifier, some)):
                found[tuple(values)].append((table, str(place)))  # type: ignore[arg-type]
    return found


def _rows(side: Side, places: Iterable[Place], shape: Shape) -> dict[Values, list[Values]]:
    by_table: defaultdict[Table, list[str]] = defaultdict(list)
    for table, place in places:
        by_table[table].append(place)
    query = sql.SQL(
        "SELECT ARRAY[{}]::text[], ARRAY[{}]::text[] FROM {} WHERE ctid = ANY({}::tid[])"
    )
    found: defaultdict[Values, list[Values]] = defaultdict(list)
    for table, some in by_table.items():
        values_of = [texts_of(table, names) for names in (shape.key, shape.columns)]
        for key, values in side.rows(query.format(*values_of, table.identifier, sql.Literal(some))):
            found[tuple(key)].append(tuple(values))  # type: ignore[arg-type]
    return found


def _natural_order(key: Values) -> list[tuple[bool, int, str]]:
    return [(each is None, len(each) if each and each.isdigit() else 0, each or "") for each in key]


def _paired(
    olds: Mapping[Values, Sequence[Values]], news: Mapping[Values, Sequence[Values]]
) -> Iterator[Pair]:
    """Yield rows of one key together; a version that says the same as before is no change."""
    for key in sorted(olds.keys() | news.keys(), key=_natural_order):
        old, new = list(olds.get(key, ())), list(news.get(key, ()))
        for same in [row for row in old if row in new]:
            old.remove(same)
            new.remove(same)
        for was, now in zip_longest(old, new):
            yield key, was, now
