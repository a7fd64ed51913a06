"""What a comparison returns: a `Diff` of frozen values, and the row changes it tells on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ChangeKind = Literal["added", "removed", "changed"]
Method = Literal["row versions", "contents"]


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """One row that was added, removed or changed.

    Attributes:
        key: Its primary key, as text by column; the whole row where the table has none.
        columns: Old and new value by column, as text: None is NULL. Of a changed row only those
            columns that differ; of an added or removed row all of them, with None on the side
            where it does not exist.
    """

    alias: str
    table: str
    model: str
    kind: ChangeKind
    key: Mapping[str, str | None]
    columns: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, kw_only=True)
class TableDiff:
    """What happened to the rows of one table.

    Attributes:
        table: Its name, with the schema where that is not the first of the search path.
        model: Label of the model that it belongs to (``contracts.Signer``), empty for none.
        changed_columns: How many of the changed rows differ in a column, by its name.
        rows: The first of the row changes, as many as were asked for.
        method: How it was compared: by the versions of rows, which clones share, or by contents.
    """

    alias: str
    table: str
    model: str
    added: int
    removed: int
    changed: int
    changed_columns: Mapping[str, int]
    rows: tuple[RowChange, ...]
    method: Method

    @property
    def name(self) -> str:
        """The model's label, or the table's name where it belongs to no model."""
        return self.model or self.table


@dataclass(frozen=True, kw_only=True)
class SchemaChange:
    """One object of the schema that was added, removed or changed.

    Attributes:
        kind: ``table``, ``column``, ``index``, ``constraint``, ``view``, ``function``,
            ``trigger``, ``sequence``, ``type`` or ``extension``.
        before: How it was defined; None where it was not there.
    """

    alias: str
    kind: str
    name: str
    before: str | None
    after: str | None

    @property
    def short_name(self) -> str:
        """Its name, without the schema where that is ``public``."""
        return self.name.removeprefix("public.")


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed from one state to another.

    Attributes:
        before: What the older state is called: a snapshot's name, ``undo`` or ``live``.
        after: What the newer state is called.
        migrations_applied: Migrations (app, name) that only the newer state has.
        migrations_missing: Migrations (app, name) that only the older state has.
        tables: The tables whose rows differ, by alias and name.
        notes: What could not be compared, and why, in sentences.
    """

    before: str
    after: str
    schema: tuple[SchemaChange, ...]
    migrations_applied: tuple[tuple[str, str], ...]
    migrations_missing: tuple[tuple[str, str], ...]
    tables: tuple[TableDiff, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether both states are the same."""
        return not (
            self.schema or self.migrations_applied or self.migrations_missing or self.tables
        )
