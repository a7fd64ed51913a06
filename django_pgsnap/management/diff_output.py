"""A diff as people read it: a summary by model, the first rows, and what else differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..comparison.types import Diff, RowChange, SchemaChange, TableDiff
from ..messages import printable

_VALUE_WIDTH = 60
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"added": "green", "removed": "red", "changed": "yellow"}


def print_diff(out: Console, found: Diff) -> None:
    """Print what changed: the schema and migrations first, then each model with its rows."""
    aliases = {each.alias for each in found.tables} | {each.alias for each in found.schema}
    several = len(aliases) > 1
    for line in _schema_lines(found, several=several):
        out.print(line)
    if found.tables:
        out.print(_summary(found, several=several))
    for table in found.tables:
        if table.rows:
            out.print(Text(_title(table, several=several), style="bold"))
            for row in table.rows:
                out.print(_row_text(row))
            left = table.added + table.removed + table.changed - len(table.rows)
            if left:
                out.print(Text(f"  ... and {left:,} more", style="dim"))
    for note in found.notes:
        out.print(Text(note, style="dim"))
    if found.is_empty:
        out.print(f"Nothing differs between {escape(found.before)} and {escape(found.after)}.")


def diff_facts(found: Diff) -> Iterator[dict[str, object]]:
    """Yield what changed as plain values for JSON, one object for each thing; rows come apart."""
    yield {
        "type": "diff",
        "before": found.before,
        "after": found.after,
        "different": not found.is_empty,
        "migrations_applied": [list(key) for key in found.migrations_applied],
        "migrations_missing": [list(key) for key in found.migrations_missing],
        "notes": list(found.notes),
    }
    for change in found.schema:
        yield {
            "type": "schema",
            "database": change.alias,
            "kind": change.kind,
            "name": change.name,
            "before": change.before,
            "after": change.after,
        }
    for table in found.tables:
        yield {
            "type": "table",
            "database": table.alias,
            "table": table.table,
            "model": table.model or None,
            "added": table.added,
            "removed": table.removed,
            "changed": table.changed,
            "changed_columns": dict(table.changed_columns),
            "compared_by": table.method,
        }


def row_facts(row: RowChange) -> dict[str, object]:
    """Return one row change as plain values for JSON."""
    return {
        "type": "row",
        "database": row.alias,
        "table": row.table,
        "model": row.model or None,
        "kind": row.kind,
        "key": dict(row.key),
        "columns": {name: list(values) for name, values in row.columns.items()},
    }


def _schema_lines(found: Diff, *, several: bool) -> Iterator[Text]:
    for word, keys in (
        ("applied since", found.migrations_applied),
        ("missing now", found.migrations_missing),
    ):
        if keys:
            names = ", ".join(f"{app}.{name}" for app, name in keys)
            yield Text(f"Migrations {word}: {printable(names)}")
    for change in found.schema:
        yield _schema_text(change, several=several)


def _schema_text(change: SchemaChange, *, several: bool) -> Text:
    kind = "added" if change.before is None else "removed" if change.after is None else "changed"
    where = f" ({change.alias})" if several else ""
    name = printable(change.short_name)
    text = Text(f"{_SIGNS[kind]} {change.kind} {name}{where}", style=_STYLES[kind])
    if kind == "changed":
        text.append(f": {_short(change.before)} → {_short(change.after)}")
    return text


def _summary(found: Diff, *, several: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("Model")
    for heading, style in (("Added", "green"), ("Removed", "red"), ("Changed", "yellow")):
        table.add_column(heading, justify="right", style=style)
    table.add_column("Columns that changed", overflow="fold")
    for each in found.tables:
        counts = (each.added, each.removed, each.changed)
        columns = ", ".join(printable(name) for name in each.changed_columns)
        table.add_row(
            Text(_title(each, several=several)),
            *(Text(f"{count:,}" if count else "") for count in counts),
            Text(columns),
        )
    return table


def _title(table: TableDiff, *, several: bool) -> str:
    return printable(f"{table.name} ({table.alias})" if several else table.name)


def _row_text(row: RowChange) -> Text:
    text = Text(f"  {_SIGNS[row.kind]} {_key(row.key)}", style=_STYLES[row.kind])
    values = [
        f"{printable(name)}: {_value(row, old, new)}"
        for name, (old, new) in row.columns.items()
        if name not in row.key or row.kind == "changed"
    ]
    if values:
        text.append(f"  {'; '.join(values)}")
    return text


def _key(key: Mapping[str, str | None]) -> str:
    return ", ".join(f"{printable(name)}={_short(value)}" for name, value in key.items())


def _value(row: RowChange, old: str | None, new: str | None) -> str:
    if row.kind == "added":
        return _short(new)
    return _short(old) if row.kind == "removed" else f"{_short(old)} → {_short(new)}"


def _short(value: str | None) -> str:
    """Return a value that fits on a line: cut in the middle, or as a digest where it is binary."""
    if value is None:
        return "NULL"
    if value.startswith("\\x") and len(value) > _VALUE_WIDTH:
        size = len(value) // 2 - 1
        return f"<{size:,} bytes, sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]}>"
    text = printable(" ".join(value.split()) if "\n" in value else value)
    if len(text) <= _VALUE_WIDTH:
        return text
    half = _VALUE_WIDTH // 2 - 1
    return f"{text[:half]} … {text[-half:]}"
