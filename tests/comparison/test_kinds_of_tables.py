"""Every kind of table and of value is compared, or it is said that it is not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from django_pgsnap.comparison.diff import diff
from django_pgsnap.comparison.tables import Table, pair_tables
from django_pgsnap.errors import MissingRightError
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.servers import Server

Run = Callable[[str], object]


@pytest.fixture
def run(live: str, server: Server) -> Run:
    """Runs statements on the live database, one at a time."""

    def run(script: str) -> object:
        """Return what the last one gave."""
        with server.connect(live) as connection:
            for statement in script.split(";"):
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return run


# A table, a change of one row of it, and which columns change.
KINDS = {
    # They can be neither ordered nor hashed, as most types of PostGIS' kind.
    "no operators": (
        (
            "CREATE TABLE t (id int PRIMARY KEY, a point, b json, c circle, d polygon, e tsquery);"
            """INSERT INTO t SELECT i, '(1,2)', '{"a": 1}', '<(0,0),1>', '((0,0),(1,1))', 'x'
        FROM generate_series(1, 9) i"""
        ),
        "UPDATE t SET a = '(1,3)', b = '{\"a\":1}' WHERE id = 5",
        {"a": 1, "b": 1},
    ),
    "no key": (
        (
            "CREATE TABLE t (a point, b json);"
            "INSERT INTO t SELECT '(1,2)', '[]' FROM generate_series(1, 9) i"
        ),
        "UPDATE t SET a = '(1,3)' WHERE ctid = '(0,5)'",
        {},
    ),
    "unlogged": (
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2)",
        "UPDATE t SET a = 3 WHERE id = 1",
        {"a": 1},
    ),
    "identity": (
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int);"
            "INSERT INTO t (a) VALUES (1), (2)"
        ),
        "UPDATE t SET a = 3 WHERE id = 1",
        {"a": 1},
    ),
    "domain": (
        (
            "CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);"
            "CREATE TABLE t (id int PRIMARY KEY, a even[]);"
            "INSERT INTO t VALUES (1, '{2}'), (2, '{4}')"
        ),
        "UPDATE t SET a = '{6}' WHERE id = 1",
        {"a": 1},
    ),
    "collation": (
        (
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1',"
            " deterministic = false);"
            "CREATE TABLE t (id int PRIMARY KEY, a text COLLATE loose);"
            "INSERT INTO t VALUES (1, 'a'), (2, 'b')"
        ),
        "UPDATE t SET a = 'A' WHERE id = 1",
        {"a": 1},
    ),
    "materialized": (
        "CREATE TABLE s AS SELECT 1 AS a; CREATE MATERIALIZED VIEW t AS SELECT * FROM s",
        "UPDATE s SET a = 2; REFRESH MATERIALIZED VIEW t; UPDATE s SET a = 1",
        {},
    ),
}


@pytest.mark.parametrize("rewrite", [False, True], ids=["versions", "contents"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_row(kind: str, run: Run, *, rewrite: bool) -> None:
    """One row of a table changes, and is told by either way of comparing."""
    table, change, columns = KINDS[kind]
    try:
        run(table)
    except psycopg.errors.FeatureNotSupported:
        if kind != "collation":
            raise
        pytest.skip("This server is built without ICU")
    take("seeded", spare=False)
    run(change)
    if rewrite and kind != "materialized":
        run("VACUUM FULL t")

    (found,) = diff("seeded").tables

    counts = (found.added, found.removed, found.changed)
    assert found.table == "t"
    assert counts == ((0, 0, 1) if columns else (1, 1, 0))
    assert found.changed_columns == columns
    assert found.method == ("contents" if rewrite or kind == "materialized" else "row versions")


def test_generated_column(run: Run) -> None:
    """Another expression changes a virtual column's values, though no row is written."""
    if not run("SELECT 1 WHERE current_setting('server_version_num')::int >= 180000"):
        pytest.skip("PostgreSQL 18 is the first with virtual columns")
    run("CREATE TABLE t (id int PRIMARY KEY, a int GENERATED ALWAYS AS (id * 2) VIRTUAL)")
    run("INSERT INTO t VALUES (1), (2)")
    take("seeded", spare=False)
    run("ALTER TABLE t ALTER COLUMN a SET EXPRESSION AS (id + 2 * (id - 1))")

    (found,) = diff("seeded").tables

    assert (found.changed, found.changed_columns) == (1, {"a": 1})


def test_foreign_tables(run: Run) -> None:
    """That they are not read is said."""
    run("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w")
    run("CREATE FOREIGN TABLE f (id int) SERVER s")
    take("seeded", spare=False)

    assert diff("seeded").notes == ("Foreign tables of 'default' were not compared.",)


def test_other_access_method(live: str, run: Run) -> None:
    """Only of the server's own heap is it known what places and transactions of rows mean."""
    run("CREATE ACCESS METHOD pile TYPE TABLE HANDLER heap_tableam_handler")
    run(
        "CREATE TABLE t (id int PRIMARY KEY, a int) USING pile; INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    take("seeded", spare=False)
    assert diff("seeded").is_empty

    run("UPDATE t SET a = 3 WHERE id = 1")

    (table,) = diff("seeded").tables
    assert (table.changed_columns, table.method) == ({"a": 1}, "contents")


def test_row_security(live_owned: str, sql: RunSql) -> None:
    """A role that may not see all rows is refused, and told of the rest."""
    sql(
        "ALTER TABLE testapp_author ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        dbname=live_owned,
    )
    take("seeded", spare=False)

    with pytest.raises(MissingRightError, match="row-level security policy for table"):
        diff("seeded")
    assert diff("seeded", models=["testapp.book"]).is_empty


def test_postgis(live: str, run: Run, server: Server) -> None:
    """Geometries are compared, where PostGIS is installed."""
    with server.connect(live) as connection:
        query = "SELECT FROM pg_available_extensions WHERE name = 'postgis'"
        if not connection.execute(query).fetchall():
            pytest.skip("PostGIS is not installed")
    run("CREATE EXTENSION postgis; CREATE TABLE g (id int PRIMARY KEY, at geometry(Point, 4326))")
    run("INSERT INTO g SELECT i, ST_SetSRID(ST_Point(i, 2), 4326) FROM generate_series(1, 9) i")
    take("seeded", spare=False)
    run("UPDATE g SET at = ST_SetSRID(ST_Point(1, 3), 4326) WHERE id = 1")

    versions = diff("seeded").tables
    run("VACUUM FULL g")
    contents = diff("seeded").tables

    assert [(each.table, each.changed) for each in (*versions, *contents)] == [("g", 1), ("g", 1)]


class Counted(dict[tuple[str, str], Table]):
    """Tables that know how often somebody looked at all of them."""

    looks = 0

    def values(self) -> Any:
        """Return all tables."""
        self.looks += 1
        return super().values()


def test_tables_are_paired_in_one_pass() -> None:
    """Thousands of tables do not have to be looked through for each of them."""
    roots = [("public", "parted"), ("public", "parted"), ("public", "plain")]
    olds, news = Counted(), Counted()
    for oid, root in enumerate(roots):
        for side in (olds, news):
            side["public", f"t{oid}"] = Table(
                oid=oid,
                schema="public",
                name=f"t{oid}",
                root=root,
                physical=None,
                columns={},
                key=(),
                blocks=oid,
            )
    database: Any = SimpleNamespace(schema="public")

    pairs = pair_tables("default", database, database, olds, news)

    assert [(pair.name, len(pair.olds), len(pair.news)) for pair in pairs] == [
        ("parted", 2, 2),
        ("plain", 1, 1),
    ]
    assert (olds.looks, news.looks) == (1, 1)
