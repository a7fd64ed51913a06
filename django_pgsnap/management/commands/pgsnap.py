"""The management command ``pgsnap``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from django.core.management import call_command
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    no_translations,
)
from django.core.management.color import no_style

from ... import formatting
from ...clones.records import Strategy
from ...conf import CHECKS_TAG
from ...errors import PgsnapError
from ...formatting import format_ago, format_seconds, format_size
from ...snapshots import manage, queries, refill
from ...snapshots import restore as restoring
from ...snapshots import undo as undoing
from ...snapshots.take import take
from ...snapshots.types import Snapshot
from .. import arguments
from ..output import of_snapshot, of_undo
from ..progress import CommandReporter

_INTERRUPTED = 130


class Command(BaseCommand):
    """Runs one subcommand, and is the only place that turns errors into messages."""

    help = "Takes snapshots of the project's PostgreSQL databases, and restores them."
    # Checks of other apps are no reason not to give somebody their data back.
    requires_system_checks = [CHECKS_TAG]

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        arguments.add(parser)

    @no_translations  # sizes and ages are parts of English sentences here
    def handle(self, *_: Any, subcommand: str, **options: Any) -> None:
        """Run a subcommand."""
        self._verbosity: int = options["verbosity"]
        self._as_json: bool = options["as_json"]
        self._colour = not (options["no_color"] or os.environ.get("NO_COLOR"))
        if not self._colour:
            self.style = no_style()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                # A note may hold what the output's encoding does not.
                stream.reconfigure(errors="backslashreplace")
        try:
            getattr(self, f"_{subcommand}")(**options)
            self.stdout.flush()
        except PgsnapError as error:
            raise CommandError(self._lines(str(error))) from error
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Nothing is left half done; pgsnap list shows what there is.",
                returncode=_INTERRUPTED,
            ) from None
        except BrokenPipeError:
            # Who reads our output has seen enough. Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _take(
        self,
        *,
        name: str | None,
        note: str,
        replace: bool,
        pin: bool,
        spare: bool,
        strategy: Strategy | None,
        **options: Any,
    ) -> None:
        with self._reporter() as reporter:
            snapshot = take(
                name,
                note=note,
                replace=replace,
                pin=pin,
                spare=spare,
                strategy=strategy,
                reporter=reporter,
                **_common(options),
            )
        self._say(
            f"Took {snapshot.name!r}: {format_size(snapshot.size_bytes)} of "
            f"{_aliases(snapshot)} in {format_seconds(snapshot.seconds)}.",
            of_snapshot(snapshot),
        )
        if self._verbosity and not self._as_json:
            occupied = format_size(queries.overview().occupied_bytes)
            self.stdout.write(f"Copies, spares and undo now occupy {occupied}.")

    def _restore(
        self, *, name: str | None, undo: bool | None, migrate: bool, **options: Any
    ) -> None:
        began = time.monotonic()
        with self._reporter() as reporter:
            snapshot = restoring.restore(name, undo=undo, reporter=reporter, **_common(options))
        self._say(
            f"Restored {snapshot.name!r} of {format_ago(snapshot.taken_at)} to "
            f"{_aliases(snapshot)} in {format_seconds(time.monotonic() - began)}.",
            of_snapshot(snapshot),
        )
        if migrate:
            for alias in snapshot.aliases:
                call_command(
                    "migrate",
                    database=alias,
                    interactive=False,
                    verbosity=0 if self._as_json else self._verbosity,
                    no_color=not self._colour,
                    stdout=options.get("stdout"),
                    stderr=options.get("stderr"),
                )

    def _undo(self, **options: Any) -> None:
        with self._reporter() as reporter:
            undone = undoing.undo(reporter=reporter, **_common(options))
        self._say(
            f"Swapped back what was live until {format_ago(undone.taken_at)} "
            f"(restore of {undone.name!r}). Run undo again to redo.",
            of_undo(undone),
        )

    def _list(self, *, everyone: bool, databases: Sequence[str] | None, **_: Any) -> None:
        from ...migration_drift import KnownMigrations
        from .. import output
        from ..output import show_overview

        overview = queries.overview(databases=databases, everyone=everyone)
        code = KnownMigrations()
        if self._as_json:
            self._print_json(
                {
                    "snapshots": [
                        of_snapshot(each, code.drift(each.migrations))
                        for each in overview.snapshots
                    ],
                    "undos": [of_undo(each) for each in overview.undos],
                    "occupied_bytes": overview.occupied_bytes,
                }
            )
        else:
            show_overview(
                output.console(self.stdout, colour=self._colour), overview, code, everyone=everyone
            )

    def _show(self, *, name: str, **_: Any) -> None:
        from ...migration_drift import KnownMigrations
        from .. import output
        from ..output import show_snapshot

        snapshot = queries.get(name)
        drift = KnownMigrations().drift(snapshot.migrations)
        if self._as_json:
            self._print_json(of_snapshot(snapshot, drift))
        else:
            show_snapshot(output.console(self.stdout, colour=self._colour), snapshot, drift)

    def _rename(self, *, old: str, new: str, **_: Any) -> None:
        snapshot = manage.rename(old, new)
        self._say(f"Renamed {old!r} to {new!r}.", of_snapshot(snapshot))

    def _pin(self, *, name: str, **_: Any) -> None:
        snapshot = manage.pin(name)
        self._say(f"Pinned {name!r}: pruning leaves it.", of_snapshot(snapshot))

    def _unpin(self, *, name: str, **_: Any) -> None:
        snapshot = manage.pin(name, pinned=False)
        self._say(f"Unpinned {name!r}: it may be pruned.", of_snapshot(snapshot))

    def _delete(self, *, names: Sequence[str], interactive: bool, **_: Any) -> None:
        if interactive and sys.stdin.isatty() and self.stdout.isatty():
            doomed = [queries.get(name) for name in dict.fromkeys(names)]
            if not self._agreed(doomed):
                raise CommandError("Nothing deleted.")
        with self._reporter() as reporter:
            gone = manage.delete(*names, reporter=reporter)
        size = format_size(sum(each.size_bytes for each in gone))
        self._say(
            f"Deleted {', '.join(repr(each.name) for each in gone)}: {size} less.",
            [of_snapshot(each) for each in gone],
        )

    def _refill(self, *, name: str | None, databases: Sequence[str] | None, **_: Any) -> None:
        with self._reporter() as reporter:
            snapshot = refill.refill(name, databases=databases, reporter=reporter)
        self._say(f"The spare of {snapshot.name!r} is ready.", of_snapshot(snapshot))

    def _doctor(self, *, fix: bool, databases: Sequence[str] | None, **_: Any) -> None:
        from ...doctor.diagnosis import diagnose
        from .. import output as shown

        with self._reporter() as reporter:
            diagnosis = diagnose(databases=databases, fix=fix, reporter=reporter)
        if self._as_json:
            self._print_json(shown.facts(diagnosis))
        else:
            shown.show(diagnosis, self.stdout.write)
        if diagnosis.problems:
            raise CommandError(shown.summary(diagnosis))

    def _agreed(self, doomed: Sequence[Snapshot]) -> bool:
        for each in doomed:
            self.stdout.write(
                f"  {each.name}  {format_ago(each.taken_at)}  {format_size(each.size_bytes)}  "
                f"{formatting.printable(each.note)}"
            )
        try:
            answer = input("Delete for good? [y/N] ")
        except EOFError:
            self.stdout.write("")
            return False
        return answer.strip().lower() in ("y", "yes")

    def _reporter(self) -> CommandReporter:
        return CommandReporter(
            self, verbosity=0 if self._as_json else self._verbosity, animated=sys.stderr.isatty()
        )

    def _say(self, sentence: str, data: object) -> None:
        if self._as_json:
            self._print_json(data)
        elif self._verbosity:
            self.stdout.write(formatting.printable(sentence), self.style.SUCCESS)

    def _print_json(self, data: object) -> None:
        self.stdout.write(json.dumps(data, indent=2))

    @staticmethod
    def _lines(text: str) -> str:
        return "\n".join(map(formatting.printable, text.splitlines()))


def _common(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("databases", "wait_s", "force")}


def _aliases(snapshot: Snapshot) -> str:
    return ", ".join(snapshot.aliases)
