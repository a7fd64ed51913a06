"""A role that owns its database and has CREATEDB can do everything; no superuser is needed.

Which rights a role may lack, and what gives them, is in `test_preconditions`.
"""

import pytest
from django.db import connections
from psycopg import sql as pg

from django_pgsnap.errors import DatabaseBusyError, MissingRightError
from django_pgsnap.snapshots.manage import annotate, delete, pin, refill, rename
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import checkpoint, restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import ROLE_PASSWORD, MakeLive, MakeRole, RunSql
from tests.project import point
from tests.servers import Server
from tests.watching import (
    Background,
    Recorder,
    authors,
    held_up,
    in_transaction,
    is_waiting,
    settle,
    until,
    write,
)

# What a role may carry; each would refuse or end an operation if it held for it.
CARRIED = {
    "nothing": (),
    "unfriendly settings": (
        "ALTER ROLE ordinary SET default_transaction_read_only = on",
        "ALTER ROLE ordinary SET default_transaction_isolation = 'serializable'",
        "ALTER ROLE ordinary SET search_path = nowhere",
        "ALTER ROLE ordinary SET datestyle = 'German'",
        "ALTER ROLE ordinary SET intervalstyle = 'sql_standard'",
    ),
}
TIMEOUTS = ["statement_timeout", "lock_timeout", "idle_session_timeout"]


@pytest.mark.parametrize("carried", CARRIED)
def test_every_verb(carried: str, live_owned: str, sql: RunSql, server: Server) -> None:
    """All verbs work, whatever settings the role carries, and nothing is warned of."""
    recorder = Recorder()
    _insert(sql, live_owned, "Ursula")
    for statement in CARRIED[carried]:
        sql(statement)
    connections.close_all()

    take("seeded", reporter=recorder)
    _insert(sql, live_owned, "Stanisław")
    restore("seeded", reporter=recorder)
    assert _authors(sql, live_owned) == ["Ursula"]
    undo(reporter=recorder)
    assert _authors(sql, live_owned) == ["Stanisław", "Ursula"]
    take("seeded", replace=True, spare=False, reporter=recorder)
    refill("seeded", reporter=recorder)
    rename("seeded", "sown")
    pin("sown")
    annotate("sown", "a note")
    with checkpoint():
        _insert(sql, live_owned, "Lem")
    assert _authors(sql, live_owned) == ["Stanisław", "Ursula"]
    assert [each.name for each in list_snapshots(everyone=True)] == ["sown"]
    delete("sown", force=True, reporter=recorder)

    assert recorder.warnings == []
    assert overview().snapshots == ()
    assert {each.owner for each in settle(server)} == {"ordinary"}


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_timeouts_of_the_role(timeout: str, live_owned: str, sql: RunSql, server: Server) -> None:
    """An operation takes the time it takes, whatever timeout the role carries."""
    sql(f"ALTER ROLE ordinary SET {timeout} = '200ms'")
    connections.close_all()
    with held_up(server, live_owned) as blocker:
        taking = Background(lambda: take("seeded"))
        until(lambda: is_waiting(server, "pgsnap take"))
        blocker.execute("SELECT pg_sleep(0.4)")
    taking.result()

    assert [each.name for each in list_snapshots()] == ["seeded"]


def test_spare_is_made_without_a_superuser(live_owned: str, server: Server) -> None:
    """The spare comes by itself, and belongs to the role."""
    take("seeded")

    settle(server)
    assert list_snapshots()[0].spare == "ready"


def test_rows_and_their_owner(live_owned: str, server: Server) -> None:
    """Tables still belong to the role in what was restored, so that it can write them."""
    write("Ursula")
    take("seeded")
    write("Stanisław")

    restore("seeded")

    assert authors() == ["Ursula"]
    write("Lem")
    assert authors() == ["Lem", "Ursula"]


def test_superusers_session_is_named(live_owned: str, server: Server) -> None:
    """A superuser's session may not be ended; the message names it, and the grant that helps."""
    with server.connect(live_owned, application_name="admin tool") as admin:
        with pytest.raises(DatabaseBusyError) as caught:
            take("seeded", wait_s=0, force=True)

        lines = str(caught.value).splitlines()
        assert lines[0] == f"Other sessions are using {live_owned!r}, after a wait of 0 s:"
        assert lines[1] == (
            f"  pid {admin.info.backend_pid}: role 'postgres' (admin tool), in a state we may "
            "not see"
        )
        assert lines[2] == (
            "Some belong to roles whose sessions yours may not end. Close them, or let a "
            "superuser run: GRANT pg_signal_backend, pg_read_all_stats TO ordinary; (a "
            "superuser's own sessions only a superuser can end)."
        )
        assert admin.execute("SELECT 1").fetchone() == (1,)
    assert [each.name for each in settle(server)] == [live_owned]


def test_grant_in_the_message_helps(
    live_owned: str, server: Server, role: MakeRole, sql: RunSql
) -> None:
    """After the grants that the message gives, other roles' idle sessions are ended."""
    role("colleague")
    with server.connect(live_owned, "colleague"):
        with pytest.raises(DatabaseBusyError):
            take("seeded", wait_s=0)
        sql("GRANT pg_signal_backend, pg_read_all_stats TO ordinary")

        take("seeded")

    assert [each.name for each in list_snapshots()] == ["seeded"]


def test_own_busy_session_is_named(live_owned: str, server: Server) -> None:
    """A session of the role itself is seen for what it does."""
    with in_transaction(server, live_owned, "ordinary") as client:
        with pytest.raises(DatabaseBusyError) as caught:
            take("seeded", wait_s=0)

        assert caught.value.message.splitlines()[1].startswith(
            f"  pid {client.info.backend_pid}: role 'ordinary' (psql), idle in transaction for "
        )
        assert caught.value.hint == (
            "Finish or close them, wait longer with --wait, or end them with --force."
        )


def test_not_the_owner(make_live: MakeLive, role: MakeRole, server: Server, sql: RunSql) -> None:
    """A role that may not copy the database is told so, and the GRANT in the message helps."""
    role("keeper")
    live = make_live(user="keeper")
    point("default", USER=role("Odd role"), PASSWORD=ROLE_PASSWORD)
    before = settle(server)

    with pytest.raises(MissingRightError) as caught:
        take("seeded", databases=["default"])

    assert caught.value.message == (
        f'The role "Odd role" neither owns the database {live!r} nor has all rights of its owner '
        "keeper."
    )
    assert settle(server) == before
    sql(caught.value.hint.removeprefix("Let a superuser run: "))
    take("seeded", databases=["default"])
    restore("seeded", databases=["default"])
    assert {each.owner for each in settle(server)} == {"keeper"}


def test_grant_of_another_role_is_reported(
    live_owned: str, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """A privilege that a foreign role has granted is not skipped silently: it is reported."""
    role("grantor")
    role("reader")
    live = pg.Identifier(live_owned)
    sql(pg.SQL("GRANT CONNECT ON DATABASE {} TO grantor WITH GRANT OPTION").format(live))
    sql(pg.SQL("SET ROLE grantor; GRANT CONNECT ON DATABASE {} TO reader").format(live))
    recorder = Recorder()

    take("seeded", reporter=recorder)

    (warning,) = recorder.warnings
    assert warning.startswith('Not carried over: SET LOCAL ROLE "grantor"; GRANT CONNECT ON')
    assert warning.endswith("A superuser can run it afterwards.")
    (snapshot,) = list_snapshots()
    assert f'"{snapshot.members[0].database.name}"' in warning
    write("Ursula")
    restore("seeded", reporter=recorder)
    (_, warning) = recorder.warnings
    assert f'GRANT CONNECT ON DATABASE "{live_owned}"' in warning


def _insert(sql: RunSql, database: str, name: str) -> None:
    sql("INSERT INTO testapp_author (name) VALUES (%s)", [name], dbname=database)


def _authors(sql: RunSql, database: str) -> list[str]:
    rows = sql("SELECT name FROM testapp_author ORDER BY name", dbname=database)
    return [name for (name,) in rows]
