"""The sweeper: cases, each one command struck at one point in one way, on a server of its own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from django.core.management.base import CommandError

from django_pgsnap.errors import PgsnapError
from tests.servers import Server
from tests.sweep import verdict
from tests.sweep.commands import COMMANDS, Command
from tests.sweep.forks import Ended, in_child
from tests.sweep.points import WAYS, Point, Strike, Trap, backend_ender
from tests.sweep.world import State, World, enter


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, and how it is struck."""

    command: str
    strike: Strike

    def __str__(self) -> str:
        return f"{self.command}: {self.strike.way} {self.strike.point}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a case.

    Attributes:
        case: which one.
        reached: whether the command came to the point; loops may end sooner than once seen.
        problems: what was wrong afterwards; empty where all promises were kept.
    """

    case: Case
    reached: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a child reports of the command that it ran."""

    points: list[Point]
    struck: bool
    surprise: str


class Sweeper:
    """Runs cases on one server."""

    def __init__(self, server: Server) -> None:
        """Prepare a server that was just started."""
        self._server = server
        self._world = World(server)

    def cases(self, name: str) -> list[Case]:
        """Return all cases of a command, by running it once without a strike."""
        command = COMMANDS[name]
        self._build(command)
        ended = self._run(command, None)
        if ended.error or ended.value.surprise:
            raise RuntimeError(f"{name} fails by itself: {ended.error or ended.value.surprise}")
        points: Sequence[Point] = list(dict.fromkeys(ended.value.points))
        return [
            Case(command=name, strike=Strike(point=point, way=way))
            for point in points
            for way in WAYS
            if not (way == "terminate" and point.statement == "open")
        ]

    def run(self, case: Case) -> Result:
        """Run one case in a new world."""
        command = COMMANDS[case.command]
        log_before = self._server.log_size_bytes
        before = self._build(command)
        ended = self._run(command, case.strike)
        outcomes = [before, *command.outcomes(before)]
        # Whoever lives on puts things right; whoever is dead cannot.
        if case.strike.way == "kill":
            outcomes += command.between(before)
        # Any fixed choice will do, as long as both follow on every kind of strike.
        take_first = len(str(case)) % 2 == 0
        judged = in_child(lambda: self._judge(command, outcomes, take_first=take_first))
        crashes = list(_crashes(self._server.read_log(log_before)))
        if crashes:
            self._world.forget()
        return Result(
            case=case,
            reached=ended.killed or bool(ended.value and ended.value.struck),
            problems=(*_failures(ended), *(judged.value or ()), *_failures(judged), *crashes),
        )

    def _build(self, command: Command) -> State:
        return self._world.build(command.aliases, spare=command.had_spare, written=command.written)

    def _run(self, command: Command, strike: Strike | None) -> Ended:
        return in_child(lambda: self._act(command, strike))

    def _enter(self, command: Command) -> None:
        enter(
            self._server,
            command.aliases,
            spare=command.spare,
            two_servers=command.two_servers,
        )

    def _act(self, command: Command, strike: Strike | None) -> _Run:
        """Run a command, in the child."""
        self._enter(command)
        # What a struck command says to the terminal is another test's subject.
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            trap = Trap(strike, backend_ender(self._server.parameters()))
            trap.set()
            surprise = ""
            try:
                command.run(self._server)
            except (CommandError, PgsnapError, KeyboardInterrupt) as error:
                surprise = "" if strike else str(error)
            except Exception as error:  # noqa: BLE001  # it is reported, with the case
                surprise = f"{type(error).__name__}: {error}"
            return _Run(points=trap.points, struck=trap.struck, surprise=surprise)

    def _judge(self, command: Command, outcomes: Sequence[State], *, take_first: bool) -> list[str]:
        self._enter(command)
        return verdict.problems(self._server, command.aliases, outcomes, take_first=take_first)


def _crashes(log: str) -> Iterator[str]:
    """Say why the server crashed: nothing that a command does, or suffers, may bring it down."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if "PANIC" in line or "was terminated by signal" in line:
            yield "\n".join(["the server crashed:", *lines[max(0, number - 9) : number + 1]])


def _failures(ended: Ended) -> Iterator[str]:
    if ended.error:
        yield ended.error
    if isinstance(ended.value, _Run) and ended.value.surprise:
        yield f"the struck command raised {ended.value.surprise}"
