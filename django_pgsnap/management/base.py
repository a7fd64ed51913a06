"""What all subcommands share: options, output, progress, questions, and how they end."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from io import StringIO, TextIOWrapper
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from django.core.checks import run_checks
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    OutputWrapper,
    no_translations,
)
from django.core.management.color import no_style

from ..conf import CHECKS_TAG
from ..errors import PgsnapError
from ..messages import printable
from ..reporting import Reporter
from ..snapshots.queries import Overview
from .arguments import GENERAL, SUBCOMMANDS
from .completion import NAMES_DIRECTORY, remember_names
from .facts import to_plain

if TYPE_CHECKING:
    from rich.progress import Progress

    from .output import Output

Result = TypeVar("Result")

_USAGE: Final = 2
_INTERRUPTED: Final = 130
# A step that takes less needs no progress bar, nor the time that it takes to import one.
_SHOW_AFTER_S: Final = 0.3


class UsageError(PgsnapError):
    """A command line that makes no sense."""


class _Stream(OutputWrapper):
    """One of the standard streams. That nobody reads on is no reason to stop in the middle."""

    error: OSError | None = None

    @classmethod
    def of(cls, wrapper: OutputWrapper) -> Self:
        """Return what writes to the same stream in the same style."""
        out: Any = wrapper._out  # noqa: SLF001  # styles are put around once
        stream = cls(out)
        stream.style_func = wrapper.style_func
        return stream

    def write(self, *text: Any) -> None:  # type: ignore[override]  # as Django's, all optional
        self._try(super().write, *text)

    def flush(self) -> None:
        self._try(super().flush)

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise self.error

    def _try(self, work: Callable[..., object], *text: Any) -> None:
        try:
            work(*text)
        except OSError as error:
            self.error = error
            # What is left goes nowhere. Python would complain of it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


class SubcommandsBase(BaseCommand):
    """Runs one subcommand, and is the only place that turns errors into messages."""

    # Checks of other apps are no reason not to give somebody their data back.
    requires_system_checks = [CHECKS_TAG]
    stdout: _Stream
    _as_json = False

    def __init__(self, *streams: Any, **options: Any) -> None:
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is None:  # whoever started us has closed it
                setattr(sys, name, StringIO())
        super().__init__(*streams, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        self._tell_mistakes_of(parser)
        subparsers = parser.add_subparsers(
            dest="subcommand", required=True, metavar="COMMAND", parser_class=_Subparser
        )
        for name, subcommand in SUBCOMMANDS.items():
            subparser = subparsers.add_parser(
                name,
                aliases=subcommand.aliases,
                help=subcommand.summary,
                description=subcommand.description,
            )
            self._tell_mistakes_of(subparser)
            # An alias is another word for the subcommand, not another subcommand.
            subparser.set_defaults(subcommand=name)
            subparser.takes_command = name == "run"
            general = subparser.add_argument_group("general options")
            for group, arguments in ((subparser, subcommand.arguments), (general, GENERAL)):
                for argument in arguments:
                    group.add_argument(*argument.flags, **argument.settings)

    def _tell_mistakes_of(self, parser: CommandParser) -> None:
        """Have what a parser does not understand told as JSON, too, where that is asked for."""
        tell = parser.error

        def error(message: str) -> None:
            self._print_error("UsageError", message)
            tell(message)

        parser.error = error  # type: ignore[method-assign]

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command line; what follows ``--`` is another command's."""
        self._as_json = "--json" in takewhile("--".__ne__, argv)
        super().run_from_argv(argv)

    def check(self, *arguments: Any, **options: Any) -> None:
        """Stop at errors. Warnings are shown by ``manage.py check``, and not each time again."""
        if any(message.is_serious() for message in run_checks(tags=[CHECKS_TAG])):
            super().check(*arguments, **options)

    @no_translations  # sizes and ages are parts of English sentences here
    def handle(self, *_: Any, subcommand: str, **options: Any) -> None:
        """Run a subcommand: the method of its name, with its own options as keywords."""
        self._verbosity: int = options["verbosity"]
        self._as_json = options["as_json"]
        self._command: Sequence[str] = options["command"]
        self._reporter = CommandReporter(self, 0 if self._as_json else self._verbosity)
        self._open_output(colour=not (options["no_color"] or os.environ.get("NO_COLOR")))
        wanted = {argument.destination for argument in SUBCOMMANDS[subcommand].arguments}
        try:
            getattr(self, f"_{subcommand}")(**{name: options[name] for name in wanted})
            if NAMES_DIRECTORY in os.environ:
                remember_names(os.environ[NAMES_DIRECTORY])
            self.stdout.flush()
            self.stdout.check()
        except PgsnapError as error:
            self._print_error(type(error).__name__, error.message, error.hint)
            status = _USAGE if isinstance(error, UsageError) else 1
            raise CommandError(_printable_lines(str(error)), returncode=status) from error
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Nothing is left half done; see ./manage.py pgsnap list.",
                returncode=_INTERRUPTED,
            ) from None
        except OSError as error:
            if error is not self.stdout.error:
                raise
            # Whoever goes away, as head does, has seen enough.
            if not isinstance(error, BrokenPipeError):
                raise CommandError(
                    f"This cannot be printed: {error.strerror}. See ./manage.py pgsnap status."
                ) from error
        finally:
            self._reporter.close()
            self.stdout.flush()

    def _open_output(self, *, colour: bool) -> None:
        self._colour = colour
        if not colour:
            self.style = no_style()
        self.stdout, self.stderr = _Stream.of(self.stdout), _Stream.of(self.stderr)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                # A note may hold what the output's encoding does not.
                stream.reconfigure(errors="backslashreplace")

    def _tell_more(self, sentences: Iterable[str]) -> None:
        if self._verbosity > 0 and not self._as_json:
            self._print_sentences(sentences)

    def _print_sentences(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.stdout.write(printable(sentence))

    def _say(self, text: str) -> None:
        """Print what is no JSON, which goes beside it."""
        (self.stderr if self._as_json else self.stdout).write(text, str)

    def _answer(self, question: str) -> str:
        try:
            return input(question).strip().lower()
        except EOFError:
            self.stdout.write("")
            return ""

    def _perform(self, verb: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Call a function that reports what it does, and show how far it is."""
        with closing(self._reporter):
            return verb(*arguments, reporter=self._reporter, **options)

    @property
    def _output(self) -> "Output":
        from .output import Output  # rich takes its time

        return Output(self.stdout, colour=self._colour)

    def _print_found(self, facts: object, print_text: "Callable[[Output], None]") -> None:
        if self._as_json:
            self._print_json(facts)
        else:
            print_text(self._output)

    def _print_result(self, sentence: str, facts: object, **more: object) -> None:
        if self._as_json:
            self._print_json({**to_plain(facts), **more} if more else facts)
        elif self._verbosity:
            self.stdout.write(printable(sentence), self.style.SUCCESS)

    def _print_error(self, kind: str, message: str, hint: str = "") -> None:
        """Print an error as JSON if so wanted: on one line, as it may follow those of a diff."""
        if self._as_json:
            error = {"kind": kind, "message": message, "hint": hint}
            self._print_json({"error": error}, indent=None)

    def _print_json(self, facts: object, indent: int | None = 2) -> None:
        self.stdout.write(json.dumps(facts, indent=indent, default=to_plain))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


class CommandReporter(Reporter):
    """Shows what an operation does, on the streams of the command that runs it.

    Warnings at verbosity 0, notes too at 1, steps too at 2; a progress bar where a person is
    watching a terminal that can redraw a line.
    """

    def __init__(self, command: BaseCommand, verbosity: int) -> None:
        self._command, self._verbosity = command, verbosity
        self._animated = verbosity > 0 and sys.stderr.isatty()
        self._step = ""
        self._step_began = time.monotonic()
        self._bar: Progress | None = None
        # What there is when the operation has ended; None if that could not be seen.
        self.overview: Overview | None = None

    def step(self, message: str) -> None:
        self.close()
        self._step_began = time.monotonic()
        step, self._step = self._step, printable(message)
        if self._verbosity > 1 and self._step != step:
            self._command.stderr.write(f"{self._step} …", str)

    def wait(self, message: str) -> None:
        """Show at once who is waited for: the person who watches may be able to end that."""
        self.step(message)
        if self._animated:
            self._start_bar(None)

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        """Move the progress bar, once the step has taken long enough to deserve one."""
        if not self._animated or time.monotonic() - self._step_began < _SHOW_AFTER_S:
            return
        bar = self._bar or self._start_bar(total_bytes if done_bytes is not None else None)
        # Until the server has synced its files the copy is not there, however large they are.
        done = None if done_bytes is None else min(done_bytes, total_bytes * 0.99)
        bar.update(bar.task_ids[0], completed=done)

    def note(self, message: str) -> None:
        self.close()
        if self._verbosity > 0:
            self._command.stderr.write(printable(message), str)

    def warn(self, message: str) -> None:
        self.close()
        text = f"Warning: {_printable_lines(message)}"
        self._command.stderr.write(text, self._command.style.WARNING)

    def finished(self, overview: Overview) -> None:
        self.overview = overview

    def _start_bar(self, total_bytes: int | None) -> "Progress":
        from rich import progress
        from rich.console import Console

        columns: list[progress.ProgressColumn] = [
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
        ]
        if total_bytes is not None:
            columns += [progress.BarColumn(), progress.DownloadColumn()]
        columns.append(progress.TimeElapsedColumn())
        self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task(self._step, total=total_bytes)
        self._bar.start()
        return self._bar

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Subparser(CommandParser):
    """A parser that can leave what follows ``--`` to the command that is named there."""

    takes_command = False

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for other namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what stands before ``--``, and keep the rest as ``command``."""
        given = list(args or ())
        end = given.index("--") if self.takes_command and "--" in given else len(given)
        parsed, unknown = super().parse_known_args(given[:end], namespace)
        if unknown:  # with the usage of the subcommand, and not of them all
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        parsed.command = given[end + 1 :]
        return parsed, unknown
