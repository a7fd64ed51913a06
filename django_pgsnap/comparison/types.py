"""What a comparison returns: a `Diff` of frozen values, and the row changes it tells on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ChangeKind = Literal["added", "removed", "changed"]
Method = Literal["row versions", "contents"]


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """One row that was added, removed or changed."""

    alias: str
    table: str
    model: str
    kind: ChangeKind
    # Its primary key, as text by column; the whole row where the table has none.
    key: Mapping[str, str | None]
    # Old and new value by column, as text: None is NULL. Of a changed row only those columns that
    # differ; of an added or removed row all of them, with None on the side where it does not exist.
    columns: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, kw_only=True)
class TableDiff:
    """What happened to the rows of one table."""

    alias: str
    table: str  # its name, with the schema where that is not the first of the search path
    model: str  # label of the model that it belongs to (``contracts.Signer``), empty for none
    added: int
    removed: int
    changed: int
    # How many of the changed rows differ in a column, by its name.
    changed_columns: Mapping[str, int]
    rows: tuple[RowChange, ...]  # the first of the row changes, as many as were asked for
    # How it was compared: by the versions of rows, which clones share, or by contents.
    method: Method

    @property
    def name(self) -> str:
        """The model's label, or the table's name where it belongs to no model."""
        return self.model or self.table


@dataclass(frozen=True, kw_only=True)
class SchemaChange:
    """One object of the schema that was added, removed or changed."""

    alias: str
    # ``table``, ``column``, ``index``, ``constraint``, ``view``, ``function``, ``trigger``,
    # ``sequence``, ``type``, ``policy``, ``rule`` or ``extension``.
    kind: str
    name: str
    before: str | None  # how it was defined; None where it was not there
    after: str | None

    @property
    def short_name(self) -> str:
        """Its name, without the schema where that is ``public``."""
        return self.name.removeprefix("public.")


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed from one state to another."""

    before: str  # what the older state is called: a snapshot's name, ``undo`` or ``live``
    after: str  # what the newer state is called; ``clone`` where a command has worked on one
    schema: tuple[SchemaChange, ...]
    # Migrations (app, name) that only the newer state has.
    migrations_applied: tuple[tuple[str, str], ...]
    # Migrations (app, name) that only the older state has.
    migrations_missing: tuple[tuple[str, str], ...]
    tables: tuple[TableDiff, ...]  # the tables whose rows differ, by alias and name
    notes: tuple[str, ...] = ()  # what could not be compared, and why, in sentences

    @property
    def is_empty(self) -> bool:
        """Whether both states are the same."""
        return not (
            self.schema or self.migrations_applied or self.migrations_missing or self.tables
        )
