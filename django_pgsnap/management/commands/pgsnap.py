"""The management command ``pgsnap``."""

import json
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandError

from ...clones.names import new_identity
from ...comparison.types import Diff
from ...conf import RUN_DATABASES, iter_postgresql_wrappers
from ...errors import PgsnapError
from ...messages import format_ago, format_seconds, format_size
from ...safety import allow_here
from ...snapshots import manage, queries
from ...snapshots.context import EVERYTHING, Kind
from ...snapshots.purge import list_managed_databases, purge
from ...snapshots.queries import describe_next_undo, describe_occupied
from ...snapshots.restore import check_complete, restore
from ...snapshots.restore import undo as undo_restore
from ...snapshots.status import preview, read_status
from ...snapshots.take import take
from ...snapshots.throwaway import open_throwaway
from ...snapshots.types import KnownMigrations, Snapshot, describe_drift, describe_replaced_state
from ..base import SubcommandsBase, UsageError
from ..completion import completion_script
from ..facts import diff_facts, row_facts, to_plain
from ..run import run_command

_STDERR = 2  # its descriptor
_ROWS_AFTER_RUN = 5


class Command(SubcommandsBase):
    """The subcommands of ``pgsnap``."""

    help = "Takes snapshots of the project's PostgreSQL databases, and restores them."

    def _take(self, **options: Any) -> None:
        snapshot = self._perform(take, **options)
        self._print_result(
            f"Took {snapshot.name!r}: {format_size(snapshot.size_bytes)} of "
            f"{', '.join(snapshot.aliases)} in {format_seconds(snapshot.seconds)}.",
            snapshot,
        )
        self._tell_more(describe_occupied(self._reporter.overview))

    def _restore(
        self, *, name: str | None, undo: bool | None, migrate: bool, dry_run: bool, **options: Any
    ) -> None:
        if dry_run:
            self._preview_restore(name, options["databases"], force=options["force"])
            return
        began = time.monotonic()
        snapshot = self._perform(restore, name, undo=undo, **options)
        took = format_seconds(time.monotonic() - began)
        drift = KnownMigrations().drift(snapshot.migrations)
        self._print_result(
            f"Restored {snapshot.name!r} of {format_ago(snapshot.taken_at)} to "
            f"{', '.join(snapshot.aliases)} in {took}.",
            snapshot,
            migrations=drift,
        )
        if migrate:
            self._migrate(snapshot)
        else:
            self._tell_more([*describe_drift(drift), *describe_next_undo(self._reporter.overview)])

    def _preview_restore(
        self, name: str | None, databases: Sequence[str] | None, *, force: bool
    ) -> None:
        snapshot = queries.get(name, databases=databases)
        check_complete(snapshot, databases)
        drift = KnownMigrations().drift(snapshot.migrations)
        found = preview(databases=databases or snapshot.aliases)
        if self._as_json:
            facts = {"migrations": drift, "idle": found.idle, "busy": found.busy}
            self._print_json({**to_plain(snapshot), **facts})
            return
        way = "copying it first" if snapshot.spare == "none" else "renaming its spare"
        what = f"{snapshot.name!r} of {format_ago(snapshot.taken_at)}"
        self._print_sentences(
            [
                f"Would restore {what} to {', '.join(snapshot.aliases)} by {way}.",
                *(f"Would end this idle session: {each}" for each in found.idle),
                *(f"Would {'end' if force else 'wait for'}: {each}" for each in found.busy),
                *describe_drift(drift),
            ]
        )

    def _undo(self, *, number: int | None, only_list: bool, drop: bool, **options: Any) -> None:
        if drop:
            if number or only_list or options["databases"]:
                raise UsageError("--drop drops all of them: it takes no N, --list or --database.")
            self._purge_kinds({"undo"})
            return
        if only_list:
            with allow_here():
                undos = queries.overview(databases=options["databases"]).undos
            self._print_found(undos, lambda output: output.print_undos(undos))
            return
        undone = self._perform(undo_restore, number or 1, **options)
        ago = format_ago(undone.taken_at)
        self._print_result(f"Brought back what was live until {ago}.", undone)
        live = f"Live: {describe_replaced_state(undone)}, brought back by undo."
        self._tell_more([live, *describe_next_undo(self._reporter.overview)])

    def _status(self, *, databases: Sequence[str] | None) -> None:
        with allow_here():
            status = read_status(databases=databases)
        self._print_found(status, lambda output: output.print_status(status))

    def _diff(self, *, models: Sequence[str] | None, exit_code: bool, **options: Any) -> None:
        found = self._show_diff(models=models or (), **options)
        if exit_code and not found.is_empty:
            sys.exit(1)

    def _show_diff(self, *names: str | None, **options: Any) -> Diff:
        from ...comparison.diff import diff  # not needed by the verbs that have to be fast

        def print_line(facts: object) -> None:
            self._print_json(facts, indent=None)
            if not self._command:  # whose end has more to tell
                self.stdout.check()  # very many more lines may come

        on_row = (lambda row: print_line(row_facts(row))) if self._as_json else None
        found = self._perform(diff, *names, on_row=on_row, **options)
        if self._as_json:
            for facts in diff_facts(found):
                print_line(facts)
        else:
            self._output.print_diff(found)
        return found

    def _run(
        self,
        *,
        name: str | None,
        live: bool,
        keep: bool,
        diff: bool,
        interactive: bool,
        databases: Sequence[str] | None,
    ) -> None:
        if not self._command:
            raise UsageError("Name the command after --: ./manage.py pgsnap run NAME -- migrate")
        if live and (name or keep):
            raise UsageError(
                "--live runs on the live databases: it takes neither a NAME nor --keep."
            )
        if live:
            status = self._run_live(databases, interactive=interactive)
        else:
            reporter = self._reporter
            if diff:  # when the command is done, another snapshot may be the newest
                name = queries.get(name, databases=databases).name
            with open_throwaway(name, databases=databases, keep=keep, reporter=reporter) as clones:
                reporter.close()  # the terminal is the command's now
                self._warn_of_live(clones)
                status = self._run_command(clones)
                if diff:
                    self._show_diff(name, databases=databases, clones=clones, rows=_ROWS_AFTER_RUN)
            if keep:
                self._print_kept(clones)
        if status:
            sys.exit(status)

    def _warn_of_live(self, clones: Mapping[str, str]) -> None:
        if live := [each.alias for each in iter_postgresql_wrappers() if each.alias not in clones]:
            self._reporter.warn(
                f"The snapshot lacks {', '.join(live)}: there the command works on live data."
            )

    def _run_live(self, databases: Sequence[str] | None, *, interactive: bool) -> int:
        name = f"before-run-{new_identity()}"
        snapshot = self._perform(take, name, databases=databases, pin=True, spare=False)
        is_asked = interactive and sys.stdin.isatty() and not self._as_json
        try:
            status = self._run_command({})
            self._show_diff(name, databases=snapshot.aliases, rows=_ROWS_AFTER_RUN)
            if is_asked and self._answer("Keep it? [Y/n] ") in ("n", "no"):
                self._perform(restore, name, databases=snapshot.aliases)
                self._say("Went back to what was there; undo brings the changes again.")
            elif status and not is_asked:
                # Nobody was asked, and it may have stopped half-way.
                self._say(_way_back(name))
                return status
        except (KeyboardInterrupt, PgsnapError, SystemExit):
            self._say(_way_back(name))
            raise
        self._perform(manage.delete, name, force=True)
        return status

    def _run_command(self, clones: Mapping[str, str]) -> int:
        return run_command(self._command, clones, stdout=_STDERR if self._as_json else None)

    def _print_kept(self, clones: Mapping[str, str]) -> None:
        self._say("Kept, as databases like any other:")
        for alias, clone in clones.items():
            self._say(f"  {clone} ({alias})  drop it: DROP DATABASE {clone};")
        variable = shlex.quote(json.dumps(dict(clones)))
        self._say(f"Work on them: {RUN_DATABASES}={variable} ./manage.py …")

    def _list(self, *, everyone: bool, databases: Sequence[str] | None) -> None:
        with allow_here():
            overview = queries.overview(databases=databases, everyone=everyone)
        self._print_found(
            overview, lambda output: output.print_overview(overview, everyone=everyone)
        )

    def _show(self, *, name: str) -> None:
        with allow_here():
            snapshot = queries.get(name)
        drift = KnownMigrations().drift(snapshot.migrations)
        facts = {**to_plain(snapshot), "migrations": drift}
        self._print_found(facts, lambda output: output.print_snapshot(snapshot, drift))

    def _rename(self, *, old: str, new: str) -> None:
        snapshot = self._perform(manage.rename, old, new)
        self._print_result(f"Renamed {old!r} to {new!r}.", snapshot)

    def _pin(self, *, name: str) -> None:
        snapshot = self._perform(manage.pin, name)
        self._print_result(f"Pinned {name!r}: pruning leaves it.", snapshot)

    def _unpin(self, *, name: str) -> None:
        snapshot = self._perform(manage.pin, name, pinned=False)
        self._print_result(f"Unpinned {name!r}: it may be pruned.", snapshot)

    def _annotate(self, *, name: str, text: str) -> None:
        snapshot = self._perform(manage.annotate, name, text)
        noted = f"Noted on {name!r}: {text}" if text else f"Took the note of {name!r} away."
        self._print_result(noted, snapshot)

    def _delete(
        self, *, names: Sequence[str], everything: bool, force: bool, interactive: bool
    ) -> None:
        if everything == bool(names):
            raise UsageError("Name snapshots to delete, or give --all.")
        can_ask = interactive and sys.stdin.isatty() and self.stdout.isatty()
        # A question protects as well as the settings do, which are for what happens unasked.
        with allow_here() if can_ask else nullcontext():
            unwanted = queries.select_snapshots(*(["*"] if everything else names))
            lines = [
                f"{each.name}{'  (pinned)' if each.pinned else ''}  {format_ago(each.taken_at)}  "
                f"{format_size(each.size_bytes)}  {each.note}"
                for each in unwanted
            ]
            if can_ask and not self._confirm(lines, "Delete for good? [y/N] "):
                self.stderr.write("Nothing deleted.", str)
                return
            deleted = self._perform(manage.delete, *unwanted, force=force or can_ask)
        self._print_deleted("Deleted", deleted)

    def _prune(self, *, templates: bool, dry_run: bool, **limits: Any) -> None:
        if templates == any(limit is not None for limit in limits.values()):
            raise UsageError("Give --keep, --older-than or --max-size, or --templates alone.")
        if templates:
            self._purge_kinds({"template"}, dry_run=dry_run)
            return
        pruned = self._perform(manage.prune, **limits, dry_run=dry_run)
        self._print_deleted("Would delete" if dry_run else "Deleted", pruned)

    def _purge(self, *, everyone: bool, interactive: bool) -> None:
        found = list_managed_databases(everyone=everyone)
        shown = {each.name for each in found} if found and interactive else None
        if shown:
            if not (sys.stdin.isatty() and self.stdout.isatty()):
                raise UsageError("This drops all snapshots. Give -y to say yes.")
            lines = [
                f"{each.name}  {each.kind}{f' of {each.about}' if each.about else ''}  "
                f"{format_size(each.size_bytes)}"
                for each in found
            ]
            if not self._confirm(lines, "Drop them for good? [y/N] "):
                self.stderr.write("Nothing dropped.", str)
                return
        self._purge_kinds(EVERYTHING, everyone=everyone, shown=shown)

    def _purge_kinds(
        self,
        kinds: Collection[Kind],
        *,
        everyone: bool = False,
        shown: Collection[str] | None = None,
        dry_run: bool = False,
    ) -> None:
        if dry_run:
            gone = list_managed_databases(kinds, everyone=everyone)
        else:
            gone = self._perform(purge, kinds, everyone=everyone, shown=shown)
        size = format_size(sum(each.size_bytes for each in gone))
        databases = "1 database" if len(gone) == 1 else f"{len(gone)} databases"
        dropped = "Would drop" if dry_run else "Dropped"
        self._print_result(f"{dropped} {databases}: {size} less.", gone)

    def _confirm(self, lines: Iterable[str], question: str) -> bool:
        self._print_sentences(f"  {line}" for line in lines)
        return self._answer(question) in ("y", "yes")

    def _print_deleted(self, verb: str, deleted: Sequence[Snapshot]) -> None:
        names = ", ".join(repr(each.name) for each in deleted) or "nothing"
        size = format_size(sum(each.size_bytes for each in deleted))
        self._print_result(f"{verb} {names}: {size} less.", deleted)

    def _completion(self, *, shell: str) -> None:
        self.stdout.write(completion_script(shell))

    def _refill(self, *, name: str | None, databases: Sequence[str] | None) -> None:
        snapshot = self._perform(manage.refill, name, databases=databases)
        self._print_result(f"The spare of {snapshot.name!r} is ready.", snapshot)

    def _doctor(self, *, fix: bool, databases: Sequence[str] | None) -> None:
        from ...doctor.diagnosis import diagnose

        diagnosis = self._perform(diagnose, databases=databases, fix=fix)
        notes = self._verbosity > 1  # as it shows steps
        self._print_found(
            diagnosis, lambda output: output.print_diagnosis(diagnosis, with_notes=notes)
        )
        if count := len(diagnosis.problems):
            fixable = sum(finding.fixable for finding in diagnosis.problems)
            by_itself = f", {fixable} of them by ./manage.py pgsnap doctor --fix" if fixable else ""
            need = "thing needs" if count == 1 else "things need"
            raise CommandError(f"{count} {need} to be put right{by_itself}.")

    def _migrate(self, snapshot: Snapshot) -> None:
        for alias in snapshot.aliases:
            call_command(
                "migrate",
                database=alias,
                interactive=False,
                verbosity=0 if self._as_json else self._verbosity,
                no_color=not self._colour,
                stdout=self.stdout,
                stderr=self.stderr,
            )


def _way_back(name: str) -> str:
    return (
        f"To go back: ./manage.py pgsnap restore {name}\n"
        f"To keep what it did: ./manage.py pgsnap delete {name} --force"
    )
