"""What all subcommands share: options, output, questions, and how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from django.core.checks import run_checks
from django.core.management.base import BaseCommand, CommandError, CommandParser, no_translations
from django.core.management.color import no_style

from ..conf import CHECKS_TAG
from ..errors import PgsnapError
from ..formatting import printable
from .arguments import SUBCOMMANDS, add_subcommands
from .completion import NAMES_DIRECTORY, remember_names
from .facts import error_facts
from .progress import CommandReporter

if TYPE_CHECKING:
    from rich.console import Console

_USAGE = 2
_INTERRUPTED = 130


class SubcommandsBase(BaseCommand):
    """Runs one subcommand, and is the only place that turns errors into messages."""

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

    def _refusal(self, text: str, *, status: int = _USAGE) -> CommandError:
        """Return the error for a command line that makes no sense, told as JSON where asked."""
        if self._as_json:
            self._print_json({"error": {"kind": "UsageError", "message": text, "hint": ""}})
        return CommandError(text, returncode=status)

    @property
    def _tells_more(self) -> bool:
        return self._verbosity > 0 and not self._as_json

    def _print_sentences(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.stdout.write(printable(sentence))

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

    def _print_facts(self, facts: Callable[[], object], show: Callable[[Console], object]) -> None:
        if self._as_json:
            self._print_json(facts())
        else:
            show(self._console())

    def _console(self) -> Console:
        from .output import make_console  # rich takes its time

        return make_console(self.stdout, colour=self._colour)

    def _print_json(self, facts: object) -> None:
        self.stdout.write(json.dumps(facts, indent=2))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
