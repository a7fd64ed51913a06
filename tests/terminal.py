"""A pseudo-terminal, to see what a person sees."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.project import Manage
from tests.watching import until

PATIENCE_S = 60

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command that runs on a terminal of its own.

    Attributes:
        written: all that it has written so far, escape sequences included.
        child: the process.
    """

    def __init__(self, child: subprocess.Popen[str], master: int) -> None:
        """Watch a command that has the other end of the terminal."""
        self.child = child
        self.written = ""
        self._master = master

    def expect(self, text: str) -> None:
        """Read until a text appears."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.text:
            assert self._read(deadline), f"{text!r} did not appear in {self.written!r}"

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, which tells all processes that the terminal has in front.

        Python overlooks it between writing a question and reading the answer, so whoever is asked
        has to wait for the answer first.
        """
        state = Path(f"/proc/{self.child.pid}/stat")
        until(lambda: not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "S")
        os.killpg(self.child.pid, signal.SIGINT)

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.child.wait(PATIENCE_S)

    @property
    def text(self) -> str:
        """What was written, without escape sequences."""
        return ESCAPE.sub("", self.written).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """The lines that were written, without the blanks that fill them up."""
        return [line.rstrip() for line in self.text.splitlines()]

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more came after {self.written!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that nobody is at the other end any more
            return False
        self.written += data.decode()
        return bool(data)


@contextmanager
def on_terminal(
    manage: Manage, *arguments: str, columns: int = 80, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Start a command on a terminal of so many columns, in colour unless *env* says otherwise."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        child = manage.start(
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            process_group=0,
            env={"TERM": "xterm-256color", **(env or {})},
        )
        os.close(slave)
        yield Terminal(child, master)
    finally:
        os.close(master)
