"""Projects with several databases, on one server or on two.

That their copies show one moment is in `test_lockstep`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.catalog import Catalog, load_catalog
from django_pgsnap.clones.spares import drop_leftovers
from django_pgsnap.clones.transitions import perform_swaps
from django_pgsnap.errors import (
    ChangedMeanwhileError,
    CopyFailedError,
    DatabaseBusyError,
    ServerUnavailableError,
)
from django_pgsnap.postgres.session import Query, Session
from django_pgsnap.reporting import Reporter
from django_pgsnap.snapshots import replace_live
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ROLE_PASSWORD, MakeRole, RunSql
from tests.project import point
from tests.servers import Server
from tests.state import databases as databases_of
from tests.watching import (
    Background,
    authors,
    held_up,
    in_transaction,
    is_sleeping,
    is_waiting,
    oids,
    settle,
    until,
    write,
)

INSERT = "INSERT INTO testapp_invoice (number) VALUES (%s) ON CONFLICT DO NOTHING"


def test_no_copy_begins_before_all_can(lives: dict[str, str], server: Server, sql: RunSql) -> None:
    """While one database cannot be copied yet, clients go on in the other."""
    with held_up(server, lives["other"]) as blocker:
        taking = Background(lambda: take("both", spare=False))
        until(lambda: is_waiting(server, "pgsnap holding still"))
        sql(INSERT, [1], dbname=lives["default"])
        assert not _unfinished(server)
        blocker.execute("ROLLBACK")
        taking.result()

    restore("both")
    assert sql("SELECT number FROM testapp_invoice", dbname=lives["default"]) == [(1,)]


def test_one_transaction_swaps_all(lives: dict[str, str], sql: RunSql) -> None:
    """All live databases of a server change in the very same transaction."""
    take("both")

    restore("both")

    query = "SELECT count(DISTINCT xmin::text) FROM pg_database WHERE datname = ANY(%s)"
    assert sql(query, [list(lives.values())]) == [(1,)]


def test_one_look_at_all_clones(lives: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copies have no spares, the clones of a server are looked up together."""
    take("both", spare=False)
    looks = []

    def noted(session: Session) -> Catalog:
        looks.append(session)
        return load_catalog(session)

    monkeypatch.setattr("django_pgsnap.snapshots.restore.load_catalog", noted)
    restore("both")

    assert len(looks) == 1


def test_one_busy_database_keeps_both(lives: dict[str, str], server: Server) -> None:
    """When a session works on one database, neither is replaced, and neither is copied."""
    take("both")
    for alias in lives:
        write("Ursula", alias=alias)
    before = settle(server)

    with in_transaction(server, lives["other"]):
        with pytest.raises(DatabaseBusyError):
            restore("both", wait_s=0)
        with pytest.raises(DatabaseBusyError):
            take("again", wait_s=0)

    assert settle(server) == before
    assert [authors(alias) for alias in lives] == [["Ursula"], ["Ursula"]]


def test_one_failed_copy_leaves_no_other(lives: dict[str, str], server: Server) -> None:
    """When one database cannot be copied, the finished copy of the other does not stay."""
    before = settle(server)

    with _unreadable_table(server, lives["other"]), pytest.raises(CopyFailedError) as caught:
        take("both", strategy="file_copy")

    assert caught.value.message.startswith(
        f"The server could not copy {lives['other']!r}: could not open file"
    )
    assert caught.value.message.endswith(" (42501). Nothing has changed.")
    assert settle(server) == before


def test_two_servers(two_servers: Server, server: Server, live_pair: dict[str, str]) -> None:
    """Snapshots, restores and undos go across servers."""
    for alias in live_pair:
        write("Ursula", alias=alias)
    snapshot = take("both")
    for alias in live_pair:
        write("Stanisław", alias=alias)

    restore("both")

    assert snapshot.aliases == ("default", "other")
    assert {member.server.port for member in snapshot.members} == {
        str(server.port),
        str(two_servers.port),
    }
    assert [authors(alias) for alias in live_pair] == [["Ursula"], ["Ursula"]]
    undo()
    assert [authors(alias) for alias in live_pair] == [["Stanisław", "Ursula"]] * 2
    assert len(overview().undos) == 1
    take("both", replace=True)
    assert [each.name for each in list_snapshots()] == ["both"]
    for each in (server, two_servers):
        settle(each)


def test_earlier_server_is_put_back(
    two_servers: Server, server: Server, live_pair: dict[str, str]
) -> None:
    """When a later server cannot swap, the one that did swaps back."""
    take("both", spare=False)
    for alias in live_pair:
        write("Ursula", alias=alias)
    before = oids(settle(server)), oids(settle(two_servers))
    with held_up(server, live_pair["default"]) as blocker:
        # While the first server's swap is held up …
        restoring = Background(lambda: restore("both"))
        until(lambda: is_waiting(server, "pgsnap restore"))
        # … somebody takes away what the second one is to swap in.
        (clone,) = (name for name in oids(databases_of(two_servers)) if "pgsnap_new_" in name)
        _run(two_servers, pg.SQL("ALTER DATABASE {} RENAME TO stolen").format(pg.Identifier(clone)))
        blocker.execute("ROLLBACK")

    with pytest.raises(ChangedMeanwhileError):
        restoring.result()

    assert oids(settle(server))[live_pair["default"]] == before[0][live_pair["default"]]
    assert oids(settle(two_servers))[live_pair["other"]] == before[1][live_pair["other"]]
    assert [authors(alias) for alias in live_pair] == [["Ursula"], ["Ursula"]]
    assert overview().undos == ()
    restore("both")
    assert [authors(alias) for alias in live_pair] == [[], []]


def test_nobody_drops_what_may_be_put_back(
    live_pair: dict[str, str], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shall not be kept is there until all servers have swapped, whoever clears up before."""
    take("both", spare=False)
    for alias in live_pair:
        write("WORK", alias=alias)

    def failing_at_the_second(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            left = load_catalog(session).leftovers([], ())
            assert left
            drop_leftovers(session, left, Reporter())
            raise ChangedMeanwhileError("it fails")
        perform_swaps(*arguments)

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(replace_live, "perform_swaps", failing_at_the_second)
    with pytest.raises(ChangedMeanwhileError):
        restore("both", undo=False)

    assert [authors(alias) for alias in live_pair] == [["WORK"], ["WORK"]]


def test_put_back_without_a_property(
    two_servers: Server, server: Server, live_pair: dict[str, str], role: MakeRole, sql: RunSql
) -> None:
    """What is put back need not be set up like what is live: our role may lack the right to that.

    The restored database has come without a setting that only a superuser may make.
    """
    first = live_pair["default"]
    sql(pg.SQL("ALTER DATABASE {} OWNER TO {}").format(*map(pg.Identifier, (first, role()))))
    point("default", USER="ordinary", PASSWORD=ROLE_PASSWORD)
    take("both", spare=False)
    sql(pg.SQL("ALTER DATABASE {} SET log_min_messages = 'error'").format(pg.Identifier(first)))
    before = oids(settle(server))[first]
    with held_up(server, first) as blocker:
        restoring = Background(lambda: restore("both"))
        until(lambda: is_waiting(server, "pgsnap restore"))
        (clone,) = (name for name in oids(databases_of(two_servers)) if "pgsnap_new_" in name)
        _run(two_servers, pg.SQL("ALTER DATABASE {} RENAME TO stolen").format(pg.Identifier(clone)))
        blocker.execute("ROLLBACK")

    with pytest.raises(ChangedMeanwhileError):
        restoring.result()

    assert oids(settle(server))[first] == before
    assert sql("SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = %s", [before]) == [
        (["log_min_messages=error"],)
    ]


def test_cancel_does_not_end_what_takes_back(
    server: Server, live_pair: dict[str, str], sql: RunSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the earlier server swaps back it may have to wait, and nothing ends that wait."""

    class CancelledError(Exception):
        pass

    class Canceller(Reporter):
        def wait(self, message: str) -> None:
            raise CancelledError(message)

    take("both", spare=False)
    for alias in live_pair:
        write("Ursula", alias=alias)
    first, calls = live_pair["default"], []

    def cancelled_at_the_second(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            busy.append(Background(lambda: sql("SELECT pg_sleep(0.3)", dbname=first)))
            until(lambda: is_sleeping(server))
            raise CancelledError
        perform_swaps(*arguments)

    busy: list[Background] = []
    monkeypatch.setattr(replace_live, "perform_swaps", cancelled_at_the_second)
    with pytest.raises(CancelledError):
        restore("both", reporter=Canceller())

    assert [authors(alias) for alias in live_pair] == [["Ursula"], ["Ursula"]]
    assert overview().undos == ()
    busy[0].result()


def test_undo_of_two_servers_is_one(two_servers: Server, live_pair: dict[str, str]) -> None:
    """Where only one of two databases was written, what was replaced is one complete undo."""
    take("both")
    write("Ursula", alias="other")

    restore("both")

    assert [undo.aliases for undo in overview().undos] == [("default", "other")]
    undo()
    assert [authors(alias) for alias in live_pair] == [[], ["Ursula"]]


def test_interrupt_when_all_servers_have_swapped(
    two_servers: Server, live_pair: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the last swap finds the restore done, and takes nothing back."""
    take("both")
    for alias in live_pair:
        write("Ursula", alias=alias)
    _interrupt_after(monkeypatch, replace_live, "perform_swaps", live_pair)

    with pytest.raises(KeyboardInterrupt):
        restore("both")

    assert [authors(alias) for alias in live_pair] == [[], []]
    undo()
    assert [authors(alias) for alias in live_pair] == [["Ursula"], ["Ursula"]]


def test_interrupt_when_all_servers_have_published(
    two_servers: Server, live_pair: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the last commit of a take finds the snapshot there, and takes nothing back."""
    execute = Session.execute
    seen = []

    def interrupted(session: Session, query: Query) -> None:
        execute(session, query)
        if '"kind":"copy"' in query.as_string(None):
            seen.append(query)
            if len(seen) == len(live_pair):
                raise KeyboardInterrupt

    monkeypatch.setattr(Session, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take("both")
    monkeypatch.undo()

    (snapshot,) = list_snapshots()
    assert (snapshot.is_complete, snapshot.aliases) == (True, ("default", "other"))


def test_spares_are_made_again(lives: dict[str, str], server: Server) -> None:
    """A restore of two databases uses up two spares, and has both made anew."""
    take("both")
    settle(server)
    first = oids(databases_of(server))

    restore("both")

    settle(server)
    assert list_snapshots()[0].spare == "ready"
    second = oids(databases_of(server))
    spares = [name for name in second if name.startswith("pgsnap_spare_")]
    assert len(spares) == 2
    assert all(first[name] != second[name] for name in spares)


def test_one_server_down(two_servers: Server, server: Server, live_pair: dict[str, str]) -> None:
    """When one of the servers is down, nothing happens on the other."""
    take("both")
    write("Ursula")
    settle(two_servers)
    before = settle(server)
    two_servers.stop()
    try:
        with pytest.raises(ServerUnavailableError):
            restore("both")
    finally:
        two_servers.start()

    assert settle(server) == before
    assert authors() == ["Ursula"]


def _unfinished(server: Server) -> list[int]:
    present = oids(databases_of(server)).items()
    return [oid for name, oid in present if name.startswith("pgsnap_new_")]


@contextmanager
def _unreadable_table(server: Server, database: str) -> Iterator[None]:
    """Keep the server from reading one table of a database."""
    with server.connect(database) as connection:
        # A checkpoint that still had to write to it would be the first to fail.
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT pg_relation_filepath('testapp_genre')").fetchone()
    assert row
    file = server.data_dir / row[0]
    mode = file.stat().st_mode
    file.chmod(0)
    try:
        yield
    finally:
        file.chmod(mode)


def _run(server: Server, statement: pg.SQL | pg.Composed) -> None:
    with server.connect() as connection:
        connection.execute(statement)


def _interrupt_after(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, lives: dict[str, str]
) -> None:
    """Raise KeyboardInterrupt when a function has been called for each of the servers."""
    function, calls = getattr(module, name), []

    def interrupted(*arguments: object, **options: object) -> None:
        function(*arguments, **options)
        calls.append(name)
        if len(calls) == len(lives):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupted)
