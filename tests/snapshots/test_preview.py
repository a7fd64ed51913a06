"""What can be known before an operation, and while one is under way."""

import pytest
from django.db import connection

from django_pgsnap.postgres.advisory_locks import LockHolder, lock_key
from django_pgsnap.postgres.targets import list_targets
from django_pgsnap.snapshots.queries import (
    find_running_operations,
    overview,
    read_carried_properties,
)
from django_pgsnap.snapshots.status import expected_take_s, preview
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeRole, RunSql
from tests.servers import Server
from tests.watching import in_transaction


def test_nobody_is_connected(live: str) -> None:
    """The live databases and their size are told; our own connection does not count."""
    connection.ensure_connection()

    seen = preview()

    assert seen.aliases == ("default",)
    assert seen.size_bytes > 1_000_000
    assert (seen.idle, seen.busy) == ((), ())


def test_sessions_are_told_apart(live: str, server: Server) -> None:
    """Those that idle would be ended, those that work would be waited for."""
    with in_transaction(server, live), server.connect(live, application_name="reporting"):
        seen = preview()

    assert [words.partition("(")[2].partition(",")[0] for words in seen.idle] == ["reporting)"]
    assert [words.partition("(")[2].partition(",")[0] for words in seen.busy] == ["psql)"]


def test_session_that_our_role_may_not_end(live_owned: str, server: Server) -> None:
    """A superuser's idle session is in the way of an ordinary role."""
    with server.connect(live_owned, application_name="psql"):
        seen = preview()

    assert (len(seen.idle), len(seen.busy)) == (0, 1)


def test_live_database_that_is_missing(live: str, sql: RunSql) -> None:
    """Nothing is known of its size then."""
    connection.close()
    sql(f"ALTER DATABASE {live} RENAME TO elsewhere")

    seen = preview()

    assert (seen.aliases, seen.size_bytes) == (("default",), 0)


def test_expected_duration(live: str) -> None:
    """A take will last as long as the last one of about that size did, in proportion."""
    snapshot = take(spare=False)

    for factor, expected in ((1, 1.0), (1.5, 1.5), (0.25, None), (3, None)):
        seconds = expected_take_s([snapshot], round(factor * snapshot.size_bytes))
        assert seconds == (expected and pytest.approx(expected * snapshot.seconds, rel=1e-3))
    assert expected_take_s([], 1000) is None


@pytest.mark.parametrize(
    ("application", "purpose", "who"),
    [
        ("pgsnap take seeded (ada@workstation:4711)", "take seeded", "ada@workstation:4711"),
        ("pgsnap undo (ada@workstation:4711)", "undo", "ada@workstation:4711"),
        ("pgsnap restore a/very-long-one (ada@workst", "restore a/very-long-one", "ada@workst"),
        ("pgsnap restore a-name-that-leaves-no-room", "restore a-name-that-leaves-no-room", "role"),
        ("psql", "psql", "role"),
    ],
)
def test_underway(application: str, purpose: str, who: str, live: str) -> None:
    """An operation is known by its lock, and says in its session's name what it does."""
    holder = LockHolder(pid=1, user="role", application=application, seconds=12.0)

    (found,) = find_running_operations(list_targets(), {lock_key(live): holder, 4711: holder})

    assert (found.purpose, found.who, found.aliases, found.seconds) == (
        purpose,
        who,
        ("default",),
        12.0,
    )


def test_operation_on_several_databases_is_one(lives: dict[str, str], server: Server) -> None:
    """One that holds the locks of several live databases is told once; without any, none is."""
    with server.connect(application_name="pgsnap take big (ada@web:1)") as holding:
        for name in lives.values():
            holding.execute("SELECT pg_advisory_lock(%s)", [lock_key(name)])
        (found,) = overview().underway

    assert (found.purpose, found.aliases) == ("take big", ("default", "other"))


def test_carried(live: str, sql: RunSql, role: MakeRole) -> None:
    """What the copies are set up with is told in the words of PostgreSQL."""
    role("reader")
    sql(
        f"COMMENT ON DATABASE {live} IS 'ours'; ALTER DATABASE {live} CONNECTION LIMIT 7;"
        f"ALTER DATABASE {live} SET work_mem = '8MB';"
        f"ALTER ROLE reader IN DATABASE {live} SET search_path = 'a', 'b';"
        f"GRANT CREATE ON DATABASE {live} TO reader WITH GRANT OPTION"
    )
    snapshot = take(spare=False)

    (found,) = read_carried_properties(snapshot)

    assert found["owner"] == "postgres"
    assert found["settings"] == ["reader: search_path = a, b", "work_mem = 8MB"]
    assert "reader: CREATE WITH GRANT OPTION" in found["privileges"]
    assert "PUBLIC: CONNECT, TEMPORARY" in found["privileges"]
    assert found["labels"] == []
    assert snapshot.members[0].record.comment == "ours"
    assert snapshot.members[0].record.connection_limit == 7
