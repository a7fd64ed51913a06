"""Snapshots as plain data, for ``--json``.

The doctor's findings: plain data for ``--json``, lines for people.

Tables of snapshots: drawn on a terminal, plain columns in a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import IO, Any, Final, cast

from django.core.management.base import OutputWrapper
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import formatting
from ..doctor.findings import Diagnosis, Finding
from ..formatting import format_age, format_ago, format_seconds, format_size
from ..migration_drift import Drift, KnownMigrations
from ..snapshots.queries import Overview
from ..snapshots.types import Member, Snapshot, Undo


def of_snapshot(snapshot: Snapshot, drift: Drift | None = None) -> dict[str, Any]:
    """Return what is known of a snapshot; with its drift if that was worked out."""
    facts = {
        "name": snapshot.name,
        "taken_at": snapshot.taken_at.isoformat(),
        "size_bytes": snapshot.size_bytes,
        "seconds": snapshot.seconds,
        "note": snapshot.note,
        "pinned": snapshot.pinned,
        "spare": snapshot.spare,
        "complete": snapshot.is_complete,
        "git_branch": snapshot.git_branch,
        "git_commit": snapshot.git_commit,
        "git_dirty": snapshot.git_dirty,
        "members": _members(snapshot.members),
    }
    if drift is not None:
        facts["migrations"] = {
            "missing": [f"{app}.{name}" for app, name in drift.missing],
            "unknown": [f"{app}.{name}" for app, name in drift.unknown],
        }
    return facts


def of_undo(undo: Undo) -> dict[str, Any]:
    """Return what is known of an undo."""
    return {
        "replaced_by": undo.name,
        "replaced_at": undo.taken_at.isoformat(),
        "size_bytes": undo.size_bytes,
        "members": _members(undo.members),
    }


def _members(members: Iterable[Member]) -> list[dict[str, Any]]:
    return [
        {
            "alias": member.alias,
            "source": member.record.source,
            "database": member.database.name,
            "size_bytes": member.record.size_bytes,
            "strategy": member.record.strategy,
            "spare": member.spare,
        }
        for member in members
    ]


_INDENT: Final = "    "


def facts(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return all that the doctor found."""
    return {
        "healthy": not diagnosis.problems,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "usage": [asdict(usage) for usage in diagnosis.usage],
    }


def show(diagnosis: Diagnosis, write: Callable[[str], object]) -> None:
    """Write a paragraph per finding, and what our databases occupy."""
    for finding in diagnosis.findings:
        write(_paragraph(finding))
    for usage in diagnosis.usage:
        if usage.databases:
            write(f"{usage.kind}: {usage.databases}, {format_size(usage.size_bytes)}")
    if not diagnosis.findings:
        write("Nothing to report.")


def summary(diagnosis: Diagnosis) -> str:
    """Return the sentence that says what is left to do."""
    count = len(diagnosis.problems)
    fixable = sum(finding.fixable for finding in diagnosis.problems)
    left = f"{count} {'thing needs' if count == 1 else 'things need'} to be put right"
    return f"{left}, {fixable} of them by pgsnap doctor --fix." if fixable else f"{left}."


def _paragraph(finding: Finding) -> str:
    label = "fixed" if finding.fixed else finding.severity
    lines = [f"{label}: {formatting.printable(finding.object)}"]
    lines += [_INDENT + formatting.printable(line) for line in finding.cause.splitlines()]
    if not finding.fixed:
        lines += [_INDENT + formatting.printable(line) for line in finding.remedy.splitlines()]
    return "\n".join(lines)


# A pipe has no width, and a line that is cut short is of no use to who reads it there.
_PIPE_WIDTH = 1000
# On a terminal a list is for looking over; pgsnap show has the rest.
_NOTE_WIDTH = 40
_BRANCH_WIDTH = 20


class _Console(Console):
    """A console that leaves it to the command what to do when nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Raise again what rich caught; by itself it would end the process with status 1."""
        raise BrokenPipeError


def console(stdout: OutputWrapper, *, colour: bool) -> Console:
    """Return a rich console that writes to the command's output."""
    terminal = stdout.isatty()
    return _Console(
        # It quacks well enough: rich writes to it, flushes it, and asks whether it is a terminal.
        file=cast("IO[str]", stdout),
        no_color=not colour,
        highlight=False,
        width=None if terminal else _PIPE_WIDTH,
        color_system="auto" if colour else None,
    )


def show_overview(
    out: Console, overview: Overview, code: KnownMigrations, *, everyone: bool
) -> None:
    """Print the list of snapshots, and what they occupy.

    Args:
        out: Where to.
        overview: What there is.
        code: The migrations to compare with.
        everyone: Whether other projects' are among them, whose aliases say nothing here.
    """
    if overview.snapshots:
        out.print(_table(out, overview, code, everyone=everyone))
    else:
        out.print("No snapshots yet. Take one: pgsnap take", style="dim")
    for undo in overview.undos:
        out.print(Text(describe_undo(undo), style="dim"))
    if overview.occupied_bytes:
        total = format_size(overview.occupied_bytes)
        out.print(Text(f"Copies, spares and undo occupy {total}.", style="dim"))


def describe_undo(undo: Undo) -> str:
    """Return a sentence about an undo."""
    return (
        f"Undo: what was live until {format_ago(undo.taken_at)} "
        f"(restore of {formatting.printable(undo.name)}, {format_size(undo.size_bytes)})."
    )


def show_snapshot(out: Console, snapshot: Snapshot, drift: Drift) -> None:
    """Print all that is known of one snapshot."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in _details(snapshot, drift):
        # A plain str would be taken for markup.
        grid.add_row(Text(label), Text(formatting.printable(value)))
    out.print(grid)


def _table(out: Console, overview: Overview, code: KnownMigrations, *, everyone: bool) -> Table:
    several = everyone or len({alias for each in overview.snapshots for alias in each.aliases}) > 1
    noted = any(each.note for each in overview.snapshots)
    table = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, collapse_padding=True
    )
    # Where the terminal is narrow, the columns that may wrap share what the others leave.
    table.add_column("Name", style="bold", overflow="fold")
    table.add_column("Age", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    if several:
        table.add_column("Databases", overflow="fold")
    if noted:
        table.add_column("Note", overflow="fold")
    table.add_column("Branch", overflow="fold")
    table.add_column("Migrations", overflow="fold")
    table.add_column("Spare", no_wrap=True)
    cut = _cut if out.is_terminal else _whole
    for each in overview.snapshots:
        cells = [
            f"{each.name}{' (pinned)' if each.pinned else ''}",
            format_age(each.taken_at),
            format_size(each.size_bytes),
            *([_databases(each, everyone=everyone)] if several else []),
            *([cut(each.note, _NOTE_WIDTH)] if noted else []),
            cut(each.git_branch, _BRANCH_WIDTH),
            str(code.drift(each.migrations)) or "current",
            "" if each.spare == "none" else each.spare,
        ]
        table.add_row(*(Text(formatting.printable(cell)) for cell in cells))
    return table


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _whole(text: str, _: int) -> str:
    return text


def _databases(snapshot: Snapshot, *, everyone: bool) -> str:
    known_as = [member.record.source if everyone else member.alias for member in snapshot.members]
    missing = "" if snapshot.is_complete else " (incomplete)"
    return ", ".join(known_as) + missing


def _details(snapshot: Snapshot, drift: Drift) -> Iterable[tuple[str, str]]:
    yield "Name", snapshot.name
    taken = f"{snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC ({format_ago(snapshot.taken_at)})"
    yield "Taken", f"{taken}, in {format_seconds(snapshot.seconds)}"
    yield "Size", format_size(snapshot.size_bytes)
    if snapshot.note:
        yield "Note", snapshot.note
    yield "Pinned", "yes" if snapshot.pinned else "no"
    yield "Spare", snapshot.spare
    if snapshot.git_commit:
        changes = ", with uncommitted changes" if snapshot.git_dirty else ""
        yield "Code", f"{snapshot.git_branch} {snapshot.git_commit[:12]}{changes}"
    yield "Migrations", str(drift) or "current"
    for label, migrations in (("  behind", drift.missing), ("  unknown", drift.unknown)):
        for app, name in migrations:
            yield label, f"{app}.{name}"
    if not snapshot.is_complete:
        yield "Incomplete", "some of its databases are not there"
    for member in snapshot.members:
        yield f"Alias {formatting.printable(member.alias)}", _whereabouts(member)


def _whereabouts(member: Member) -> str:
    record = member.record
    return (
        f"{record.source}, copied by {record.strategy or 'other means'} on PostgreSQL "
        f"{record.postgresql} to {member.database.name} ({format_size(record.size_bytes)})"
    )
