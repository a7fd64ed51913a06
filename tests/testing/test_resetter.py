"""Resets give exactly the baseline, whatever was written, by whomever."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql as pg

from django_pgsnap import safety
from django_pgsnap.conf import TEST_DATABASES
from django_pgsnap.connections.reconnect import check_oid
from django_pgsnap.errors import DatabaseBusyError
from django_pgsnap.postgres.inspection import read_activity
from django_pgsnap.postgres.session import Session
from django_pgsnap.signals import post_restore
from django_pgsnap.testing.databases import own_databases
from django_pgsnap.testing.databases.own_databases import OwnDatabase
from django_pgsnap.testing.reset.resetter import (
    DatabaseResetter,
    close_resetters,
    get_resetter,
    list_resetters,
)
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql
from tests.contents import contents
from tests.servers import Server

SCHEMA = """
    CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
    CREATE TABLE child (
        id serial PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE,
        double int GENERATED ALWAYS AS (id * 2) STORED, at timestamptz DEFAULT now(), data bytea
    );
    INSERT INTO parent (name) SELECT 'parent ' || n FROM generate_series(1, 5) n;
    INSERT INTO child (parent_id, data) SELECT n, '\\xff00' FROM generate_series(1, 5) n;
    CREATE TABLE audit (line text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit VALUES (TG_OP); RETURN NULL; END $$;
    CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON parent
        FOR EACH ROW EXECUTE FUNCTION note();
    CREATE UNLOGGED TABLE unlogged (id int);
    INSERT INTO unlogged VALUES (1);
    CREATE TABLE parts (id int, at int) PARTITION BY RANGE (at);
    CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
    INSERT INTO parts VALUES (1, 1), (2, 11);
    CREATE TABLE elder (id int);
    CREATE TABLE younger (more int) INHERITS (elder);
    INSERT INTO elder VALUES (1);
    INSERT INTO younger VALUES (2, 2);
    CREATE TABLE ruled (id int);
    INSERT INTO ruled VALUES (1);
    CREATE RULE kept AS ON DELETE TO ruled DO INSTEAD NOTHING;
    CREATE TABLE watched (id int);
    CREATE TRIGGER always AFTER INSERT OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION note();
    ALTER TABLE watched ENABLE ALWAYS TRIGGER always;
    CREATE MATERIALIZED VIEW summary AS SELECT count(*) AS count FROM parent;
    CREATE SEQUENCE counter;
    CREATE SEQUENCE called;
    SELECT nextval('called');
    SELECT lo_from_bytea(0, 'large');
"""

ROWS = [
    "INSERT INTO parent (name) VALUES ('new')",
    "UPDATE parent SET name = 'changed' WHERE id = 2",
    "DELETE FROM parent WHERE id = 3",
    "INSERT INTO child (parent_id) SELECT id FROM parent",
    "INSERT INTO unlogged VALUES (2)",
    "INSERT INTO parts VALUES (3, 5), (4, 15)",
    "UPDATE parts SET at = at + 9 WHERE at < 10",
    "UPDATE elder SET id = id + 1",
    "INSERT INTO child (data) SELECT repeat('x', 9000)::bytea FROM generate_series(1, 20)",
    "BEGIN; INSERT INTO parent (name) VALUES ('gone'); ROLLBACK",
    "BEGIN; INSERT INTO parent (name) VALUES ('prepared'); PREPARE TRANSACTION 'left'",
    "SELECT nextval('counter')",
    "SELECT setval('counter', 100, false)",
    "SELECT setval('called', 1, false)",
    "SELECT setval('called', 7)",
    "ANALYZE parent",
]
# What can be undone by dropping what is new.
CREATED = [
    "CREATE TABLE extra (id serial PRIMARY KEY, at int REFERENCES parent)",
    "CREATE TABLE base (id int); CREATE TABLE extra () INHERITS (base); CREATE SEQUENCE loose",
    "CREATE TABLE base (id int); CREATE VIEW shown AS SELECT * FROM base",
    "CREATE MATERIALIZED VIEW extra AS SELECT * FROM parent",
    "CREATE VIEW extra AS SELECT * FROM parent",
    "CREATE TABLE base (id int) PARTITION BY LIST (id); CREATE TABLE one PARTITION OF base DEFAULT",
    "CREATE SCHEMA extra; CREATE TABLE extra.one (id serial); CREATE TYPE extra.kind AS (id int)",
    "CREATE TRIGGER extra AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE FUNCTION extra(int, VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE PROCEDURE extra() LANGUAGE sql AS ''",
    "CREATE AGGREGATE total (int) (sfunc = int4pl, stype = int)",
    "CREATE TYPE extra AS ENUM ('a'); CREATE DOMAIN more AS extra[]; CREATE TYPE pair AS (a more)",
    "CREATE TYPE extra AS RANGE (subtype = float8)",
]
UNDONE = [
    "TRUNCATE child",
    "TRUNCATE parent RESTART IDENTITY CASCADE",
    "CREATE TABLE extra (id serial PRIMARY KEY, at int REFERENCES parent); DROP TABLE extra",
    "BEGIN; ALTER TABLE parent ADD COLUMN more int; ROLLBACK",
    "CREATE INDEX extra ON parent (name); DROP INDEX extra",
    "ALTER TABLE parent ADD CONSTRAINT new CHECK (id > 0); ALTER TABLE parent DROP CONSTRAINT new",
    "CREATE FUNCTION extra() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION extra()",
    "ALTER TABLE parent DISABLE TRIGGER noted; ALTER TABLE parent ENABLE TRIGGER noted",
    "SELECT lo_unlink(lo_create(0))",
    "ALTER SEQUENCE counter RESTART WITH 50",
    "VACUUM FULL parent",
]
OTHERS = [
    "ALTER TABLE child DROP COLUMN at; ALTER TABLE child ADD COLUMN at timestamptz DEFAULT now()",
    "ALTER SEQUENCE counter INCREMENT BY 2",
    "ALTER TABLE parent ADD COLUMN more int DEFAULT 1",
    "DROP TABLE child",
    "GRANT SELECT ON parent TO PUBLIC",
    "COMMENT ON TABLE parent IS 'commented'",
    "INSERT INTO ruled VALUES (2)",
    "INSERT INTO watched VALUES (2)",
    "REFRESH MATERIALIZED VIEW summary",
    "SELECT lo_from_bytea(0, 'another')",
    "SELECT lo_put((SELECT oid FROM pg_largeobject_metadata LIMIT 1), 0, 'X')",
    "INSERT INTO unlogged SELECT generate_series(1, 300000)",
    "SELECT pg_stat_reset()",
]

GONE_S = 20

# A prepared transaction may hold what another statement waits for.
PATIENCE = "SET lock_timeout = '100ms'"

Writer = Callable[[str], object]
Held = Callable[[], dict[str, Any]]
Oid = Callable[[], int]


@pytest.fixture
def resetter(live: str, sql: RunSql) -> DatabaseResetter:
    """Resets the live database, as if it was a test database."""
    sql(SCHEMA, dbname=live)
    return make_resetter(live)


@pytest.fixture(autouse=True)
def _given_up(clean_server: Server) -> Iterator[None]:
    yield
    give_up()


def make_resetter(name: str, template: str | None = None, written: int = 0) -> DatabaseResetter:
    own_databases.register_database(
        OwnDatabase(alias="default", name=name, source="source", template=template, written=written)
    )
    found = get_resetter("default")
    assert found is not None
    return found


def give_up() -> None:
    close_resetters()
    own_databases._own.clear()
    for session in own_databases._sessions.values():
        session.close()
    own_databases._sessions.clear()
    os.environ.pop(TEST_DATABASES, None)
    safety._created_here.clear()


@pytest.fixture
def held(clean_server: Server) -> Held:
    """Reads all that the test database holds."""

    def run() -> dict[str, Any]:
        with clean_server.connect(str(connection.settings_dict["NAME"])) as inside:
            return contents(inside)

    return run


@pytest.fixture
def oid(sql: RunSql) -> Oid:
    """Tells which database has the test database's name."""
    query = "SELECT oid FROM pg_database WHERE datname = %s"
    return lambda: int(sql(query, [connection.settings_dict["NAME"]])[0][0])


class Writers:
    """Those who write to the database, each in a way of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._clients: list[psycopg.Connection[Any]] = []
        self.all: dict[str, Writer] = {
            "django": by_django,
            "thread": lambda statement: self._thread.submit(by_django, statement).result(),
            "client": self.by_a_client,
            "idle client": lambda statement: self.by_a_client(statement, leave=False),
        }

    def by_a_client(self, statement: str, *, leave: bool = True) -> None:
        client = psycopg.connect(**plain_parameters(), autocommit=True)
        self._clients.append(client)
        client.execute(PATIENCE)
        client.execute(statement)
        if leave:
            client.close()

    def end(self) -> None:
        while self._clients:
            self._clients.pop().close()
        self._thread.submit(lambda: connection.close()).result()  # noqa: PLW0108  # its thread's own


def plain_parameters() -> dict[str, Any]:
    parameters = connection.get_connection_params()
    return {name: parameters[name] for name in ("dbname", "host", "port", "user", "password")}


def by_django(statement: str) -> None:
    """Write by the connection that tests use."""
    with connection.cursor() as cursor:
        cursor.execute(PATIENCE)
        cursor.execute(statement)


def try_to(write: Writer, statement: str) -> None:
    """Write what is perhaps impossible after something else was written."""
    with suppress(DatabaseError, psycopg.Error):
        write(statement)


@settings(max_examples=8)
@given(
    steps=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["django", "thread", "client", "idle client"]),
                st.sampled_from(ROWS + UNDONE + CREATED + OTHERS),
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_exactly(
    steps: list[list[tuple[str, str]]], resetter: DatabaseResetter, held: Held
) -> None:
    """After any writing by anybody the database holds what it held before."""
    before = held()
    writers = Writers()

    for step in steps:
        for name, statement in step:
            try_to(writers.all[name], statement)
        resetter.reset()
        writers.end()

        assert held() == before


def test_rows_are_put_back_in_place(resetter: DatabaseResetter, held: Held, oid: Oid) -> None:
    """Where only rows were written, and whatever else was done is undone, the database stays."""
    before, place = held(), oid()

    for statement in ROWS + UNDONE + CREATED:
        by_django(statement)
        resetter.reset()

        assert (statement, held(), oid()) == (statement, before, place)


def test_all_else_takes_a_clone(resetter: DatabaseResetter, held: Held, oid: Oid) -> None:
    """Where more was written than rows, or it cannot be told, a clone takes the place."""
    before = held()

    for statement in OTHERS:
        place = oid()
        by_django(statement)
        resetter.reset()

        assert (statement, held()) == (statement, before)
        assert (statement, oid()) != (statement, place)


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        # To renew the session, to count and to compare.
        ("CREATE TABLE extra (id int); DROP TABLE extra", 3),
        # To renew the session, and to ask for sequences.
        ("DELETE FROM parent WHERE id = 77", 2),
    ],
    ids=["undone DDL", "nothing written"],
)
def test_few_statements(
    resetter: DatabaseResetter,
    live: str,
    sql: RunSql,
    clean_server: Server,
    *,
    script: str,
    statements: int,
) -> None:
    """A reset that puts nothing back costs few statements on the test database."""
    log_all = pg.SQL("ALTER DATABASE {} SET log_statement = 'all'")
    sql(log_all.format(pg.Identifier(live)))
    by_django(script)
    before = len(clean_server.log)

    resetter.reset()

    sent = [line for line in clean_server.log[before:].splitlines() if f"@{live}/" in line]
    sent = [line for line in sent if "statement:" in line or "execute" in line]
    assert len(sent) == statements, sent


def test_temporary_tables(resetter: DatabaseResetter, held: Held, oid: Oid) -> None:
    """They are gone with their session; the empty schema that the server keeps for them stays."""
    before, place = held(), oid()
    by_django("CREATE TEMPORARY TABLE passing (id serial)")

    resetter.reset()

    after = held()
    assert {name for name in before if after[name] != before[name]} == {"pg_namespace"}
    assert oid() == place


def test_nobody_has_been_there(resetter: DatabaseResetter, oid: Oid, clean_server: Server) -> None:
    """Where nothing happened nothing is done, not even looked at."""
    resetter.reset()
    assert connection.connection is None
    lines = len(clean_server.log)

    resetter.start()

    assert connection.connection is None
    assert "DELETE" not in clean_server.log[lines:]


def test_alias_that_was_forbidden(
    resetter: DatabaseResetter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a class that may not use an alias, that alias' own connection serves again."""
    wrapper = connections["default"]
    # As Django leaves it.
    monkeypatch.setitem(vars(wrapper), "connect", wrapper.connect)
    by_django("INSERT INTO audit VALUES ('written')")

    resetter.start()

    assert connection.connection is not None


@pytest.mark.parametrize("engine", ["django.db.backends.postgresql", "tests.no_such_backend"])
def test_aliases_of_others(
    resetter: DatabaseResetter, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test adds to the aliases is left alone, even if it lacks settings or its driver."""
    monkeypatch.setitem(connections.settings, "late", {"ENGINE": engine})

    assert list_resetters() == [("default", resetter)]


def test_dropped_by_a_test(resetter: DatabaseResetter, held: Held, sql: RunSql, live: str) -> None:
    """A test database that a test has dropped is there again."""
    before = held()
    connection.close()
    sql(pg.SQL("DROP DATABASE {} (FORCE)").format(pg.Identifier(live)))

    resetter.reset()

    assert held() == before


def test_only_a_sequence_has_moved(resetter: DatabaseResetter, held: Held) -> None:
    """That counts by the session that a start hands to tests, too, though it writes no row."""
    before = held()
    by_django("DELETE FROM parent")
    resetter.start()
    by_django("SELECT setval('counter', 1000)")

    resetter.start()
    by_django("SELECT 1")
    assert resetter.adopt_state() is resetter.run_baseline
    assert held() == before
    by_django("DELETE FROM parent")
    resetter.start()
    by_django("SELECT setval('counter', 2000)")
    resetter.adopt_state()
    on_top = held()
    by_django("SELECT nextval('counter')")
    resetter.reset()

    assert held() == on_top != before


@pytest.mark.parametrize("statement", ["SELECT 1", "DELETE FROM parent"], ids=["read", "written"])
def test_sequences_may_stay(
    resetter: DatabaseResetter, held: Held, sql: RunSql, live: str, statement: str
) -> None:
    """Where nothing but sequences has changed they may stay, and go back later all the same."""
    before = held()
    for number in (1000, 2000):
        with transaction.atomic():
            by_django(f"SELECT setval('counter', {number})")
            by_django(statement)
            transaction.set_rollback(True)
        resetter.start(leave_sequences=True)
        assert sql("SELECT last_value FROM counter", dbname=live) == [(number,)]

    resetter.start(leave_sequences=True)
    resetter.start()

    assert held() == before
    by_django("SELECT setval('counter', 3000)")
    by_django("DELETE FROM parent")
    resetter.start(leave_sequences=True)
    assert held() == before


def test_sequence_set_by_the_project(
    live: str, make_database: MakeDatabase, session: Session, sql: RunSql
) -> None:
    """What a project sets up beyond its template is in the baseline, be it but a sequence."""
    sql("CREATE SEQUENCE counter", dbname=live)
    make_database("template")
    sql("CREATE SEQUENCE counter", dbname="template")
    rows = read_activity(session, live).rows
    by_django("SELECT setval('counter', 1000)")
    resetter = make_resetter(live, template="template", written=rows)

    by_django("CREATE TABLE extra (id int)")
    resetter.reset()

    assert sql("SELECT last_value FROM counter", dbname=live) == [(1000,)]


def test_baseline_on_top(resetter: DatabaseResetter, held: Held, oid: Oid) -> None:
    """Tests start from what was made on top, until they start from the run's baseline again."""
    before, place = held(), oid()
    by_django("INSERT INTO parent (name) VALUES ('layer')")
    on_top_of_it = resetter.adopt_state()
    on_top = held()
    for statement in ("DELETE FROM parent", "SELECT setval('counter', 9)", "DROP TABLE child"):
        by_django(statement)
        resetter.reset()
        assert (statement, held()) == (statement, on_top)

    resetter.start()
    assert held() == before
    resetter.start(on_top_of_it)
    assert held() == on_top
    assert oid() != place


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE extra (id int)", "INSERT INTO ruled VALUES (2)"]
)
def test_baseline_on_top_that_takes_a_clone(
    resetter: DatabaseResetter, held: Held, statement: str
) -> None:
    """What was made on top may be anything."""
    before = held()
    by_django(statement)
    resetter.adopt_state()
    on_top = held()
    by_django("DELETE FROM parent")

    resetter.reset()
    assert held() == on_top
    resetter.start()
    assert held() == before


# What takes a clone to be undone.
ALTERED = "ALTER TABLE parent ADD COLUMN more int"


def test_clone_of_the_right_baseline(resetter: DatabaseResetter, held: Held) -> None:
    """A clone that was made ahead of one baseline does not serve for another."""
    before = held()
    by_django(ALTERED)
    resetter.reset()
    by_django("CREATE TABLE here (id int)")
    resetter.adopt_state()
    on_top = held()

    for _ in range(2):
        by_django(ALTERED)
        resetter.reset()
        assert held() == on_top

    resetter.start()
    assert held() == before


def test_two_clones_ahead(
    resetter: DatabaseResetter, held: Held, clean_server: Server, sql: RunSql
) -> None:
    """Where a clone is asked for before it is complete, two are made ahead from then on."""
    before = held()
    cloners = "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'pgsnap test clones%'"
    by_django(ALTERED)
    resetter.reset()
    while sql(cloners) != [("idle",)]:
        pass
    with clean_server.connect() as other:
        # No CREATE DATABASE gets past this.
        origin = pg.Identifier(resetter.run_baseline.origin)
        other.execute("BEGIN")
        other.execute(pg.SQL("COMMENT ON DATABASE {} IS 'held'").format(origin))
        by_django(ALTERED)
        resetter.reset()
        by_django(ALTERED)
        release = threading.Timer(0.5, other.rollback)
        release.start()
        resetter.reset()
        release.join()

    assert held() == before
    assert len(sql(cloners)) == 2


def test_settings_of_the_database(live: str, sql: RunSql, role: MakeRole) -> None:
    """Every clone has the settings and privileges of the test database."""
    sql(SCHEMA, dbname=live)
    name, guest = pg.Identifier(live), pg.Identifier(role())
    sql(pg.SQL("ALTER DATABASE {} SET work_mem = '5MB'").format(name))
    sql(pg.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(name, guest))
    query = "SELECT current_setting('work_mem'), datacl::text FROM pg_database WHERE datname = %s"
    before = sql(query, [live], dbname=live)
    resetter = make_resetter(live)

    for _ in range(4):
        by_django(ALTERED)
        resetter.reset()

        assert sql(query, [live], dbname=live) == before


def test_written_before_the_first_baseline(
    live: str, make_database: MakeDatabase, session: Session, sql: RunSql
) -> None:
    """What a project writes beyond its template is in the baseline of the run."""
    sql("CREATE TABLE things (id int)", dbname=live)
    make_database("template")
    sql("CREATE TABLE things (id int)", dbname="template")
    rows = read_activity(session, live).rows
    by_django("INSERT INTO things VALUES (7)")
    connection.close()
    resetter = make_resetter(live, template="template", written=rows)

    by_django("ALTER TABLE things ADD COLUMN more int")
    resetter.reset()

    assert sql("SELECT * FROM things", dbname=live) == [(7,)]


def test_nobody_is_told_of_a_clone(resetter: DatabaseResetter, oid: Oid) -> None:
    """To tests it is always the same database: no restore is announced when a clone replaces it."""
    heard: list[object] = []

    def hear(**arguments: object) -> None:
        heard.append(arguments)

    by_django("SELECT 1")
    check_oid("default", connection.connection)
    before = oid()
    post_restore.connect(hear)
    try:
        by_django(ALTERED)
        resetter.reset()
        by_django("SELECT 1")

        check_oid("default", connection.connection)
    finally:
        post_restore.disconnect(hear)
    assert oid() != before
    assert heard == []


def test_start_from_another_database(
    resetter: DatabaseResetter, held: Held, make_database: MakeDatabase, sql: RunSql
) -> None:
    """Tests can start from any shut database, which stays as it is."""
    before = held()
    make_database("snapshot")
    sql("CREATE TABLE here AS SELECT 1 AS id", dbname="snapshot")
    resetter.start_from("snapshot")
    by_django("INSERT INTO here VALUES (2)")

    resetter.reset()

    assert held()["here"] == [("(1)",)]
    resetter.start()
    assert held() == before


def test_at_work(resetter: DatabaseResetter, clean_server: Server, live: str) -> None:
    """Who is in a transaction is waited for, then named."""
    with clean_server.connect(live) as other, override_settings(PGSNAP={"WAIT_S": 0.1}):
        other.execute("BEGIN; LOCK TABLE parent")
        with pytest.raises(DatabaseBusyError, match=f"Other sessions are using '{live}'"):
            resetter.reset()


def test_pool(resetter: DatabaseResetter, held: Held) -> None:
    """With a pool, its connections are ended, and it is made anew."""
    before = held()
    connection.settings_dict["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2}}

    for _ in range(2):
        by_django("DELETE FROM parent")
        resetter.reset()

        assert held() == before

    by_django("DELETE FROM parent")
    resetter.reset()
    by_django("SELECT nextval('counter')")
    resetter.reset()

    assert held() == before


def test_rights_are_missing(live_owned: str, held: Held, sql: RunSql, oid: Oid) -> None:
    """What our role may not put back row by row takes a clone."""
    sql("CREATE TABLE guarded AS SELECT 1 AS id", dbname=live_owned)
    sql("GRANT SELECT, INSERT ON guarded TO ordinary", dbname=live_owned)
    resetter = make_resetter(live_owned)
    before, place = held(), oid()
    by_django("INSERT INTO guarded VALUES (2)")

    resetter.reset()

    assert held() == before
    assert oid() != place


def test_ordinary_role(live_owned: str, held: Held, sql: RunSql, oid: Oid) -> None:
    """Without the right to switch triggers off, Django's own tables are put back all the same."""
    sql("INSERT INTO testapp_author (name) VALUES ('Ada')", dbname=live_owned)
    sql("INSERT INTO testapp_book (title, author_id) VALUES ('Notes', 1)", dbname=live_owned)
    resetter = make_resetter(live_owned)
    before, place = held(), oid()
    by_django("INSERT INTO testapp_author (name) VALUES ('Bob')")
    by_django("UPDATE testapp_book SET author_id = 2")

    resetter.reset()
    assert (held(), oid()) == (before, place)
    by_django("UPDATE testapp_author SET name = 'changed'")
    resetter.reset()

    assert (held(), oid()) == (before, place)


def test_nothing_is_left(
    resetter: DatabaseResetter, held: Held, live: str, databases: ListDatabases, sql: RunSql
) -> None:
    """When all is over, clones and baselines are dropped by the server."""
    by_django("CREATE TABLE extra (id int)")
    resetter.reset()
    assert len(databases()) > 1

    give_up()

    errands = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgsnap clearing up%'"
    deadline = time.monotonic() + GONE_S
    while sql(errands):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [database.name for database in databases()] == [live]
