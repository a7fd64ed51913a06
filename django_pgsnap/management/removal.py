"""The subcommands that take something away: ``delete``, ``prune`` and ``purge``."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta

from ..messages import format_ago, format_size
from ..safety import allow_here
from ..snapshots import manage, queries
from ..snapshots.context import EVERYTHING, Kind
from ..snapshots.manage import prune
from ..snapshots.purge import list_managed_databases, purge
from ..snapshots.types import Snapshot
from .base import SubcommandsBase
from .facts import snapshot_facts


class Removal(SubcommandsBase):
    """Takes snapshots and what belongs to them away, after asking on a terminal."""

    def _delete(
        self, *, names: Sequence[str], everything: bool, force: bool, interactive: bool
    ) -> None:
        if everything == bool(names):
            raise self._refusal("Name snapshots to delete, or give --all.")
        can_ask = interactive and sys.stdin.isatty() and self.stdout.isatty()
        # A question protects as well as the settings do, which are for what happens unasked.
        with allow_here() if can_ask else nullcontext(), self._reporter() as reporter:
            unwanted = queries.select_snapshots(*(["*"] if everything else names))
            lines = [
                f"{each.name}{'  (pinned)' if each.pinned else ''}  {format_ago(each.taken_at)}  "
                f"{format_size(each.size_bytes)}  {each.note}"
                for each in unwanted
            ]
            if can_ask and not self._confirm(lines, "Delete for good? [y/N] "):
                self.stderr.write("Nothing deleted.", str)
                return
            deleted = manage.delete(
                *(each.name for each in unwanted), force=force or can_ask, reporter=reporter
            )
        self._print_deleted("Deleted", deleted)

    def _prune(
        self,
        *,
        keep: int | None,
        older_than: timedelta | None,
        max_bytes: int | None,
        templates: bool,
        dry_run: bool,
    ) -> None:
        if templates:
            self._purge_kinds({"template"}, dry_run=dry_run)
            return
        if keep is None and older_than is None and max_bytes is None:
            raise self._refusal("Give --keep, --older-than or --max-size.")
        with self._reporter() as reporter:
            pruned = prune(
                keep=keep,
                older_than=older_than,
                max_bytes=max_bytes,
                dry_run=dry_run,
                reporter=reporter,
            )
        self._print_deleted("Would delete" if dry_run else "Deleted", pruned)

    def _purge(self, *, everyone: bool, interactive: bool) -> None:
        found = list_managed_databases(everyone=everyone)
        if found and interactive:
            if not (sys.stdin.isatty() and self.stdout.isatty()):
                raise self._refusal("This drops all snapshots. Give -y to say yes.", status=1)
            lines = [
                f"{each.name}  {each.kind}{f' of {each.about}' if each.about else ''}  "
                f"{format_size(each.size_bytes)}"
                for each in found
            ]
            if not self._confirm(lines, "Drop them for good? [y/N] "):
                self.stderr.write("Nothing dropped.", str)
                return
        self._purge_kinds(EVERYTHING, everyone=everyone)

    def _purge_kinds(
        self, kinds: Collection[Kind], *, everyone: bool = False, dry_run: bool = False
    ) -> None:
        if dry_run:
            gone = list_managed_databases(kinds, everyone=everyone)
        else:
            with self._reporter() as reporter:
                gone = purge(kinds, everyone=everyone, reporter=reporter)
        size = format_size(sum(each.size_bytes for each in gone))
        databases = "1 database" if len(gone) == 1 else f"{len(gone)} databases"
        self._print_result(
            f"{'Would drop' if dry_run else 'Dropped'} {databases}: {size} less.",
            [asdict(each) for each in gone],
        )

    def _confirm(self, lines: Iterable[str], question: str) -> bool:
        self._print_sentences(f"  {line}" for line in lines)
        return self._answer(question) in ("y", "yes")

    def _print_deleted(self, verb: str, deleted: Sequence[Snapshot]) -> None:
        names = ", ".join(repr(each.name) for each in deleted) or "nothing"
        size = format_size(sum(each.size_bytes for each in deleted))
        self._print_result(
            f"{verb} {names}: {size} less.", [snapshot_facts(each) for each in deleted]
        )
