"""What a database is set up with survives take, restore and undo, end to end."""

from typing import Any

import pytest
from django.db import connections
from psycopg import sql as pg

from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeRole, RunSql
from tests.servers import Server
from tests.watching import Recorder, authors, settle, write

PROPERTIES = """
    SELECT pg_get_userbyid(datdba), datconnlimit, datallowconn, datistemplate,
           shobj_description(oid, 'pg_database'),
           (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
           (SELECT array_agg(setrole::regrole || ' ' || setconfig::text ORDER BY 1)
              FROM pg_db_role_setting WHERE setdatabase = d.oid)
      FROM pg_database d
     WHERE datname = %s
"""

SET_UP = [
    "GRANT CREATE ON DATABASE {live} TO reader WITH GRANT OPTION",
    "REVOKE TEMPORARY ON DATABASE {live} FROM PUBLIC",
    "ALTER DATABASE {live} SET search_path TO public, 'Odd, \"name\"'",
    "ALTER DATABASE {live} SET statement_timeout TO '12345'",
    "ALTER ROLE reader IN DATABASE {live} SET work_mem TO '7MB'",
    "ALTER DATABASE {live} CONNECTION LIMIT 17",
    "ALTER DATABASE {live} OWNER TO keeper",
    "COMMENT ON DATABASE {live} IS 'it''s \"ours\"; {{\"pgsnap\": 2}} 🐘'",
]


@pytest.fixture
def set_up(live: str, role: MakeRole, sql: RunSql) -> str:
    """The name of a live database that has got one of each property."""
    role("reader")
    role("keeper")
    for statement in SET_UP:
        sql(pg.SQL(statement).format(live=pg.Identifier(live)))
    return live


def test_restore_and_undo(set_up: str, sql: RunSql) -> None:
    """Owner, privileges, settings, limit and comment stay through restore, undo and redo."""
    before = _properties(sql, set_up)
    recorder = Recorder()
    take("seeded", reporter=recorder)
    write("Ursula")

    restore("seeded", reporter=recorder)
    assert (_properties(sql, set_up), authors()) == (before, [])

    undo(reporter=recorder)
    assert (_properties(sql, set_up), authors()) == (before, ["Ursula"])

    undo(reporter=recorder)
    assert (_properties(sql, set_up), authors()) == (before, [])
    assert recorder.warnings == []


def test_restore_without_a_spare(set_up: str, sql: RunSql) -> None:
    """A clone that is made for the restore gets the properties too."""
    before = _properties(sql, set_up)
    take("seeded", spare=False)

    restore("seeded")

    assert _properties(sql, set_up) == before


def test_environment_of_today_counts(set_up: str, sql: RunSql) -> None:
    """What was granted, revoked or set since the take stays as it is: it is no data."""
    take("seeded")
    for statement in (
        "REVOKE ALL ON DATABASE {live} FROM reader CASCADE",
        "GRANT CONNECT ON DATABASE {live} TO reader",
        "ALTER DATABASE {live} RESET statement_timeout",
        "ALTER DATABASE {live} SET work_mem TO '5MB'",
        "ALTER ROLE reader IN DATABASE {live} RESET ALL",
        "ALTER DATABASE {live} CONNECTION LIMIT 23",
        "COMMENT ON DATABASE {live} IS 'another'",
    ):
        sql(pg.SQL(statement).format(live=pg.Identifier(set_up)))
    today = _properties(sql, set_up)
    write("Ursula")

    restore("seeded")
    assert _properties(sql, set_up) == today

    undo()
    assert (_properties(sql, set_up), authors()) == (today, ["Ursula"])


def test_owner_of_today_counts(live: str, role: MakeRole, sql: RunSql, server: Server) -> None:
    """A database that was given to another role since the take stays that role's."""
    take("seeded")
    settle(server)
    sql(pg.SQL("ALTER DATABASE {} OWNER TO {}").format(*map(pg.Identifier, (live, role("keeper")))))

    restore("seeded")
    assert _properties(sql, live)[0] == "keeper"

    undo()
    assert _properties(sql, live)[0] == "keeper"


def test_revoked_while_it_was_the_undo(set_up: str, sql: RunSql) -> None:
    """What was revoked after the restore is not back after the undo."""
    take("seeded")
    restore("seeded")
    sql(pg.SQL("REVOKE ALL ON DATABASE {} FROM reader CASCADE").format(pg.Identifier(set_up)))
    today = _properties(sql, set_up)

    undo()

    assert _properties(sql, set_up) == today


def test_live_database_that_is_missing(set_up: str, sql: RunSql, server: Server) -> None:
    """Where the live database is gone, those of the time of the take come back."""
    _own(sql, set_up)
    before = _properties(sql, set_up)
    take("seeded")
    settle(server)
    _drop(sql, set_up)

    restore("seeded")

    assert _properties(sql, set_up) == before


def test_undo_of_a_live_database_that_is_missing(set_up: str, sql: RunSql, server: Server) -> None:
    """Where the live database is gone, the undo has its own properties still."""
    _own(sql, set_up)
    take("seeded")
    write("Ursula")
    restore("seeded")
    settle(server)
    before = _properties(sql, set_up)
    _drop(sql, set_up)

    undo()

    assert (_properties(sql, set_up), authors()) == (before, ["Ursula"])


def test_copies_give_nothing_away(set_up: str, sql: RunSql, server: Server) -> None:
    """No comment of ours has a setting or a privilege in it, since everyone can read comments."""
    sql(pg.SQL("ALTER DATABASE {} SET my.key TO 'secret'").format(pg.Identifier(set_up)))
    take("seeded")
    restore("seeded")

    comments = [each.comment or "" for each in settle(server) if each.name != set_up]

    assert len(overview().undos) == 1
    assert not any("secret" in comment or "reader" in comment for comment in comments)


def _properties(sql: RunSql, database: str) -> tuple[Any, ...]:
    connections.close_all()
    (row,) = sql(PROPERTIES, [database])
    return row


def _own(sql: RunSql, database: str) -> None:
    """Make our role the owner: where a live database is gone, nobody else's copies count."""
    sql(pg.SQL("ALTER DATABASE {} OWNER TO postgres").format(pg.Identifier(database)))


def _drop(sql: RunSql, database: str) -> None:
    connections.close_all()
    sql(pg.SQL("DROP DATABASE {} (FORCE)").format(pg.Identifier(database)))
