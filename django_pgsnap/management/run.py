"""Running a management command as a process of its own, on databases of our choice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from django.utils.autoreload import get_child_arguments

from ..conf import RUN_DATABASES

_SIGNALLED = 128
# Windows knows no SIGHUP.
_ENDINGS = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}


def run_command(
    command: Sequence[str], databases: Mapping[str, str], *, stdout: int | None = None
) -> int:
    """Run a management command on these databases, by alias, and return its exit status.

    What it prints goes to our own standard output, or to another descriptor.
    """
    environment = {**os.environ}
    if databases:
        environment[RUN_DATABASES] = json.dumps(dict(databases))
    own_arguments = len(sys.argv) - 1
    program = get_child_arguments()
    program = program[: len(program) - own_arguments]
    with (
        _termination_as_exit(),
        subprocess.Popen(  # noqa: S603  # as given
            [*program, *command], env=environment, stdout=stdout
        ) as process,
    ):
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # A terminal has told the command, too. How it ends is the command's decision.
            if not sys.stdin.isatty():
                process.send_signal(signal.SIGINT)
            status = process.wait()
        except SystemExit:
            process.terminate()
            process.wait()
            raise
    # As shells say it of a command that a signal has ended.
    return status if status >= 0 else _SIGNALLED - status


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Have SIGTERM, and a terminal that is closed, end the block as an exception.

    So what was opened is closed. What is ignored, as by nohup, stays ignored.
    """

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(_SIGNALLED + number)

    before = {each: signal.getsignal(each) for each in _ENDINGS}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(each, leave)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
