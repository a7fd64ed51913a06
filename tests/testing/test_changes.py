"""What was written in a database is told by what the server counts."""

from collections.abc import Callable

import pytest
from psycopg import sql as pg

from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.reset.changes import find_changes, read_table_counters
from tests.conftest import MakeDatabase, RunSql, SessionAs
from tests.watching import until

SCHEMA = """
    CREATE TABLE one (id serial PRIMARY KEY, name text);
    CREATE TABLE two (id int, at int) PARTITION BY RANGE (at);
    CREATE TABLE part PARTITION OF two FOR VALUES FROM (0) TO (10);
    CREATE UNLOGGED TABLE three (id int);
    CREATE MATERIALIZED VIEW view AS SELECT count(*) FROM one;
    CREATE UNIQUE INDEX ON view (count);
    CREATE SEQUENCE loose;
"""

Changed = Callable[[str], tuple[bool, set[str], set[str]]]


@pytest.fixture
def inside(make_database: MakeDatabase, session_as: SessionAs, sql: RunSql) -> Session:
    make_database()
    sql(SCHEMA, dbname="live")
    inside = session_as(database="live")
    wait_until_alone(inside)
    return inside


@pytest.fixture
def changed(inside: Session, sql: RunSql) -> Changed:
    """Tells what a statement of another session, which has ended, has changed."""
    names = dict(sql("SELECT oid, relname FROM pg_class", dbname="live"))

    def run(statement: str) -> tuple[bool, set[str], set[str]]:
        before = read_table_counters(inside)
        sql(statement, dbname="live")
        wait_until_alone(inside)
        found = find_changes(before, read_table_counters(inside))
        tables = {names[oid] for oid in found.tables if oid in names and oid >= 16384}
        return bool(found.catalogs), tables, {names[oid] for oid in found.sequences if oid in names}

    return run


def wait_until_alone(inside: Session) -> None:
    until(lambda: not inside.value(OTHERS))


OTHERS = pg.SQL(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@pytest.mark.parametrize(
    ("statement", "tables", "sequences"),
    [
        ("SELECT FROM one", set(), set()),
        ("INSERT INTO one (name) VALUES ('a')", {"one"}, {"one_id_seq"}),
        ("INSERT INTO one (id) VALUES (1)", {"one"}, set()),
        ("UPDATE one SET name = 'b'", set(), set()),
        ("INSERT INTO one (id) VALUES (1); UPDATE one SET name = 'b'", {"one"}, set()),
        ("BEGIN; INSERT INTO three VALUES (1); ROLLBACK", set(), set()),
        ("BEGIN; CREATE TABLE four (id int); TRUNCATE one; ROLLBACK", set(), set()),
        ("BEGIN; SAVEPOINT a; TRUNCATE three; ROLLBACK TO a; COMMIT", set(), set()),
        ("INSERT INTO two VALUES (1, 1)", {"part"}, set()),
        ("COPY three FROM PROGRAM 'echo 1'", {"three"}, set()),
        ("SELECT nextval('loose')", set(), {"loose"}),
        ("SELECT setval('loose', 7, false)", set(), {"loose"}),
        ("ANALYZE", set(), set()),
        ("VACUUM", set(), set()),
    ],
)
def test_rows_and_sequences(
    changed: Changed, statement: str, tables: set[str], sequences: set[str]
) -> None:
    """What is committed is counted by its table, and each use of a sequence by the sequence."""
    assert changed(statement) == (False, tables, sequences)


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE one",
        "TRUNCATE one RESTART IDENTITY",
        "CREATE TABLE four (id int)",
        "DROP TABLE three",
        "ALTER TABLE one SET (fillfactor = 50)",
        "CREATE INDEX ON one (name)",
        "CREATE TEMPORARY TABLE four (id int)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COMMENT ON TABLE one IS 'commented'",
        "GRANT SELECT ON one TO PUBLIC",
        "ALTER SEQUENCE loose RESTART WITH 9",
        "CREATE SEQUENCE another",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'large')",
        "REFRESH MATERIALIZED VIEW view",
        "CREATE EXTENSION IF NOT EXISTS plpgsql; DROP EXTENSION plpgsql",
    ],
)
def test_all_else(changed: Changed, statement: str) -> None:
    """Whatever is neither row nor sequence is written to the system catalogs."""
    has_ddl, _, _ = changed(statement)

    assert has_ddl


def test_analyzed_since(inside: Session, sql: RunSql) -> None:
    """What was committed counts, too, when the server has begun to count that anew."""
    before = read_table_counters(inside)
    for statement in ("INSERT INTO three VALUES (1)", "ANALYZE three"):
        sql(statement, dbname="live")
        wait_until_alone(inside)

    assert len(find_changes(before, read_table_counters(inside)).tables) == 1


def test_own_writing(inside: Session) -> None:
    """A session sees what it has written itself at once."""
    before = read_table_counters(inside)
    inside.execute(pg.SQL("INSERT INTO public.three VALUES (1)"))

    found = find_changes(before, read_table_counters(inside))

    assert (len(found.tables), bool(found.catalogs)) == (1, False)
