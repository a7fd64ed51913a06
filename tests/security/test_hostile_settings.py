"""What databases and roles can carry that changes a session: no verb is led astray by it."""

import pytest
from psycopg import sql as pg

from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeRole, RunSql
from tests.security.conftest import victim
from tests.servers import Server
from tests.watching import Recorder, authors, settle, write

# What a database's owner may set for whoever connects, to the value that hinders most.
SETTINGS = [
    "search_path = nowhere",
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "default_transaction_deferrable = on",
    "statement_timeout = '100ms'",
    "lock_timeout = '100ms'",
    "idle_session_timeout = '100ms'",
    "idle_in_transaction_session_timeout = '100ms'",
    "client_encoding = 'SQL_ASCII'",
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "escape_string_warning = on",
    "quote_all_identifiers = on",
    "array_nulls = off",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = iso_8601",
    "TimeZone = 'Pacific/Kiritimati'",
    "bytea_output = escape",
    "extra_float_digits = -15",
    "xmloption = document",
    "row_security = off",
    "transform_null_equals = on",
    "client_min_messages = debug5",
    "client_connection_check_interval = 0",
    "synchronous_commit = off",
    "default_tablespace = nowhere",
    "default_table_access_method = nowhere",
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "cursor_tuple_fraction = 0",
    "work_mem = '64kB'",
]
# Nobody comes in any more.
LOCKED_OUT = ["local_preload_libraries = nowhere"]


@pytest.fixture
def plain(victim_live: str) -> str:
    """A live database with somebody in it, of which all verbs are tried."""
    write("Ursula")
    return victim_live


def try_all_verbs(server: Server) -> None:
    """Take, restore, undo, list, diagnose and delete, and see that each does what it says."""
    take("seeded", spare=False)
    assert [each.name for each in list_snapshots()] == ["seeded"]
    restore("seeded")
    undo()
    diagnose(fix=True)
    delete("seeded")
    assert list_snapshots() == ()
    settle(server)


@pytest.mark.parametrize("settings", [SETTINGS, LOCKED_OUT])
def test_settings_of_the_live_database(
    settings: list[str], plain: str, sql: RunSql, server: Server
) -> None:
    """Whatever a live database sets for whoever connects, all verbs work, and it keeps its data."""
    name = pg.Identifier(plain)
    for setting in settings:
        sql(pg.SQL("ALTER DATABASE {} SET " + setting).format(name))

    try_all_verbs(server)

    sql(pg.SQL("ALTER DATABASE {} RESET ALL").format(name))
    assert authors() == ["Ursula"]


def test_role_of_the_live_database(plain: str, role: MakeRole, sql: RunSql, server: Server) -> None:
    """A live database that makes everybody another role does not make our sessions that role."""
    sql(pg.SQL("GRANT {} TO {}").format(*map(pg.Identifier, (role("another"), victim()))))
    sql(pg.SQL("ALTER DATABASE {} SET role = another").format(pg.Identifier(plain)))

    try_all_verbs(server)

    sql(pg.SQL("ALTER DATABASE {} RESET ALL").format(pg.Identifier(plain)))
    assert authors() == ["Ursula"]


LOGIN_TRIGGER = """
CREATE FUNCTION public.keep_out() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'nobody may come in here';
END $$;
CREATE EVENT TRIGGER keep_out ON login EXECUTE FUNCTION public.keep_out();
ALTER EVENT TRIGGER keep_out ENABLE ALWAYS;
"""


@pytest.mark.pg(">= 17")
def test_login_trigger(plain: str, sql: RunSql, server: Server) -> None:
    """A snapshot of a database that turns everybody away is taken, and brings it back as it was.

    Its trigger runs for nobody but those who come into the live database.
    """
    take("before", spare=False)
    sql(LOGIN_TRIGGER, dbname=plain)
    heard = Recorder()
    before = server.log_size_bytes

    take("seeded", reporter=heard)
    settle(server)
    restore("seeded")
    delete("seeded")
    restore("before")

    assert authors() == ["Ursula"]
    assert any("nobody may come in here" in each for each in heard.warnings)
    turned_away = [
        line for line in server.read_log(before).splitlines() if "nobody may come" in line
    ]
    assert all(f"@{plain}/" in line for line in turned_away)
