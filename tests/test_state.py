"""What the suite does between two tests."""

import pytest

from tests.conftest import TEMPLATE, RunSql
from tests.servers import Server
from tests.state import databases, remove_leftovers

# Each makes a database, or something in it, that a plain DROP DATABASE refuses to drop.
STUBBORN = {
    "connected": (),
    "half dropped": (
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = current_database()",
    ),
    "prepared": ("BEGIN", "CREATE TABLE t ()", "PREPARE TRANSACTION 'it''s'"),
    "shut": ("UPDATE pg_database SET datallowconn = false WHERE datname = current_database()",),
    "slot": ("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')",),
    "subscription": (
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)",
    ),
    "template": ("UPDATE pg_database SET datistemplate = true WHERE datname = current_database()",),
}


@pytest.mark.parametrize("kind", STUBBORN)
def test_any_leftover_is_removed(
    kind: str, clean_server: Server, sql: RunSql, template: str
) -> None:
    """Databases that resist are dropped all the same, with the roles that own them."""
    sql("CREATE ROLE owner")
    sql("CREATE DATABASE leftover OWNER owner")
    with clean_server.connect("leftover") as connection:
        for statement in STUBBORN[kind]:
            connection.execute(statement)

        remove_leftovers(clean_server, keep_databases={TEMPLATE})

    assert [database.name for database in databases(clean_server)] == [template]
    assert sql("SELECT rolname FROM pg_roles WHERE rolname = 'owner'") == []
