"""Operations, one after the other, while clients write; and what there is to say about them."""

import random
import socket
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from subprocess import DEVNULL
from typing import Final

import psycopg

from tests.hammer import POOL_WANTED_IN, clients, table
from tests.hammer.book import Book
from tests.hammer.clients import Client, HttpClient, Probe, PsycopgClient, Visit
from tests.hammer.ledger import Ledger
from tests.ports import free_port
from tests.project import Manage
from tests.servers import Server
from tests.watching import until

# It is restored again and again, so that the databases stay small.
FIRST: Final = "first"
_FIRST_EVERY: Final = 8
_NAMES: Final = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class Done:
    """One operation.

    Attributes:
        kind: take, restore or undo.
        seconds: how long the command took.
        failure: what it said, empty where it went well.
        errors_s: By kind of client, the longest time that it saw nothing but errors.
        wait_s: By kind of client, the longest time that it had to wait.
    """

    kind: str
    seconds: float
    failure: str
    errors_s: dict[str, float]
    wait_s: dict[str, float]


class Campaign:
    """Runs operations under fire, and keeps the book.

    Attributes:
        ledger: What clients did.
        done: The operations so far.
    """

    def __init__(self, server: Server, live: str, manage: Manage, *, seed: int) -> None:
        """Make the tables; nothing is under fire yet.

        Args:
            server: The server.
            live: The live database.
            manage: Runs the commands.
            seed: The same seed gives the same operations.
        """
        self.ledger = Ledger()
        self.done: list[Done] = []
        self._server = server
        self._live = live
        self._manage = manage
        self._random = random.Random(seed)  # noqa: S311  # to be repeated
        self._clients: list[Client] = []
        with self._connect() as connection:
            for statement in table.CREATE:
                connection.execute(statement)
            (oid,) = connection.execute(table.OID).fetchone() or (0,)
        self._book = Book(ledger=self.ledger, live=oid, made_from={oid: frozenset()})

    @contextmanager
    def under_fire(self, *, writers: int, sites: Sequence[str], visitors: int) -> Iterator[None]:
        """Let clients write, and a probe look on.

        Args:
            writers: how many clients use psycopg themselves; half of them keep their connections.
            sites: kinds of Django sites that others write through: "pool", "persistent".
            visitors: how many clients each site has.
        """
        ports = [self._site(kind) for kind in sites]
        self._clients = [
            Probe(self._connect),
            *(
                PsycopgClient(number, self.ledger, self._connect, keeps=number % 2 == 0)
                for number in range(writers)
            ),
            *(
                HttpClient(writers + visitors * index + each, self.ledger, kind, port)
                for index, (kind, port) in enumerate(zip(sites, ports, strict=True))
                for each in range(visitors)
            ),
        ]
        self._introduce(client.number for client in self._clients)
        with ExitStack() as stack:
            for client in self._clients:
                client.start()
                stack.callback(client.stop)
            yield

    def run(self, operations: int) -> None:
        """Run that many operations, each followed by a check of the live database."""
        self._take(FIRST)
        self._restore(FIRST)
        while len(self.done) < operations:
            if len(self.done) % _FIRST_EVERY == 0:
                self._restore(FIRST)
            else:
                self._one_of_many()

    def restore_all(self) -> None:
        """Restore each snapshot that there is, and check it."""
        for name in sorted(self._book.snapshots):
            self._restore(name)

    @property
    def failures(self) -> list[str]:
        """What the commands that failed said."""
        return [f"{done.kind}: {done.failure}" for done in self.done if done.failure]

    @property
    def snapshots(self) -> set[str]:
        """Names of the snapshots that there should be."""
        return set(self._book.snapshots)

    def report(self) -> str:
        """Return the figures."""
        counts = ", ".join(f"{count} {how}" for how, count in self.ledger.counts().items())
        lines = [
            f"{len(self.done)} commands, {len(self.failures)} failed",
            f"{self._book.checked} states checked, {self._book.rows} rows in them",
            f"transactions: {counts}",
            *_table(self.done),
            *_errors(self._clients),
        ]
        return "\n".join([*lines, *self.failures])

    def _one_of_many(self) -> None:
        kind = self._random.choice(("take", "restore", "restore", "undo"))
        if kind == "undo":
            self._undo()
        elif kind == "take":
            self._take(self._random.choice(_NAMES))
        else:
            self._restore(self._random.choice(sorted(self._book.snapshots)))

    def _take(self, name: str) -> None:
        began = time.monotonic()
        if self._command("take", name, "--replace"):
            self._book.took(name, began, time.monotonic())
        self._check()

    def _restore(self, name: str) -> None:
        if self._command("restore", name):
            _, oid, tokens = self._read()
            self._book.restored(name, oid, tokens)
        self._check()

    def _undo(self) -> None:
        if self._command("undo"):
            _, oid, _ = self._read()
            self._book.undone(oid)
        self._check()

    def _command(self, *arguments: str) -> bool:
        began = time.monotonic()
        ended = self._manage("pgsnap", *arguments)
        visits = {client: client.since(began) for client in self._clients}
        self.done.append(
            Done(
                kind=arguments[0],
                seconds=time.monotonic() - began,
                failure="" if ended.returncode == 0 else ended.stderr,
                errors_s=_by_kind(visits, clients.out_of_order_s),
                wait_s=_by_kind(visits, clients.longest_wait_s),
            )
        )
        return ended.returncode == 0

    def _check(self) -> None:
        began, oid, tokens = self._read()
        self._book.check(began, oid, tokens)

    def _read(self) -> tuple[float, int, frozenset[int]]:
        began = time.monotonic()
        with self._connect() as connection:
            return (began, *table.read(connection.cursor()))

    def _connect(self) -> psycopg.Connection:
        return self._server.connect(self._live)

    def _introduce(self, numbers: Iterable[int]) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.executemany(table.NEW_CLIENT, [[number] for number in numbers])

    def _site(self, kind: str) -> int:
        """Start a real runserver, and return its port once it answers."""
        port = free_port()
        environment = {"DJANGO_SETTINGS_MODULE": "tests.hammer.settings"}
        if kind == "pool":
            environment[POOL_WANTED_IN] = "1"
        self._manage.start(
            *("runserver", "--noreload", "--verbosity", "0", f"127.0.0.1:{port}"),
            env=environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        until(lambda: _answers(port))
        return port


def _answers(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port))):
            return True
    except ConnectionRefusedError:
        return False


def _by_kind(
    visits: dict[Client, list[Visit]], figure: Callable[[list[Visit]], float]
) -> dict[str, float]:
    """Return a figure for each kind of client: the worst of those of that kind."""
    worst: dict[str, float] = {}
    for client, seen in visits.items():
        worst[client.kind] = max(worst.get(client.kind, 0.0), figure(seen))
    return worst


def _table(done: Sequence[Done]) -> Iterator[str]:
    """Return a line for each kind of operation and of client."""
    yield "operation  client               saw only errors      waited  (median / max, ms)"
    for operation in ("take", "restore", "undo"):
        of_kind = [each for each in done if each.kind == operation]
        if not of_kind:
            continue
        whole = _figures([each.seconds for each in of_kind])
        yield f"{operation:<11}{len(of_kind)} commands, each took {whole}"
        for client in of_kind[0].errors_s:
            errors = _figures([each.errors_s[client] for each in of_kind])
            wait = _figures([each.wait_s[client] for each in of_kind])
            yield f"{'':11}{client:<20}{errors:>16}{wait:>14}"


def _figures(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} / {max(seconds) * 1000:.0f}"


def _errors(all_clients: Sequence[Client]) -> Iterator[str]:
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for client in all_clients:
        totals[client.kind] += client.errors()
    for kind, errors in totals.items():
        counts = ", ".join(f"{count} x {error}" for error, count in errors.most_common())
        yield f"errors of {kind}: {counts or 'none'}"
