"""What people read: tables on a terminal, plain columns in a pipe, a paragraph per finding."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..comparison.types import Diff, RowChange, SchemaChange, TableDiff
from ..doctor.findings import Diagnosis, Finding
from ..messages import format_age, format_ago, format_seconds, format_size, printable
from ..snapshots.queries import Overview, describe_next_undo, describe_occupied, describe_operation
from ..snapshots.status import Status, describe_live_state
from ..snapshots.types import Drift, KnownMigrations, Snapshot, Undo, describe_replaced_state

# A pipe has no width, and a line that is cut short is of no use to whoever reads it there.
_PIPE_WIDTH: Final = 1000
# On a terminal a list is for looking over; pgsnap show has the rest.
_NOTE_WIDTH: Final = 40
_BRANCH_WIDTH: Final = 20
_WORD_WIDTH: Final = 10
_NARROW: Final = 72
_VALUE_WIDTH: Final = 60
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}
_STYLES: Final = {"added": "green", "removed": "red", "changed": "yellow"}


class Output(Console):
    """Prints to the command's output what there is, with sentences, tables and colours."""

    def __init__(self, stdout: Any, *, colour: bool) -> None:
        """Print to what can be written, flushed, and asked whether it is a terminal."""
        width = None if stdout.isatty() else _PIPE_WIDTH
        colours: Any = "auto" if colour else None
        super().__init__(file=stdout, highlight=False, width=width, color_system=colours)

    def print_overview(self, overview: Overview, *, everyone: bool) -> None:
        """Print the list of snapshots, of everyone's if so wanted, and what they occupy."""
        if overview.snapshots:
            self.print(self._table(overview, everyone=everyone))
        self._say(_describe_missing(overview))
        if overview.undos:
            self._say(describe_next_undo(overview), style="dim")
        self._say(_describe_beside(overview), style="dim")
        self._say(describe_occupied(overview))

    def print_status(self, status: Status) -> None:
        """Print what is live, what undo would bring back, and what there is beside that."""
        overview = status.overview
        for each in status.live:
            name = f"Live ({each.alias})" if len(status.live) > 1 else "Live"
            self._say([f"{name}: {describe_live_state(each)}."], style="bold")
        self._say(describe_next_undo(overview))
        self._say(_describe_missing(overview))
        if overview.snapshots:
            self._say(_describe_snapshots(overview))
        self._say(_describe_beside(overview))
        self._say(map(describe_operation, overview.underway))
        self._say(describe_occupied(overview))

    def print_undos(self, undos: Sequence[Undo]) -> None:
        """Print the replaced states, each with the number by which undo takes it."""
        if not undos:
            self.print("There is nothing to undo.", style="dim")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("N", "Replaced", "By", "Holds", "Size", "Databases"):
            table.add_column(heading, no_wrap=heading != "Databases")
        for number, undo in enumerate(undos, 1):
            by = "undo" if undo.by_undo else f"restore of {undo.name}"
            size, aliases = format_size(undo.size_bytes), ", ".join(undo.aliases)
            ago, holds = format_ago(undo.taken_at), describe_replaced_state(undo)
            _add_row(table, str(number), ago, by, holds, size, aliases)
        self.print(table)

    def print_snapshot(self, snapshot: Snapshot, drift: Drift) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in _details(snapshot, drift):
            _add_row(grid, label, value)
        self.print(grid)

    def print_diagnosis(self, diagnosis: Diagnosis, *, with_notes: bool) -> None:
        """Print a paragraph per finding; notes, and what our databases occupy, only on demand."""
        shown = [each for each in diagnosis.findings if with_notes or each.severity != "note"]
        shown += [each for each in diagnosis.findings if each.fixed and each not in shown]
        lines = [_paragraph(finding) for finding in shown]
        lines += [
            f"{_plural(usage.kind)}: {usage.databases}, {format_size(usage.size_bytes)}"
            for usage in diagnosis.usage
            if with_notes and usage.databases
        ]
        if not diagnosis.problems:
            hidden = len(diagnosis.findings) - len(shown)
            notes = f" {hidden} {'note' if hidden == 1 else 'notes'}: add -v 2." if hidden else ""
            lines.append(f"Nothing is wrong.{notes}")
        for line in lines:
            self.print(Text(line), soft_wrap=True)  # a remedy is there to be copied

    def print_diff(self, found: Diff) -> None:
        """Print what changed: the schema and migrations first, then each model with its rows."""
        aliases = {each.alias for each in found.tables} | {each.alias for each in found.schema}
        where = {alias: f" ({alias})" if len(aliases) > 1 else "" for alias in aliases}
        applied, missing = found.migrations_applied, found.migrations_missing
        for word, keys in (("applied since", applied), ("missing now", missing)):
            if keys:
                self._say([f"Migrations {word}: {', '.join(map('.'.join, keys))}"])
        for change in found.schema:
            self.print(_schema_text(change, where[change.alias]))
        if found.tables:
            titles = {f"{each.name}{where[each.alias]}": each for each in found.tables}
            self.print(_diff_table(titles))
        for table in found.tables:
            if table.rows:
                self._say([f"{table.name}{where[table.alias]}"], style="bold")
                for row in table.rows:
                    self.print(_row_text(row))
                left = table.added + table.removed + table.changed - len(table.rows)
                if left:
                    self._say([f"  ... and {left:,} more"], style="dim")
        self._say(found.notes, style="dim")
        if found.is_empty:
            self._say([f"Nothing differs between {found.before} and {found.after}."])

    def _say(self, sentences: Iterable[str], style: str = "") -> None:
        for sentence in sentences:
            self.print(Text(printable(sentence), style=style))

    def _table(self, overview: Overview, *, everyone: bool) -> Table:
        aliases = {alias for each in overview.snapshots for alias in each.aliases}
        several = (
            everyone or len(aliases) > 1 or not all(each.is_complete for each in overview.snapshots)
        )
        code = KnownMigrations()

        def cut(text: str, width: int) -> str:
            fits = len(text) <= width or not self.is_terminal
            return text if fits else f"{text[: width - 1]}…"

        rows = [
            {
                "Name": f"{each.name}{' (pinned)' if each.pinned else ''}",
                "Age": format_age(each.taken_at),
                "Size": format_size(each.size_bytes),
                "Databases": _databases(each, everyone=everyone) if several else "",
                "Note": cut(each.note, _NOTE_WIDTH),
                "Branch": cut(each.git_branch, _BRANCH_WIDTH) if self.width >= _NARROW else "",
                "Migrations": code.drift(each.migrations).summary,
                "Spare": "" if each.spare == "none" else each.spare,
            }
            for each in overview.snapshots
        ]
        table = Table(
            box=box.SIMPLE_HEAD if self.is_terminal else None, pad_edge=False, collapse_padding=True
        )
        headings = [heading for heading in rows[0] if any(row[heading] for row in rows)]
        for heading in headings:
            words = [word for row in rows for word in row[heading].split()]
            table.add_column(
                heading,
                style="bold" if heading == "Name" else None,
                justify="right" if heading == "Size" else "left",
                no_wrap=heading in ("Age", "Size", "Spare"),
                # On a narrow terminal, lines break between words as long as that is possible.
                min_width=min(_WORD_WIDTH, max(map(len, [heading, *words]))),
                overflow="fold",
            )
        for row in rows:
            _add_row(table, *(row[heading] for heading in headings))
        return table


def _add_row(table: Table, *cells: str) -> None:
    # A plain str would be taken for markup.
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _describe_beside(overview: Overview) -> Iterable[str]:
    for kind, name in (
        ("template", "Test templates"),
        ("run", "Clones of pgsnap run"),
        ("test", "Test databases"),
    ):
        sizes = [each.size_bytes for each in overview.beside if each.kind == kind]
        if sizes:
            yield f"{name}: {len(sizes)}, {format_size(sum(sizes))}."


def _describe_missing(overview: Overview) -> Sequence[str]:
    """Return why there are no snapshots, or fewer than one might think."""
    if overview.snapshots or overview.not_counted:
        return overview.not_counted
    return ("No snapshots yet. Take one: ./manage.py pgsnap take",)


def _describe_snapshots(overview: Overview) -> Iterable[str]:
    newest = overview.snapshots[0]
    yield (
        f"Snapshots: {len(overview.snapshots)}, the newest {newest.name!r} of "
        f"{format_ago(newest.taken_at)}."
    )
    spared = [repr(each.name) for each in overview.snapshots if each.spare == "ready"]
    yield f"Restored without copying: {', '.join(spared) or 'none'}."
    code = KnownMigrations()
    for each in overview.snapshots:
        if drift := code.drift(each.migrations).summary:
            yield f"Migrations of {each.name!r}: {drift}."


def _databases(snapshot: Snapshot, *, everyone: bool) -> str:
    # The aliases of other projects say nothing here.
    known_as = [member.record.source if everyone else member.alias for member in snapshot.members]
    if snapshot.completeness == "partly outside":
        outside = ", ".join(part.alias for part in snapshot.elsewhere)
        return f"{', '.join(known_as)} (outside: {outside})"
    return ", ".join(known_as) + ("" if snapshot.is_complete else " (incomplete)")


def _details(snapshot: Snapshot, drift: Drift) -> Iterable[tuple[str, str]]:
    yield "Name", snapshot.name
    taken = f"{snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC ({format_ago(snapshot.taken_at)})"
    yield "Taken", f"{taken}, in {format_seconds(snapshot.seconds)}"
    yield "Size", format_size(snapshot.size_bytes)
    yield "Holds", "these databases; not uploaded files, caches, queues or search indexes"
    if snapshot.note:
        yield "Note", snapshot.note
    yield "Pinned", "yes" if snapshot.pinned else "no"
    yield "Spare", snapshot.spare
    if snapshot.git_commit:
        changes = ", with uncommitted changes" if snapshot.git_dirty else ""
        yield "Code", f"{snapshot.git_branch} {snapshot.git_commit[:12]}{changes}"
    yield "Migrations", drift.summary or "as in this code"
    for label, migrations in (("  not run", drift.missing), ("  not here", drift.unknown)):
        for app, name in migrations:
            yield label, f"{app}.{name}"
    if snapshot.completeness == "part lost":
        yield "Incomplete", "some of its databases are not there"
    for part in snapshot.elsewhere:
        yield "Outside", f"{part}, which these settings do not name"
    for member in snapshot.members:
        record, name = member.record, member.database.name
        copied = f"copied by {record.strategy or 'other means'} on PostgreSQL {record.postgresql}"
        where = f"{record.source}, {copied} to {name} ({format_size(record.size_bytes)})"
        yield f"Alias {member.alias}", where


def _plural(kind: str) -> str:
    return {"copy": "copies", "live": "live"}.get(kind, f"{kind}s")


def _paragraph(finding: Finding) -> str:
    lines = finding.cause.splitlines()
    if not finding.fixed:
        lines += finding.remedy.splitlines()
    heading = f"{'fixed' if finding.fixed else finding.severity}: {printable(finding.object)}"
    return "\n    ".join([heading, *map(printable, lines)])


def _schema_text(change: SchemaChange, where: str) -> Text:
    kind = "added" if change.before is None else "removed" if change.after is None else "changed"
    name = printable(change.short_name)
    text = Text(f"{_SIGNS[kind]} {change.kind} {name}{where}", style=_STYLES[kind])
    if kind == "changed":
        text.append(f": {_short(change.before)} → {_short(change.after)}")
    return text


def _diff_table(tables: Mapping[str, TableDiff]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("Model")
    for heading, style in (("Added", "green"), ("Removed", "red"), ("Changed", "yellow")):
        table.add_column(heading, justify="right", style=style)
    table.add_column("Columns that changed", overflow="fold")
    for name, each in tables.items():
        counts = (f"{n:,}" if n else "" for n in (each.added, each.removed, each.changed))
        _add_row(table, name, *counts, ", ".join(each.changed_columns))
    return table


def _row_text(row: RowChange) -> Text:
    key = ", ".join(f"{printable(name)}={_short(value)}" for name, value in row.key.items())
    text = Text(f"  {_SIGNS[row.kind]} {key}", style=_STYLES[row.kind])
    values = [
        f"{printable(name)}: {_value(row, old, new)}"
        for name, (old, new) in row.columns.items()
        # That a new row, or one that is gone, has no value there says nothing.
        if (old, new) != (None, None) and (name not in row.key or row.kind == "changed")
    ]
    if values:
        text.append(f"  {'; '.join(values)}")
    return text


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
