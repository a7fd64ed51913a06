"""The tables of a database, and what must be alike for two sides to share versions of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from django.apps import apps
from psycopg import sql

from ..postgres.session import Session
from .sides import Side


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table with rows of its own; a partition belongs to the table that it is a part of."""

    oid: int
    schema: str
    name: str
    root: tuple[str, str]  # schema and name of the table at the top of its partitions, or its own
    # What must be alike for two sides to share row versions: oid, file, and columns with their
    # types and expressions. None where the server's own heap does not hold the rows: what ``ctid``
    # and ``xmin`` mean is up to each access method.
    physical: str | None
    columns: Mapping[str, str]  # its columns by name, with their types, in their order
    key: tuple[str, ...]  # columns of its primary key in their order; empty without one
    blocks: int

    def __hash__(self) -> int:
        return self.oid

    @property
    def identifier(self) -> sql.Composable:
        """The table as a statement names it, without those that inherit from it."""
        return sql.SQL("ONLY {}").format(sql.Identifier(self.schema, self.name))


@dataclass(frozen=True, kw_only=True, eq=False)
class TablePair:
    """A table, or one with its partitions, on both sides; one side may have none."""

    before: Side
    after: Side
    alias: str
    name: str  # with the schema where that is not the usual one
    model: str  # the label of its model, empty for none
    olds: tuple[Table, ...]
    news: tuple[Table, ...]

    @property
    def names(self) -> frozenset[str]:
        """What one can call it: as in Django, whatever the model's case."""
        return frozenset({self.model, self.model.lower(), self.name} - {""})

    @property
    def blocks(self) -> int:
        """How many blocks the larger of both sides has."""
        return max(sum(table.blocks for table in side) for side in (self.olds, self.news))

    @property
    def shares_versions(self) -> bool:
        """Whether each table has the same file on both sides, and means the same by it."""
        olds, news = ([table.physical for table in side] for side in (self.olds, self.news))
        return olds == news and None not in olds

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that both sides have."""
        sides = [parts[0].columns for parts in (self.news, self.olds) if parts]
        return tuple(name for name in sides[0] if all(name in side for side in sides))

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key that both sides have; empty without one."""
        keys = {table.key for table in (*self.olds, *self.news)}
        return keys.pop() if len(keys) == 1 else ()

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that tell rows apart: the key, or all."""
        return self.key or self.columns


Tables = Mapping[tuple[str, str], Table]

# A toast pointer, an enum's number and a record's layout mean the same only where what they point
# into is the same. Types hang on types, so enums and composites are compared as a whole.
_TABLES: Final = sql.SQL("""
SELECT c.oid::bigint, n.nspname, c.relname,
  COALESCE((SELECT rn.nspname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
             WHERE r.oid = pg_partition_root(c.oid)), n.nspname),
  COALESCE((SELECT r.relname FROM pg_class r WHERE r.oid = pg_partition_root(c.oid)), c.relname),
  CASE am.amname WHEN 'heap' THEN
    concat_ws('|', c.oid, pg_relation_filenode(c.oid), c.reltoastrelid,
    (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped,
        a.attgenerated, CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
        a.attmissingval::text), ',' ORDER BY a.attnum)
       FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0)) END,
  (SELECT array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod)] ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  COALESCE((SELECT array_agg(a.attname::text ORDER BY k.position)
     FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY k (attnum, position),
          pg_attribute a
    WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum
      AND k.position <= i.indnkeyatts), '{{}}'),
  COALESCE(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
   OR c.oid = 'pg_largeobject'::regclass AND has_table_privilege(c.oid, 'SELECT')
ORDER BY n.nspname, c.relname
""").format()

_TYPES: Final = sql.SQL("""
SELECT concat_ws('|',
  (SELECT string_agg(concat_ws(' ', oid, enumtypid, enumsortorder, enumlabel), ',' ORDER BY oid)
     FROM pg_enum),
  (SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.attisdropped),
     ',' ORDER BY a.attrelid, a.attnum)
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'),
  (SELECT string_agg(concat_ws(' ', oid, extname, extversion), ',' ORDER BY oid)
     FROM pg_extension))
""")


def read_tables(session: Session) -> Tables:
    """Return the tables, partitions and materialized views, by schema and name.

    Large objects are among them where our role may read them, as ``pg_largeobject``.
    """
    return {
        (schema, name): Table(
            oid=oid,
            schema=schema,
            name=name,
            root=(root_schema, root),
            physical=physical,
            columns=dict(columns or ()),
            key=tuple(key),
            blocks=blocks,
        )
        for oid, schema, name, root_schema, root, physical, columns, key, blocks in session.rows(
            _TABLES
        )
    }


def read_types(session: Session) -> str:
    """Return what values of user-defined types depend on; alike where the types are."""
    return str(session.value(_TYPES))


def pair_tables(
    alias: str, before: Side, after: Side, olds: Tables, news: Tables
) -> list[TablePair]:
    """Return the tables of both sides, partitions with what they are parts of, by name."""
    models = {
        model._meta.db_table: model._meta.label  # noqa: SLF001  # Django's API of models
        for model in apps.get_models(include_auto_created=True)
    }
    parts: dict[tuple[str, str], tuple[list[Table], list[Table]]] = {}
    for side, tables in enumerate((olds, news)):
        for table in tables.values():
            parts.setdefault(table.root, ([], []))[side].append(table)
    return [
        TablePair(
            before=before,
            after=after,
            alias=alias,
            name=name if schema == after.schema else f"{schema}.{name}",
            model=models.get(name, "") if schema == after.schema else "",
            olds=tuple(old),
            news=tuple(new),
        )
        for (schema, name), (old, new) in sorted(parts.items())
    ]
