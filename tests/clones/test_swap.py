"""The swap: another database takes the live one's name, in one transaction."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.names import record_name, to_drop_name
from django_pgsnap.clones.records import encode_record
from django_pgsnap.clones.transitions import PropertiesChangedError, Swap, perform_swaps
from django_pgsnap.errors import ChangedMeanwhileError, DatabaseBusyError, MissingRightError
from django_pgsnap.postgres.backends import BackendTerminator
from django_pgsnap.postgres.properties import read_properties
from django_pgsnap.postgres.session import Query, Session
from tests.clones.test_transitions import ODD_NAMES
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql, SessionAs
from tests.records import IDENTITY, undo_record
from tests.servers import Server
from tests.watching import Background, until

OLDER = "00112233445566ff"
TO_DROP = "aaaaaaaaaaaaaaaa"
INCOMING = "pgsnap_spare_bbbbbbbbbbbbbbbb"

Prepare = Callable[..., Swap]


@pytest.fixture
def prepare(make_database: MakeDatabase, session: Session, sql: RunSql) -> Prepare:
    """Makes a live database, and a shut one to take its place."""

    def make(live: str = "live", *, incoming: str = INCOMING, owner: str = "postgres") -> Swap:
        for name in (live, incoming):
            make_database(name, owner=owner)
        shut = "ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
        sql(pg.SQL(shut).format(pg.Identifier(incoming)))
        present = load_catalog(session)
        return Swap(
            live_name=live,
            live=present.databases[live],
            incoming=present.databases[incoming],
            properties=read_properties(session, live)[0],
            outgoing=undo_record(source=live),
            drop_identity=TO_DROP,
        )

    return make


@pytest.fixture
def run(session: Session, session_as: SessionAs) -> Callable[..., BackendTerminator]:
    """Performs swaps from sessions of their own, of any role."""

    def run(*swaps: Swap, wait_s: float = 20, user: str = "postgres") -> BackendTerminator:
        live = [swap.live_name for swap in swaps if swap.live]
        terminator = BackendTerminator(session_as(user), live, wait_s=wait_s, force=False)
        terminator.empty_databases()
        perform_swaps(session_as(user), swaps, terminator)
        return terminator

    return run


Run = Callable[..., BackendTerminator]


@dataclass(frozen=True, kw_only=True)
class Tampered(Swap):
    """A swap that does something else before."""

    first: Query

    def statements(self) -> list[Query]:
        return [self.first, *super().statements()]


def tampered(swap: Swap, first: Query) -> Swap:
    values: dict[str, Any] = {name: getattr(swap, name) for name in swap.__dataclass_fields__}
    return Tampered(**values, first=first)


def oid_of(sql: RunSql, database: str) -> int:
    ((oid,),) = sql("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database])
    return int(oid)


def names_of(databases: ListDatabases) -> list[str]:
    return [database.name for database in databases()]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_swaps(name: str, prepare: Prepare, run: Run, databases: ListDatabases) -> None:
    """The incoming database is live under its name, and the outgoing one the shut undo."""
    swap = prepare(name)
    assert swap.live is not None

    run(swap)

    found = {database.name: database for database in databases()}
    assert found.keys() == {name, record_name("undo", IDENTITY)}
    live, undo = found[name], found[record_name("undo", IDENTITY)]
    assert (live.oid, undo.oid) == (swap.incoming.oid, swap.live.oid)
    assert (live.allows_connections, live.connection_limit, live.comment) == (True, -1, None)
    assert (undo.allows_connections, undo.connection_limit) == (False, 0)
    assert undo.comment == encode_record(undo_record(source=name))
    assert swap.drops == []


def test_properties_of_the_stage(prepare: Prepare, run: Run, databases: ListDatabases) -> None:
    """The user's comment, limit and template flag go from the one to the other."""
    swap = prepare()
    mine = replace(swap.properties, comment="mine, 100%", connection_limit=7, is_template=True)

    run(replace(swap, properties=mine))

    live, undo = databases()
    assert (live.comment, live.connection_limit, live.is_template) == ("mine, 100%", 7, True)
    assert undo.is_template is False


def test_without_an_undo(prepare: Prepare, run: Run, databases: ListDatabases) -> None:
    """A state that is not kept waits to be dropped, shut and without a comment."""
    swap = replace(prepare(), outgoing=None)

    run(swap)

    assert names_of(databases) == ["live", to_drop_name(TO_DROP)]
    assert databases()[1].comment is None
    assert swap.drops == [to_drop_name(TO_DROP)]


def test_live_database_is_missing(
    prepare: Prepare, run: Run, databases: ListDatabases, sql: RunSql
) -> None:
    """Where nothing is live, the incoming database takes the name all the same."""
    swap = replace(prepare(), live=None, outgoing=None)
    sql("DROP DATABASE live")

    run(swap)

    assert names_of(databases) == ["live"]
    assert oid_of(sql, "live") == swap.incoming.oid
    assert swap.drops == []
    assert swap.reversed() is None


def test_several_or_none(prepare: Prepare, run: Run, databases: ListDatabases, sql: RunSql) -> None:
    """All databases of a server are swapped, or, when one cannot be, none."""
    first = prepare("first")
    second = prepare("second", incoming="pgsnap_spare_cccccccccccccccc")
    second = replace(second, outgoing=undo_record(identity=OLDER, source="second"))
    spoiled = replace(second, incoming=replace(second.incoming, oid=1))
    before = names_of(databases)

    with pytest.raises(ChangedMeanwhileError) as caught:
        run(first, spoiled)
    unchanged = names_of(databases)
    run(first, second)

    assert caught.value.message == (
        "Somebody renamed, made or dropped a database while 'first', 'second' was to be replaced. "
        "Nothing has changed."
    )
    assert caught.value.hint == "Look at the server's databases (psql -l), then try again."
    assert unchanged == before
    assert oid_of(sql, "first") == first.incoming.oid
    assert oid_of(sql, "second") == second.incoming.oid


@pytest.mark.parametrize("which", ["live", "incoming"])
def test_another_database_of_the_same_name(
    which: str, prepare: Prepare, run: Run, databases: ListDatabases
) -> None:
    """A database that was replaced since we looked is noticed by its oid, and nothing happens."""
    swap = prepare()
    other = replace(getattr(swap, which), oid=4711)

    with pytest.raises(ChangedMeanwhileError):
        run(replace(swap, **{which: other}))

    assert names_of(databases) == ["live", INCOMING]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP DATABASE live",
        f"DROP DATABASE {INCOMING}",
        "ALTER DATABASE live RENAME TO mine",
        f"ALTER DATABASE {INCOMING} RENAME TO mine",
    ],
)
def test_database_that_went_away(
    statement: str, prepare: Prepare, run: Run, databases: ListDatabases, sql: RunSql
) -> None:
    """A database that somebody dropped or renamed meanwhile is noticed, and nothing happens."""
    swap = prepare()
    sql(statement)
    before = names_of(databases)

    with pytest.raises(ChangedMeanwhileError):
        run(swap)

    assert names_of(databases) == before


def test_name_that_is_taken(
    prepare: Prepare, run: Run, databases: ListDatabases, make_database: MakeDatabase
) -> None:
    """A database that stands where the undo should go is noticed, and nothing happens."""
    swap = prepare()
    make_database(record_name("undo", IDENTITY))
    before = names_of(databases)

    with pytest.raises(ChangedMeanwhileError):
        run(swap)

    assert names_of(databases) == before


@pytest.mark.parametrize(
    "change",
    [
        *("GRANT CREATE ON DATABASE live TO pg_monitor", "COMMENT ON DATABASE live IS 'mine'"),
        *("ALTER DATABASE live SET work_mem TO '5MB'", "ALTER DATABASE live CONNECTION LIMIT 40"),
    ],
)
def test_set_up_meanwhile(
    change: str, prepare: Prepare, run: Run, databases: ListDatabases, sql: RunSql
) -> None:
    """What was set up since we looked is not lost: nothing happens."""
    swap = prepare()
    sql(change)
    before = databases()

    with pytest.raises(PropertiesChangedError):
        run(swap)

    assert databases() == before


def test_reversed(
    prepare: Prepare, run: Run, databases: ListDatabases, sql: RunSql, session: Session
) -> None:
    """A swap can be taken back: the same database is live again, open, with its comment."""
    swap = prepare()
    sql("COMMENT ON DATABASE live IS 'mine'")
    swap = replace(swap, properties=read_properties(session, "live")[0])
    run(swap)
    back = swap.reversed()
    assert back is not None
    assert swap.live is not None

    run(back)

    live, to_drop = databases()
    assert (live.name, live.oid, live.comment) == ("live", swap.live.oid, "mine")
    assert (to_drop.oid, to_drop.comment) == (swap.incoming.oid, None)
    assert back.drops == [to_drop.name]


def test_replaced_state_is_one_again(
    prepare: Prepare, run: Run, databases: ListDatabases, session: Session
) -> None:
    """Where a replaced state had come in, it is one again, with its name and its comment."""
    run(prepare())
    (kept,) = load_catalog(session).undos()
    live = load_catalog(session).databases["live"]
    swap = Swap(
        live_name="live",
        live=live,
        incoming=kept,
        properties=read_properties(session, "live")[0],
        outgoing=undo_record(identity=OLDER),
        drop_identity=TO_DROP,
    )
    before = databases()
    run(swap)
    back = swap.reversed()
    assert back is not None

    run(back)

    assert databases() == before
    assert back.drops == []


def test_clients_are_ended(prepare: Prepare, run: Run, clean_server: Server, sql: RunSql) -> None:
    """Idle clients are ended, and counted."""
    swap = prepare()
    with clean_server.connect("live") as client:
        pid = client.info.backend_pid

        terminator = run(swap)

    assert terminator.ended == {pid}
    assert oid_of(sql, "live") == swap.incoming.oid


def test_busy_client(
    prepare: Prepare, run: Run, clean_server: Server, databases: ListDatabases
) -> None:
    """A client at work is named, and nothing happens."""
    swap = prepare()
    with clean_server.connect("live") as client:
        client.execute("BEGIN")

        with pytest.raises(DatabaseBusyError, match=f"pid {client.info.backend_pid}"):
            run(swap, wait_s=0)

        client.execute("COMMIT")
    assert names_of(databases) == ["live", INCOMING]


def test_clients_that_come_back_at_once(
    prepare: Prepare, run: Run, clean_server: Server, sql: RunSql
) -> None:
    """Clients that reconnect in a tight loop do not keep a swap from happening."""
    swap = prepare()
    stop = Event()

    def reconnect() -> int:
        count = 0
        while not stop.is_set():
            with suppress(psycopg.OperationalError), clean_server.connect("live") as connection:
                connection.execute("SELECT 1")
                count += 1
        return count

    clients = [Background(reconnect) for _ in range(2)]
    until(lambda: bool(sql("SELECT pid FROM pg_stat_activity WHERE datname = 'live'")))

    run(swap)

    stop.set()
    assert all(client.result() for client in clients)
    assert oid_of(sql, "live") == swap.incoming.oid


@pytest.fixture
def in_use(sql: RunSql) -> Iterator[Callable[[int], Query]]:
    """A statement on which the server reports a session that is in the way, so many times."""
    sql("CREATE SEQUENCE tries")

    def make(times: int) -> Query:
        block = (
            f"BEGIN IF nextval('public.tries') <= {times} THEN"
            " RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'is being accessed'; END IF; END"
        )
        return pg.SQL("DO {}").format(pg.Literal(block))

    yield make
    sql("DROP SEQUENCE tries")


def test_session_that_slips_in(
    prepare: Prepare, run: Run, in_use: Callable[[int], Query], sql: RunSql
) -> None:
    """Where the server found a session in the way, it is all done once more."""
    swap = prepare()

    run(tampered(swap, in_use(2)))

    assert sql("SELECT last_value FROM tries") == [(3,)]
    assert oid_of(sql, "live") == swap.incoming.oid


def test_sessions_that_always_slip_in(
    prepare: Prepare, run: Run, in_use: Callable[[int], Query], databases: ListDatabases
) -> None:
    """When the time is over, it is not tried again, and nothing has happened."""
    with pytest.raises(DatabaseBusyError, match="Other sessions are using 'live'"):
        run(tampered(prepare(), in_use(9)), wait_s=0)

    assert names_of(databases) == ["live", INCOMING]


def test_ordinary_owner(prepare: Prepare, run: Run, role: MakeRole, sql: RunSql) -> None:
    """The owner of both databases needs no more than CREATEDB."""
    swap = prepare(owner=role())

    run(swap, user="ordinary")

    assert oid_of(sql, "live") == swap.incoming.oid


def test_missing_right(
    prepare: Prepare, run: Run, role: MakeRole, databases: ListDatabases
) -> None:
    """A role that may not rename is told what it needs, and nothing happens."""
    swap = prepare()

    with pytest.raises(MissingRightError) as caught:
        run(swap, user=role())

    assert caught.value.message == (
        "The role may not replace 'live': must be owner of database live. Nothing has changed."
    )
    assert caught.value.hint == (
        "It must own the database (ALTER DATABASE … OWNER TO …) and be allowed to make some "
        "(ALTER ROLE … CREATEDB)."
    )
    assert names_of(databases) == ["live", INCOMING]


def test_any_other_error(prepare: Prepare, run: Run, databases: ListDatabases) -> None:
    """What we know nothing of is passed on as it is, and nothing has happened."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        run(tampered(prepare(), pg.SQL("SELECT 1/0")))

    assert names_of(databases) == ["live", INCOMING]
