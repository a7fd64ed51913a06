"""Two databases that one client writes in lock-step are equal in every snapshot of both."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.servers import SUPERUSER, Server
from tests.watching import Background, until

SNAPSHOTS = 6


Pair = tuple[tuple[str, str], ...]


@pytest.fixture(params=["one role", "a role each"])
def pair(
    make_live: MakeLive, role: MakeRole, server: Server, request: pytest.FixtureRequest
) -> Pair:
    """Two live databases of one server with their roles, each with a table of steps."""
    is_one = request.param == "one role"
    found = []
    for alias in ("default", "other"):
        user = SUPERUSER if is_one else role(alias)
        live = make_live(alias, user=user)
        with server.connect(live, user) as connection:
            connection.execute("CREATE TABLE step (n int PRIMARY KEY)")
        found.append((live, user))
    return tuple(found)


@dataclass(frozen=True)
class Client:
    """What the client did: steps in both databases, and those of which it does not know."""

    done: list[int] = field(default_factory=list)
    torn: set[int] = field(default_factory=set)

    def equal(self, contents: list[list[int]]) -> bool:
        """Tell whether two databases hold the same steps, as far as it knows."""
        first, second = (set(each) - self.torn for each in contents)
        return first == second

    def goes_on(self) -> None:
        """Wait until it has done another step."""
        before = len(self.done)
        until(lambda: len(self.done) > before)


@contextmanager
def in_lock_step(server: Server, pair: Pair) -> Iterator[Client]:
    """Have a client write the same steps to both databases, and tell what it has done so far.

    It writes to one database, and does not commit before it has written to the other and committed
    there. So whenever they differ it has a transaction under way, and there is no moment at which
    nobody is at work and they differ.
    """
    client = Client()
    stopping = threading.Event()

    def work() -> None:
        numbers = itertools.count()
        while not stopping.is_set():
            step = next(numbers)
            outer, inner = pair if step % 2 else pair[::-1]
            client.torn.add(step)
            with (
                suppress(psycopg.OperationalError, psycopg.errors.ProgrammingError),
                closing(server.connect(*outer)) as first,
            ):
                first.execute("BEGIN")
                first.execute("INSERT INTO step VALUES (%s)", [step])
                with closing(server.connect(*inner)) as second:
                    second.execute("INSERT INTO step VALUES (%s)", [step])
                    first.execute("COMMIT")
                    client.torn.remove(step)
                    client.done.append(step)

    worker = Background(work)
    try:
        client.goes_on()
        yield client
    finally:
        stopping.set()
        worker.result()


def steps(sql: RunSql, database: str) -> list[int]:
    """Return the steps in a database, which may be a copy that is shut."""
    name = pg.Identifier(database)
    sql(pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(name))
    return [n for (n,) in sql("SELECT n FROM step ORDER BY n", dbname=database)]


def both(sql: RunSql, snapshot: Snapshot) -> list[list[int]]:
    return [steps(sql, member.database.name) for member in snapshot.members]


def test_every_snapshot_shows_one_moment(pair: Pair, server: Server, sql: RunSql) -> None:
    """However often they are taken while the client works, both copies hold the same steps."""
    snapshots = []
    with in_lock_step(server, pair) as client:
        for _ in range(SNAPSHOTS):
            snapshots.append(take(spare=False, wait_s=30))
            client.goes_on()

    contents = [both(sql, snapshot) for snapshot in snapshots]
    assert [client.equal(each) for each in contents] == [True] * SNAPSHOTS
    lengths = [len(first) for first, _ in contents]
    assert lengths == sorted(set(lengths))


def test_restored_pair_is_equal(
    pair: Pair, server: Server, sql: RunSql, settings: Settings
) -> None:
    """After a restore of both the client goes on from one moment, if one role restores both."""
    by_one = {"user": SUPERUSER, "password": server.password}
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": by_one}
    with in_lock_step(server, pair) as client:
        taken = take("both", wait_s=30)
        client.goes_on()
        restore("both", wait_s=30)
        client.goes_on()

    contents = [steps(sql, live) for live, _ in pair]
    assert client.equal(contents)
    assert set(both(sql, taken)[0]) < set(contents[0])
