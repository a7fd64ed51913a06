"""What is on the test server, and putting it back to what it should be between two tests."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import class_row

from tests.servers import SUPERUSER, Server

BUILT_IN = frozenset({"postgres", "template0", "template1"})

GONE_S = 10


@dataclass(frozen=True, kw_only=True)
class Database:
    """One row of `pg_database`, as far as tests ask.

    Attributes:
        allows_connections: false on a copy that is shut.
        connection_limit: -1 for none, -2 after an interrupted DROP.
        comment: None where there is none.
    """

    name: str
    oid: int
    owner: str
    allows_connections: bool
    connection_limit: int
    is_template: bool
    comment: str | None


def databases(server: Server) -> list[Database]:
    """Return the databases that did not come with the server, by name."""
    with server.connect() as connection:
        return _list_databases(connection)


def _list_databases(connection: Connection) -> list[Database]:
    query = """
        SELECT datname AS name, oid::bigint, pg_get_userbyid(datdba) AS owner,
               datallowconn AS allows_connections, datconnlimit AS connection_limit,
               datistemplate AS is_template, shobj_description(oid, 'pg_database') AS comment
          FROM pg_database
         WHERE datname <> ALL (%s)
         ORDER BY datname
    """
    with connection.cursor(row_factory=class_row(Database)) as cursor:
        return cursor.execute(query, [list(BUILT_IN)]).fetchall()


def remove_leftovers(server: Server, *, keep_databases: Collection[str] = ()) -> None:
    """Remove from the server all that a test left there.

    1. End the other sessions, and with them a copy under way.
    2. Forget prepared transactions, subscriptions and replication slots, which stand in DROP's way.
    3. Drop the databases, then the roles that owned them.
    """
    with server.connect() as connection:
        _end_sessions(connection)
        for database in _list_databases(connection):
            if database.name not in keep_databases:
                _drop_database(server, connection, database)
        _drop_slots(connection)
        _drop_roles(connection)


def _end_sessions(connection: Connection) -> None:
    """A fired statement may start another session while we look: ask until nobody is left."""
    terminated = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')
    """
    deadline = time.monotonic() + GONE_S
    while _column(connection, terminated):
        if time.monotonic() > deadline:
            raise TimeoutError(f"sessions stay on the test server after {GONE_S} s")
        time.sleep(0.001)


def _drop_database(server: Server, connection: Connection, database: Database) -> None:
    name = sql.Identifier(database.name)
    prepared = _column(
        connection, "SELECT gid FROM pg_prepared_xacts WHERE database = %s", database.name
    )
    subscriptions = _column(
        connection, "SELECT subname FROM pg_subscription WHERE subdbid = %s", database.oid
    )
    if prepared or subscriptions:
        with server.connect(database.name) as inside:
            for gid in prepared:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
            for subscription in subscriptions:
                _drop_subscription(inside, sql.Identifier(str(subscription)))
    if database.is_template:
        connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(name))
    for slot in _column(
        connection, "SELECT slot_name FROM pg_replication_slots WHERE database = %s", database.name
    ):
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(name))


def _drop_subscription(connection: Connection, name: sql.Identifier) -> None:
    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name))
    connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))


def _drop_slots(connection: Connection) -> None:
    connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def _drop_roles(connection: Connection) -> None:
    query = r"SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> %s"
    names = _column(connection, query, SUPERUSER)
    if names:
        roles = sql.SQL(", ").join(sql.Identifier(str(name)) for name in names)
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(roles))
        connection.execute(sql.SQL("DROP ROLE {}").format(roles))


def _column(connection: Connection, query: str, *parameters: object) -> list[object]:
    return [row[0] for row in connection.execute(query, parameters)]
