"""Progress on a terminal; a pipe gets plain lines or nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from django.core.management.base import BaseCommand

from ..formatting import printable
from ..reporting import Reporter
from ..snapshots.queries import Overview

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A step that takes less needs no progress bar, nor the time that it takes to import one.
_SHOW_AFTER_S: Final = 0.3


class CommandReporter(Reporter):
    """Shows what an operation does, on the streams of the command that runs it.

    Attributes:
        overview: What there is when the operation has ended; None if that could not be seen.
    """

    def __init__(self, command: BaseCommand, *, verbosity: int, animated: bool) -> None:
        """Show nothing yet.

        Args:
            command: Its streams and colours are used.
            verbosity: 0 for warnings only, 1 for notes too, 2 for steps too.
            animated: Whether a person is watching a terminal that can redraw a line.
        """
        self._command = command
        self._verbosity = verbosity
        self._animated = animated and verbosity > 0
        self._step = ""
        self._step_began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self.overview: Overview | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()

    def step(self, message: str) -> None:
        """Say what begins: in the progress bar, or at verbosity 2 as a line."""
        self._stop_bar()
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
        if self._bar is None:
            self._start_bar(total_bytes if done_bytes is not None else None)
        if self._bar is not None and self._task is not None:
            # Until the server has synced its files the copy is not there, however large they are.
            done = None if done_bytes is None else min(done_bytes, total_bytes * 0.99)
            self._bar.update(self._task, completed=done)

    def note(self, message: str) -> None:
        """Say a fact."""
        self._stop_bar()
        if self._verbosity > 0:
            self._command.stderr.write(printable(message), str)

    def warn(self, message: str) -> None:
        """Say what did not work all the way."""
        self._stop_bar()
        text = "\n".join(map(printable, message.splitlines()))
        self._command.stderr.write(f"Warning: {text}", self._command.style.WARNING)

    def finished(self, overview: object) -> None:
        """Keep what there is for whoever tells the result."""
        if isinstance(overview, Overview):
            self.overview = overview

    def _start_bar(self, total_bytes: int | None) -> None:
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
        self._task = self._bar.add_task(self._step, total=total_bytes)
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
