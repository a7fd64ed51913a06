"""Projects on one server that work from different databases of it, where locks are kept apart."""

from collections.abc import Callable

import pytest
from psycopg import sql as pg

from django_pgsnap.clones.names import new_identity
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import DatabaseBusyError, OperationRunningError
from django_pgsnap.postgres.advisory_locks import acquire_lock, release_lock
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeDatabase, RunSql, SessionAs
from tests.watching import Background, until


@pytest.fixture
def neighbour(make_database: MakeDatabase, session_as: SessionAs) -> Session:
    """A session of a project that works from another database than we do."""
    make_database("pgsnap")
    return session_as(database="pgsnap")


@pytest.mark.parametrize(
    "clear_up",
    [lambda: take("seeded", spare=False), lambda: diagnose(fix=True)],
    ids=["take", "doctor"],
)
def test_neighbours_work_is_no_leftover(
    clear_up: Callable[[], object],
    live: str,
    neighbour: Session,
    sql: RunSql,
) -> None:
    """What a neighbour is at work on stays; once the neighbour is gone, it is dropped."""
    names = [f"pgsnap_{kind}_{new_identity()}" for kind in ("new", "drop", "spare")]
    for name in names:
        acquire_lock(neighbour, name, 0)
        sql(
            pg.SQL("CREATE DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0").format(
                pg.Identifier(name)
            )
        )

    clear_up()
    until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%'"))
    present = "SELECT 1 FROM pg_database WHERE datname = ANY (%s)"
    assert len(sql(present, [names])) == len(names)

    neighbour.close()
    until(lambda: not sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    take("next", spare=False)
    until(lambda: not sql(present, [names]))


def test_same_live_database(live: str, neighbour: Session, sql: RunSql) -> None:
    """Two projects that share a live database take turns, wherever each works from."""
    acquire_lock(neighbour, live, 0)

    with pytest.raises(OperationRunningError) as caught:
        take("seeded", wait_s=0.05)
    assert f": pid {neighbour.pid}, role 'postgres', 'pgsnap test (" in caught.value.message

    waiting = Background(lambda: take("seeded", spare=False))
    looked = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgsnap take%' AND query {}"
    )
    until(lambda: bool(sql(looked.format("LIKE '%pg_lock_status%'"))))
    release_lock(neighbour, live)
    waiting.result()


def test_neighbours_maintenance_database(live: str, session_as: SessionAs, sql: RunSql) -> None:
    """Where a neighbour works from a database that is live here, its work is waited for.

    Of an operation's sessions some idle as long as others work.
    """
    with session_as(database=live) as neighbour:
        with pytest.raises(DatabaseBusyError) as caught:
            take("seeded", wait_s=0.2)
        assert f"\n  pid {neighbour.pid}: role 'postgres' (pgsnap test (" in caught.value.message

        waiting = Background(lambda: take("seeded", spare=False))
        until(lambda: bool(sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT a.pid%'")))

    waiting.result()
