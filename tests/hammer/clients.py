"""The hammer's clients: they write in tight loops and come back whenever they are thrown out."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from tests.hammer import table
from tests.hammer.ledger import Ledger

Connect = Callable[[], psycopg.Connection]

# Without any pause a client in the same process keeps the others from running at all.
_BREATH_S: Final = 0.005
_TIMEOUT_S: Final = 30


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One turn of a client; ``error`` is empty where it went well."""

    began: float
    ended: float
    error: str


class Client(threading.Thread):
    """Takes its turn again and again until it is told to stop."""

    # What the figures call clients like this.
    kind: str

    def __init__(self, number: int) -> None:
        """Prepare a client that has yet to start."""
        super().__init__(daemon=True, name=f"client {number}")
        self.number = number
        self._visits: list[Visit] = []
        self._crash: BaseException | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Take turns."""
        try:
            while not self._stopping.wait(_BREATH_S):
                began = time.monotonic()
                error = self.turn()
                self._visits.append(Visit(began=began, ended=time.monotonic(), error=error))
        except BaseException as error:  # noqa: BLE001  # for who stops it
            self._crash = error
        finally:
            self.leave()

    def stop(self) -> None:
        """Stop after this turn, and raise what nobody expected of it."""
        self._stopping.set()
        self.join(2 * _TIMEOUT_S)
        if self._crash:
            raise self._crash

    def turn(self) -> str:
        """Try once, and return what went wrong."""
        raise NotImplementedError

    def leave(self) -> None:
        """Close what is open."""

    def since(self, moment: float) -> list[Visit]:
        """Return the turns that ended after a moment, oldest first."""
        recent = []
        for visit in reversed(self._visits):
            if visit.ended < moment:
                break
            recent.append(visit)
        return recent[::-1]

    def errors(self) -> Counter[str]:
        """Return how often which error was seen."""
        return Counter(visit.error for visit in self._visits if visit.error)


class Probe(Client):
    """Connects and asks, to see how long that fails or takes."""

    kind = "connect and ask"

    def __init__(self, connect: Connect) -> None:
        """Prepare."""
        super().__init__(-1)
        self._connect = connect

    def turn(self) -> str:
        """Connect, and ask for nothing."""
        try:
            with self._connect() as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return _described(error)
        return ""


class PsycopgClient(Client):
    """Writes over a connection that it keeps, or over a new one for each transaction."""

    def __init__(self, number: int, ledger: Ledger, connect: Connect, *, keeps: bool) -> None:
        """Prepare.

        Args:
            number: its own.
            ledger: where to note what it does.
            connect: opens a connection to the live database.
            keeps: whether to use a connection until it breaks.
        """
        super().__init__(number)
        self.kind = "psycopg, kept" if keeps else "psycopg, anew"
        self._ledger = ledger
        self._connect = connect
        self._keeps = keeps
        self._connection: psycopg.Connection | None = None
        self._oid = 0

    def turn(self) -> str:
        """Try one transaction."""
        token = self._ledger.begin()
        committing = False
        try:
            cursor = self._cursor()
            cursor.execute("BEGIN")
            table.write(cursor, self.number, token)
            committing = True
            cursor.execute("COMMIT")
        except psycopg.Error as error:
            (self._ledger.lose if committing else self._ledger.refuse)(token)
            self.leave()
            return _described(error)
        self._ledger.acknowledge(token, self._oid)
        if not self._keeps:
            self.leave()
        return ""

    def leave(self) -> None:
        """Close the connection, if there is one."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _cursor(self) -> psycopg.Cursor:
        if self._connection is None:
            self._connection = self._connect()
            self._oid = self._connection.execute(table.OID).fetchone()[0]  # type: ignore[index]
        return self._connection.cursor()


class HttpClient(Client):
    """Has a Django view write, over a connection that is kept as browsers do."""

    def __init__(self, number: int, ledger: Ledger, site: str, port: int) -> None:
        """Prepare.

        Args:
            number: its own.
            ledger: where to note what it does.
            site: what kind of site it is.
            port: the site's on this machine.
        """
        super().__init__(number)
        self.kind = f"Django, {site}"
        self._ledger = ledger
        self._site = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def turn(self) -> str:
        """Send one request; when it fails nobody knows whether it wrote."""
        token = self._ledger.begin()
        try:
            self._site.request("POST", f"/write/{self.number}/{token}")
            response = self._site.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._ledger.lose(token)
            self.leave()
            return type(error).__name__
        if response.status != http.HTTPStatus.OK:
            self._ledger.lose(token)
            return f"HTTP {response.status}"
        self._ledger.acknowledge(token, json.loads(body)["oid"])
        return ""

    def leave(self) -> None:
        """Close the connection."""
        self._site.close()


def out_of_order_s(visits: Sequence[Visit]) -> float:
    """Return the longest time during which a client saw nothing but errors, in seconds."""
    longest = 0.0
    failing_since: float | None = None
    for visit in visits:
        if visit.error and failing_since is None:
            failing_since = visit.began
        if failing_since is not None:
            longest = max(longest, visit.ended - failing_since)
        if not visit.error:
            failing_since = None
    return longest


def longest_wait_s(visits: Sequence[Visit]) -> float:
    """Return the longest time that a client waited before it got what it wanted, in seconds."""
    return max((visit.ended - visit.began for visit in visits if not visit.error), default=0.0)


def _described(error: psycopg.Error) -> str:
    if error.sqlstate:
        return error.sqlstate
    if "does not exist" in str(error):  # libpq gives no code where it could not connect
        return "renamed just now"
    return "connection lost"
