"""The world that each case begins with: live databases, a snapshot of them, and an undo."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import psycopg
from django.conf import settings
from django.core.management import call_command
from psycopg import sql

from django_pgsnap.clones.records import UndoRecord, decode_record, encode_record
from tests.project import point
from tests.servers import Server
from tests.state import Database, databases
from tests.sweep.forks import in_child

SEED = "seed"
OTHER_ROLE = "other_superuser"
FROZEN = "frozen_"
QUIET_S = 20
CONNECT_S = 5

Values = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class State:
    """What a world holds, where a value stands for the rows of one database.

    Attributes:
        live: the live databases' values, by alias.
        snapshots: those of each snapshot, by its name.
        kept: those of each state that was replaced and is kept, newest first.
    """

    live: Values
    snapshots: dict[str, Values] = field(default_factory=dict)
    kept: tuple[Values, ...] = ()


def values(letter: str, aliases: Sequence[str]) -> Values:
    """Return values that differ by alias too, so that no database is taken for the other."""
    return {alias: f"{letter} of {alias}" for alias in aliases}


def live_name(alias: str) -> str:
    """Return the name of an alias' live database."""
    return f"live_{alias}"


class World:
    """Makes the same databases again and again on one server."""

    def __init__(self, server: Server) -> None:
        """Prepare a server that was just started."""
        self._server = server
        self._frozen: dict[tuple[tuple[str, ...], bool], list[Database]] = {}
        with server.connect() as connection:
            connection.execute(f"CREATE DATABASE {SEED}")
            password = sql.Literal(server.password)
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                    sql.Identifier(OTHER_ROLE), password
                )
            )
        with server.connect(SEED) as connection:
            connection.execute("CREATE TABLE state (value text NOT NULL)")
            connection.execute("INSERT INTO state VALUES ('')")

    def build(self, aliases: tuple[str, ...], *, spare: bool, written: bool) -> State:
        """Make a world: the live databases, the snapshot "base" of them, and an undo.

        Args:
            aliases: of the live databases.
            spare: whether "base" has spares.
            written: whether the live databases were written since "base" was restored.

        Returns:
            what it holds.
        """
        key = (aliases, spare)
        if key not in self._frozen:
            self.clear()
            self._make(aliases, spare=spare)
            self._frozen[key] = self._freeze()
        self.clear()
        self._thaw(self._frozen[key])
        if written:
            write(self._server, values("B", aliases))
        return State(
            live=values("B" if written else "A", aliases),
            snapshots={"base": values("A", aliases)},
            kept=(values("U", aliases),),
        )

    def forget(self) -> None:
        """Make worlds afresh: a crash began new statistics, and an undo knows the old ones."""
        self._frozen.clear()
        self.clear()
        with connect_patiently(self._server, "postgres") as connection:
            for database in databases(self._server):
                if database.name.startswith(FROZEN):
                    name = sql.Identifier(database.name)
                    connection.execute(sql.SQL("DROP DATABASE {}").format(name))

    def clear(self) -> None:
        """Drop everything but what later worlds are made from."""
        wait_until_quiet(self._server)
        with connect_patiently(self._server, "postgres") as connection:
            for database in databases(self._server):
                if database.name != SEED and not database.name.startswith(FROZEN):
                    name = sql.Identifier(database.name)
                    connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(name))

    def _make(self, aliases: tuple[str, ...], *, spare: bool) -> None:
        with self._server.connect() as connection:
            for alias in aliases:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                        sql.Identifier(live_name(alias)), sql.Identifier(SEED)
                    )
                )
        for letter, command in (("A", "take"), ("U", "restore")):
            write(self._server, values(letter, aliases))
            run_in_child(
                self._server,
                aliases,
                lambda command=command: call_command("pgsnap", command, "base", verbosity=0),  # type: ignore[misc]
                spare=spare,
            )

    def _freeze(self) -> list[Database]:
        wait_until_quiet(self._server)
        made = [
            database
            for database in databases(self._server)
            if database.name != SEED and not database.name.startswith(FROZEN)
        ]
        with self._server.connect() as connection:
            for database in made:
                connection.execute(
                    sql.SQL(
                        "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy ALLOW_CONNECTIONS false"
                    ).format(
                        sql.Identifier(f"{FROZEN}{database.oid}"), sql.Identifier(database.name)
                    )
                )
        return made

    def _thaw(self, frozen: Sequence[Database]) -> None:
        """Make the databases again.

        They get other oids, of which an undo remembers one. With their old ones the server would
        crash once in a while: it cannot drop what somebody still has the statistics of an earlier
        database of that oid at hand for ("trying to drop stats entry already dropped").
        """
        with self._server.connect() as connection:
            for database in frozen:
                connection.execute(
                    sql.SQL(
                        "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy"
                        " ALLOW_CONNECTIONS {} CONNECTION LIMIT {}"
                    ).format(
                        sql.Identifier(database.name),
                        sql.Identifier(f"{FROZEN}{database.oid}"),
                        sql.Literal(database.allows_connections),
                        sql.Literal(database.connection_limit),
                    )
                )
            oids = {database.name: database.oid for database in databases(self._server)}
            present = {database.oid: oids[database.name] for database in frozen}
            for database in frozen:
                connection.execute(
                    sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                        sql.Identifier(database.name),
                        sql.Literal(_adapted(database.comment, present)),
                    )
                )


def _adapted(comment: str | None, oids: dict[int, int]) -> str | None:
    """Return a comment that refers to databases by the oids that they have now."""
    record = decode_record(comment)
    if not isinstance(record, UndoRecord):
        return comment
    successor = oids.get(record.successor_oid, 0)
    return encode_record(replace(record, successor_oid=successor))


def enter(
    server: Server, aliases: Sequence[str], *, spare: bool, two_servers: bool = False
) -> None:
    """Point this process' Django at a world.

    Args:
        server: where it is.
        aliases: of its live databases.
        spare: the setting SPARES.
        two_servers: whether to reach all but the first as another role. That is like another server
            to the app, with sessions and a transaction of its own.
    """
    parameters = server.parameters()
    for alias in list(settings.DATABASES):
        if alias not in aliases:
            del settings.DATABASES[alias]
            continue
        point(
            alias,
            NAME=live_name(alias),
            HOST=parameters["host"],
            PORT=parameters["port"],
            USER=OTHER_ROLE if two_servers and alias != aliases[0] else parameters["user"],
            PASSWORD=parameters["password"],
        )
    settings.PGSNAP = {"ENABLED": True, "SPARES": spare}


def run_in_child(
    server: Server, aliases: Sequence[str], function: Callable[[], object], *, spare: bool
) -> None:
    """Run a function in a process of its own, inside the world."""

    def run() -> None:
        enter(server, aliases, spare=spare)
        function()

    ended = in_child(run)
    if ended.error:
        raise RuntimeError(ended.error)


def read(server: Server, aliases: Sequence[str]) -> Values:
    """Return the values of the live databases, as clients see them."""
    found = {}
    for alias in aliases:
        with connect_patiently(server, live_name(alias)) as connection:
            found[alias] = ", ".join(
                value for (value,) in connection.execute("SELECT value FROM state")
            )
    return found


def write(server: Server, wanted: Values) -> None:
    """Give the live databases other values, and leave no session on them."""
    pids = []
    for alias, value in wanted.items():
        with server.connect(live_name(alias)) as connection:
            pids.append(connection.info.backend_pid)
            connection.execute("UPDATE state SET value = %s", [value])
    _wait_until(
        server,
        sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY({})").format(
            sql.Literal(pids)
        ),
    )


def wait_until_quiet(server: Server) -> None:
    """Wait until the server has finished all that was sent to it."""
    _wait_until(
        server,
        sql.SQL(
            "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'pgsnap ')"
        ),
    )


def _wait_until(server: Server, none_left: sql.SQL | sql.Composed) -> None:
    deadline = time.monotonic() + QUIET_S
    with connect_patiently(server, "postgres") as connection:
        while connection.execute(none_left).fetchone() != (0,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"sessions stay on the server after {QUIET_S} s")
            time.sleep(0.002)


def connect_patiently(server: Server, database: str) -> psycopg.Connection:
    """Connect as a client does that comes in the moment of a swap, or of a crash: try again."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            return server.connect(database)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
