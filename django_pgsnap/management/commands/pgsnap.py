"""The management command ``pgsnap``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from io import TextIOWrapper
from typing import Any, TypedDict, Unpack

from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser, no_translations
from django.core.management.color import no_style

from ...clones.names import new_identity
from ...clones.records import Strategy
from ...conf import CHECKS_TAG
from ...errors import PgsnapError
from ...formatting import format_ago, format_seconds, format_size, printable
from ...migration_drift import KnownMigrations, describe_drift
from ...safety import allow_here
from ...snapshots import manage, queries
from ...snapshots.managed import EVERYTHING, Kind
from ...snapshots.preview import preview
from ...snapshots.prune import prune
from ...snapshots.purge import list_managed_databases, purge
from ...snapshots.restore import restore
from ...snapshots.status import read_status
from ...snapshots.take import take
from ...snapshots.throwaway import open_throwaway
from ...snapshots.types import Snapshot
from ...snapshots.undo import undo as undo_restore
from ..arguments import SUBCOMMANDS, add_subcommands
from ..completion import NAMES_DIRECTORY, completion_script, remember_names
from ..facts import diagnosis_facts, error_facts, snapshot_facts, status_facts, undo_facts
from ..progress import CommandReporter
from ..run import run_command

_STEPS = 2  # the verbosity that shows steps and notes
_USAGE = 2
_INTERRUPTED = 130
_YES = ("y", "yes")
_NO = ("n", "no")
_ROWS_AFTER_RUN = 5


class _WhenBusy(TypedDict):
    databases: Sequence[str] | None
    wait_s: float | None
    force: bool


class _TakeOptions(_WhenBusy):
    note: str
    replace: bool
    pin: bool
    spare: bool
    strategy: Strategy | None


class _DiffOptions(TypedDict):
    undo: bool
    rows: int
    databases: Sequence[str] | None


class Command(BaseCommand):
    """Runs one subcommand, and is the only place that turns errors into messages."""

    help = "Takes snapshots of the project's PostgreSQL databases, and restores them."
    # Checks of other apps are no reason not to give somebody their data back.
    requires_system_checks = [CHECKS_TAG]

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        add_subcommands(parser)

    def check(self, *arguments: Any, **options: Any) -> None:
        """Stop at errors. Warnings are shown by ``manage.py check``, and not each time again."""
        if any(message.is_serious() for message in run_checks(tags=[CHECKS_TAG])):
            super().check(*arguments, **options)

    @no_translations  # sizes and ages are parts of English sentences here
    def handle(self, *_: Any, subcommand: str, **options: Any) -> None:
        """Run a subcommand: the method of its name, with its own options as keywords."""
        self._verbosity: int = options["verbosity"]
        self._as_json: bool = options["as_json"]
        self._command: Sequence[str] = options.get("command") or ()
        self._colour = not (options["no_color"] or os.environ.get("NO_COLOR"))
        if not self._colour:
            self.style = no_style()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                # A note may hold what the output's encoding does not.
                stream.reconfigure(errors="backslashreplace")
        wanted = {argument.destination for argument in SUBCOMMANDS[subcommand].arguments}
        try:
            getattr(self, f"_{subcommand}")(**{name: options[name] for name in wanted})
            if NAMES_DIRECTORY in os.environ:
                remember_names(os.environ[NAMES_DIRECTORY])
            self.stdout.flush()
        except PgsnapError as error:
            if self._as_json:
                self._print_json({"error": error_facts(error)})
            raise CommandError(_printable_lines(str(error))) from error
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Nothing is left half done; see ./manage.py pgsnap list.",
                returncode=_INTERRUPTED,
            ) from None
        except BrokenPipeError:
            # Whoever reads our output has seen enough. Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _take(self, *, name: str | None, **options: Unpack[_TakeOptions]) -> None:
        with self._reporter() as reporter:
            snapshot = take(name, reporter=reporter, **options)
        self._print_result(
            f"Took {snapshot.name!r}: {format_size(snapshot.size_bytes)} of "
            f"{', '.join(snapshot.aliases)} in {format_seconds(snapshot.seconds)}.",
            lambda: snapshot_facts(snapshot),
        )
        if reporter.overview and self._tells_more:
            occupied = format_size(reporter.overview.occupied_bytes)
            self.stdout.write(f"All copies together occupy {occupied}.")

    def _restore(
        self,
        *,
        name: str | None,
        undo: bool | None,
        migrate: bool,
        dry_run: bool,
        **options: Unpack[_WhenBusy],
    ) -> None:
        if dry_run:
            self._preview_restore(name, options["databases"])
            return
        began = time.monotonic()
        with self._reporter() as reporter:
            snapshot = restore(name, undo=undo, reporter=reporter, **options)
        took = format_seconds(time.monotonic() - began)
        drift = KnownMigrations().drift(snapshot.migrations)
        self._print_result(
            f"Restored {snapshot.name!r} of {format_ago(snapshot.taken_at)} to "
            f"{', '.join(snapshot.aliases)} in {took}.",
            lambda: snapshot_facts(snapshot, drift),
        )
        if migrate:
            self._migrate(snapshot)
        elif self._tells_more:
            self._print_sentences([*describe_drift(drift), *_describe_next_undo(reporter)])

    def _preview_restore(self, name: str | None, databases: Sequence[str] | None) -> None:
        snapshot = queries.get(name, databases=databases)
        drift = KnownMigrations().drift(snapshot.migrations)
        found = preview(databases=databases or snapshot.aliases)
        if self._as_json:
            facts = snapshot_facts(snapshot, drift)
            self._print_json({**facts, "idle": found.idle, "busy": found.busy})
            return
        way = "copying it first" if snapshot.spare == "none" else "renaming its spare"
        what = f"{snapshot.name!r} of {format_ago(snapshot.taken_at)}"
        lines = [
            f"Would restore {what} to {', '.join(snapshot.aliases)} by {way}.",
            *(f"Would end this idle session: {each}" for each in found.idle),
            *(f"Would wait for: {each}" for each in found.busy),
            *describe_drift(drift),
        ]
        self._print_sentences(lines)

    def _undo(
        self, *, number: int, only_list: bool, drop: bool, **options: Unpack[_WhenBusy]
    ) -> None:
        if drop:
            self._purge_kinds({"undo"})
            return
        if only_list:
            self._list_undos(options["databases"])
            return
        with self._reporter() as reporter:
            undone = undo_restore(number, reporter=reporter, **options)
        self._print_result(
            f"Brought back what was live until {format_ago(undone.taken_at)}.",
            lambda: undo_facts(undone),
        )
        if self._tells_more:
            from ..output import describe_kept_state

            live = f"Live: {describe_kept_state(undone)}, brought back by undo."
            self._print_sentences([live, *_describe_next_undo(reporter)])

    @property
    def _tells_more(self) -> bool:
        return self._verbosity > 0 and not self._as_json

    def _print_sentences(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.stdout.write(printable(sentence))

    def _status(self, *, databases: Sequence[str] | None) -> None:
        from ..output import make_console, print_status

        with allow_here():
            status = read_status(databases=databases)
        if self._as_json:
            self._print_json(status_facts(status))
        else:
            console = make_console(self.stdout, colour=self._colour)
            print_status(console, status, KnownMigrations())

    def _list_undos(self, databases: Sequence[str] | None) -> None:
        from ..output import make_console, print_undos

        undos = queries.overview(databases=databases).undos
        if self._as_json:
            self._print_json([undo_facts(each) for each in undos])
        else:
            print_undos(make_console(self.stdout, colour=self._colour), undos)

    def _diff(
        self,
        *,
        name: str | None,
        other: str | None,
        models: Sequence[str] | None,
        exit_code: bool,
        **options: Unpack[_DiffOptions],
    ) -> None:
        from ...comparison.diff import diff
        from ..diff_output import diff_facts, print_diff, row_facts
        from ..output import make_console

        def print_line(facts: object) -> None:
            self.stdout.write(json.dumps(facts))

        found = diff(
            name,
            other,
            models=models or (),
            on_row=(lambda row: print_line(row_facts(row))) if self._as_json else None,
            **options,
        )
        if self._as_json:
            for facts in diff_facts(found):
                print_line(facts)
        else:
            print_diff(make_console(self.stdout, colour=self._colour), found)
        if exit_code and not found.is_empty:
            sys.exit(1)

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
            raise CommandError("Name the command after --: ./manage.py pgsnap run NAME -- migrate")
        if live:
            status = self._run_live(databases, interactive=interactive)
        else:
            with open_throwaway(name, databases=databases, keep=keep) as clones:
                status = run_command(self._command, clones)
                if diff:
                    self._print_diff(name, databases, clones)
            if keep:
                kept = ", ".join(f"{each} ({alias})" for alias, each in clones.items())
                self.stdout.write(f"Kept: {kept}. Drop it when you are done: dropdb.")
        if status:
            sys.exit(status)

    def _run_live(self, databases: Sequence[str] | None, *, interactive: bool) -> int:
        with self._reporter() as reporter:
            name = f"before-run-{new_identity()}"
            snapshot = take(name, databases=databases, pin=True, spare=False, reporter=reporter)
        status = run_command(self._command, {})
        self._print_diff(name, snapshot.aliases, None)
        if interactive and sys.stdin.isatty() and self._answer("Keep it? [Y/n] ") in _NO:
            restore(name, databases=snapshot.aliases)
            self.stdout.write("Went back to what was there before; undo brings the changes again.")
        manage.delete(name, force=True)
        return status

    def _print_diff(
        self,
        name: str | None,
        databases: Sequence[str] | None,
        clones: Mapping[str, str] | None,
    ) -> None:
        from ...comparison.diff import diff
        from ..diff_output import print_diff
        from ..output import make_console

        found = diff(name, clones=clones, databases=databases, rows=_ROWS_AFTER_RUN)
        print_diff(make_console(self.stdout, colour=self._colour), found)

    def _list(self, *, everyone: bool, databases: Sequence[str] | None) -> None:
        from ..output import make_console, print_overview

        with allow_here():
            overview = queries.overview(databases=databases, everyone=everyone)
        code = KnownMigrations()
        if self._as_json:
            self._print_json(
                {
                    "snapshots": [
                        snapshot_facts(each, code.drift(each.migrations))
                        for each in overview.snapshots
                    ],
                    "undos": [undo_facts(each) for each in overview.undos],
                    "beside": [asdict(each) for each in overview.beside],
                    "occupied_bytes": overview.occupied_bytes,
                }
            )
        else:
            console = make_console(self.stdout, colour=self._colour)
            print_overview(console, overview, code, everyone=everyone)

    def _show(self, *, name: str) -> None:
        from ..output import make_console, print_snapshot

        with allow_here():
            snapshot = queries.get(name)
        drift = KnownMigrations().drift(snapshot.migrations)
        if self._as_json:
            self._print_json(snapshot_facts(snapshot, drift))
        else:
            print_snapshot(make_console(self.stdout, colour=self._colour), snapshot, drift)

    def _rename(self, *, old: str, new: str) -> None:
        snapshot = manage.rename(old, new)
        self._print_result(f"Renamed {old!r} to {new!r}.", lambda: snapshot_facts(snapshot))

    def _pin(self, *, name: str) -> None:
        snapshot = manage.pin(name)
        self._print_result(f"Pinned {name!r}: pruning leaves it.", lambda: snapshot_facts(snapshot))

    def _unpin(self, *, name: str) -> None:
        snapshot = manage.pin(name, pinned=False)
        self._print_result(
            f"Unpinned {name!r}: it may be pruned.", lambda: snapshot_facts(snapshot)
        )

    def _annotate(self, *, name: str, text: str) -> None:
        snapshot = manage.annotate(name, text)
        self._print_result(f"Noted on {name!r}: {text}", lambda: snapshot_facts(snapshot))

    def _delete(
        self, *, names: Sequence[str], everything: bool, force: bool, interactive: bool
    ) -> None:
        if everything == bool(names):
            raise CommandError("Name snapshots to delete, or give --all.", returncode=_USAGE)
        can_ask = interactive and sys.stdin.isatty() and self.stdout.isatty()
        # A question protects as well as the settings do, which are for what happens unasked.
        with allow_here() if can_ask else nullcontext(), self._reporter() as reporter:
            unwanted = queries.select_snapshots(*(["*"] if everything else names))
            if can_ask and not self._confirm(unwanted):
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
            raise CommandError("Give --keep, --older-than or --max-size.", returncode=_USAGE)
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
                raise CommandError("This drops all snapshots. Give -y to say yes.")
            for each in found:
                about = f" of {printable(each.about)}" if each.about else ""
                self.stdout.write(
                    f"  {each.name}  {each.kind}{about}  {format_size(each.size_bytes)}"
                )
            if self._answer("Drop them for good? [y/N] ") not in _YES:
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
            lambda: [asdict(each) for each in gone],
        )

    def _completion(self, *, shell: str) -> None:
        self.stdout.write(completion_script(shell))

    def _refill(self, *, name: str | None, databases: Sequence[str] | None) -> None:
        with self._reporter() as reporter:
            snapshot = manage.refill(name, databases=databases, reporter=reporter)
        self._print_result(
            f"The spare of {snapshot.name!r} is ready.", lambda: snapshot_facts(snapshot)
        )

    def _doctor(self, *, fix: bool, databases: Sequence[str] | None) -> None:
        from ...doctor.diagnosis import diagnose
        from ..output import summarize_problems, write_diagnosis

        with self._reporter() as reporter:
            diagnosis = diagnose(databases=databases, fix=fix, reporter=reporter)
        if self._as_json:
            self._print_json(diagnosis_facts(diagnosis))
        else:
            with_notes = self._verbosity >= _STEPS
            write_diagnosis(diagnosis, self.stdout.write, with_notes=with_notes)
        if diagnosis.problems:
            raise CommandError(summarize_problems(diagnosis))

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

    def _confirm(self, unwanted: Sequence[Snapshot]) -> bool:
        for each in unwanted:
            pinned = "  (pinned)" if each.pinned else ""
            self.stdout.write(
                f"  {each.name}{pinned}  {format_ago(each.taken_at)}  "
                f"{format_size(each.size_bytes)}  {printable(each.note)}"
            )
        return self._answer("Delete for good? [y/N] ") in _YES

    def _answer(self, question: str) -> str:
        try:
            return input(question).strip().lower()
        except EOFError:
            self.stdout.write("")
            return ""

    def _reporter(self) -> CommandReporter:
        verbosity = 0 if self._as_json else self._verbosity
        return CommandReporter(self, verbosity=verbosity, animated=sys.stderr.isatty())

    def _print_result(self, sentence: str, facts: Callable[[], object]) -> None:
        if self._as_json:
            self._print_json(facts())
        elif self._verbosity:
            self.stdout.write(printable(sentence), self.style.SUCCESS)

    def _print_deleted(self, verb: str, deleted: Sequence[Snapshot]) -> None:
        names = ", ".join(repr(each.name) for each in deleted) or "nothing"
        size = format_size(sum(each.size_bytes for each in deleted))
        self._print_result(
            f"{verb} {names}: {size} less.", lambda: [snapshot_facts(each) for each in deleted]
        )

    def _print_json(self, facts: object) -> None:
        self.stdout.write(json.dumps(facts, indent=2))


def _describe_next_undo(reporter: CommandReporter) -> Iterable[str]:
    from ..output import describe_next_undo

    return describe_next_undo(reporter.overview) if reporter.overview else ()


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
