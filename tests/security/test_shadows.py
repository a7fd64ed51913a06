"""What ``pg_catalog`` has, made once more by others: no statement of ours meets it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db.backends.postgresql.base import DatabaseWrapper
from psycopg import sql as pg
from psycopg.types import TypeInfo
from pytest_django import Settings

from django_pgsnap.comparison.diff import diff
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import PgsnapError
from django_pgsnap.postgres.targets import list_targets
from django_pgsnap.snapshots.manage import annotate, delete, pin, refill, rename
from django_pgsnap.snapshots.purge import purge
from django_pgsnap.snapshots.queries import list_snapshots, overview, read_carried_properties
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from tests.conftest import ROLE_PASSWORD, MakeRole, RunSql
from tests.project import point
from tests.security.conftest import MALLORY, OPEN, Attacker, victim
from tests.security.shadows import cast_shadows, caught, lead_into_the_shadow
from tests.servers import SUPERUSER, Server
from tests.suites.project import Project
from tests.watching import authors, settle, until_threads_end, write

COMMITS = """
    from django.test import TransactionTestCase

    from shop.models import Item


    class Commits(TransactionTestCase):
        def test_once(self):
            Item.objects.create(name="once")

        def test_again(self):
            self.assertEqual([item.name for item in Item.objects.all()], ["first"])
            Item.objects.filter(name="first").delete()

        def test_at_last(self):
            self.assertEqual([item.name for item in Item.objects.all()], ["first"])


    class Others(TransactionTestCase):
        def test_others(self):
            self.assertEqual(len(Item.objects.all()), 1)
"""


def open_session() -> None:
    """Work from the maintenance database, as a test run does first of all."""
    list_targets(["default"])[0].server.session("tests").close()


def diagnose_aloud() -> None:
    """Have the doctor's findings raised as the other commands raise theirs."""
    raise PgsnapError(" ".join(finding.cause for finding in diagnose().problems))


@pytest.fixture
def trap(server: Server, attacker: Attacker) -> Callable[[str], str]:
    """Makes a database that only waits for others to connect."""

    def make(name: str) -> str:
        attacker.forge(name, owner=MALLORY, options=OPEN)
        cast_shadows(server, name, MALLORY)
        lead_into_the_shadow(server, name, MALLORY)
        return name

    return make


def test_shadows_tell(server: Server, victim_live: str, sql: RunSql) -> None:
    """The shadows are there, and who comes in by a search path like this meets all kinds."""
    cast_shadows(server, victim_live, SUPERUSER)
    lead_into_the_shadow(server, victim_live)
    before = server.log_size_bytes

    with server.connect(victim_live, victim(), application_name="pgsnap probe") as connection:
        connection.execute(
            "SELECT current_setting('port', true), 'x'::text, sum(1) FILTER (WHERE oid <> 0)"
            " FROM pg_database"
        )

    seen = {each.split()[0] for each in caught(server.read_log(before))}
    assert seen >= {"current_setting", "text", "sum", "<>", "pg_database"}


@pytest.mark.parametrize("become", [None, MALLORY])
@pytest.mark.parametrize("look", [list_snapshots, diagnose_aloud, take, open_session])
def test_maintenance_database_of_somebody(
    look: Callable[[], object],
    become: str | None,
    trap: Callable[[str], str],
    server: Server,
    sql: RunSql,
) -> None:
    """A database called ``pgsnap`` that another role made is refused, and nothing of it runs.

    Nor where it would make us that role, whose database it is, as we come in.
    """
    trap("pgsnap")
    if become:
        sql(f"ALTER DATABASE pgsnap SET role = {become}", user=MALLORY)
    point("default", NAME="postgres")
    before = server.log_size_bytes

    # A session that was still being opened would make a database of that name when this one goes.
    with until_threads_end(), pytest.raises(PgsnapError) as refused:
        look()

    assert caught(server.read_log(before)) == []
    assert "'pgsnap'" in str(refused.value)
    assert f"belongs to the role {MALLORY}," in str(refused.value)


@pytest.fixture
def postgis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the backend look up types on each new connection, as that of PostGIS does."""
    connect = DatabaseWrapper.get_new_connection

    def look_up(self: DatabaseWrapper, parameters: dict[str, Any]) -> Any:
        connection = connect(self, parameters)
        for name, known in self._type_infos.items():  # type: ignore[attr-defined]
            if self.alias not in known:
                known[self.alias] = TypeInfo.fetch(connection, name)
        return connection

    monkeypatch.setattr(DatabaseWrapper, "_type_infos", {"geometry": {}}, raising=False)
    monkeypatch.setattr(DatabaseWrapper, "get_new_connection", look_up)


@pytest.mark.usefixtures("postgis")
def test_types_that_a_backend_looks_up(trap: Callable[[str], str], server: Server) -> None:
    """A backend that looks up types as it connects does not do so before the database is checked.

    Nor does it remember anything of each of our sessions.
    """
    trap("pgsnap")
    point("default", NAME="postgres")
    before = server.log_size_bytes

    with pytest.raises(PgsnapError):
        list_snapshots()

    assert caught(server.read_log(before)) == []
    assert not any("pgsnap" in alias for alias in DatabaseWrapper._type_infos["geometry"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("become", [None, "bait"])
def test_maintenance_database_that_the_settings_name(
    become: str | None,
    trap: Callable[[str], str],
    server: Server,
    sql: RunSql,
    settings: Settings,
) -> None:
    """A database of another role that the settings name serves, and nothing of it runs.

    Nor does it make us another role, whose snapshots would be ours then.
    """
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"dbname": trap("theirs")}}
    if become:
        sql(f"ALTER DATABASE theirs SET role = {become}", user=MALLORY)
    before = server.log_size_bytes

    take("seeded")
    restore("seeded")

    assert [each.name for each in list_snapshots()] == ["seeded"]
    assert caught(server.read_log(before)) == []


def test_live_database(victim_live: str, server: Server, sql: RunSql) -> None:
    """Every verb goes by what the server brings, whatever is to be found in the live database."""
    cast_shadows(server, victim_live, SUPERUSER)
    lead_into_the_shadow(server, victim_live)
    before = server.log_size_bytes

    write("Ursula")
    take("first", note="a note")
    settle(server)
    write("Stanisław")
    restore("first")
    assert authors() == ["Ursula"]
    undo()
    assert authors() == ["Stanisław", "Ursula"]
    take("second")
    take("second", replace=True)
    rename("second", "third")
    annotate("third", "another note")
    pin("third")
    refill("first")
    read_carried_properties(overview(everyone=True).snapshots[0])
    write("Chinua")
    assert diff("first").tables
    assert diff("first", "third") is not None
    with open_throwaway("first") as names:
        assert names.keys() == {"default"}
    diagnose(fix=True)
    delete("first", "third", force=True)
    purge()

    assert victim() in server.read_log(before)
    assert caught(server.read_log(before)) == []


SPRING = """
CREATE FUNCTION public.spring() RETURNS pg_catalog.text LANGUAGE plpgsql AS
 $$BEGIN RAISE LOG 'sprung by %', current_user; RETURN 'x'; END$$;
"""
TRAPS = {
    "view": "CREATE VIEW public.django_migrations AS SELECT spring() AS app, 'x' AS name;",
    "policy": "CREATE TABLE public.django_migrations AS SELECT 'x' AS app, 'x' AS name;"
    "ALTER TABLE public.django_migrations ENABLE ROW LEVEL SECURITY;"
    "CREATE POLICY trap ON public.django_migrations USING (spring() = 'x');",
    # The planner looks at what an index' expression is worth.
    "index": "ALTER FUNCTION spring() IMMUTABLE;"
    "CREATE TABLE public.django_migrations AS SELECT 'x' AS app, 'x' AS name;"
    "CREATE INDEX ON public.django_migrations (spring());",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_table_that_somebody_made_in_place_of_djangos(
    trap: str, victim_live: str, attacker: Attacker, server: Server
) -> None:
    """Where another role may create tables, too, what it calls django_migrations runs nothing."""
    attacker.sql("DROP TABLE public.django_migrations", dbname=victim_live)
    attacker.sql("GRANT CREATE ON SCHEMA public TO mallory", dbname=victim_live)
    attacker.sql(SPRING + TRAPS[trap], dbname=victim_live, user=MALLORY)
    attacker.sql("GRANT SELECT ON django_migrations TO PUBLIC", dbname=victim_live, user=MALLORY)
    before = server.log_size_bytes

    take("seeded", spare=False)
    settle(server)
    if trap != "index":  # SECURITY.md says so
        with suppress(PgsnapError):
            diff("seeded")
    restore("seeded")

    assert "sprung by" not in server.read_log(before)


# Casts belong to types and not to schemas, so no search path hides them.
HER_TYPES = """
CREATE TYPE public.pair AS (a int, b text);
CREATE TYPE public.colour AS ENUM ('red', 'blue');
CREATE FUNCTION public.say(public.pair) RETURNS text LANGUAGE sql IMMUTABLE AS
 'SELECT public.spring()';
CREATE FUNCTION public.say(public.pair[]) RETURNS text LANGUAGE sql IMMUTABLE AS
 'SELECT public.spring()';
CREATE FUNCTION public.say(public.colour) RETURNS text LANGUAGE sql IMMUTABLE AS
 'SELECT public.spring()';
CREATE CAST (public.pair AS text) WITH FUNCTION public.say(public.pair) AS IMPLICIT;
CREATE CAST (public.pair[] AS text) WITH FUNCTION public.say(public.pair[]) AS IMPLICIT;
CREATE CAST (public.colour AS text) WITH FUNCTION public.say(public.colour) AS IMPLICIT;
CREATE TABLE public.hers (
    id int PRIMARY KEY, p public.pair, ps public.pair[], c public.colour,
    t text GENERATED ALWAYS AS (spring()) STORED);
INSERT INTO public.hers SELECT n, ROW(n, NULL)::public.pair, ARRAY[(n, '"')::public.pair], 'red'
  FROM generate_series(1, 9) n;
INSERT INTO public.hers VALUES (10, NULL, NULL, NULL), (11, (NULL, NULL), '{}', 'blue');
GRANT ALL ON public.hers TO PUBLIC;
"""


@pytest.mark.parametrize("rewrite", ["", "ALTER TABLE hers ALTER id TYPE bigint"])
def test_types_and_tables_of_somebody_in_the_live_database(
    rewrite: str, victim_live: str, attacker: Attacker, server: Server
) -> None:
    """Where another role may create in a live database, its casts and expressions run nothing.

    A diff shows what the table holds, by the versions of rows and by their contents.
    """
    attacker.sql("GRANT CREATE ON SCHEMA public TO mallory", dbname=victim_live)
    spring = SPRING.replace("LANGUAGE", "IMMUTABLE LANGUAGE")
    attacker.sql(spring + HER_TYPES, dbname=victim_live, user=MALLORY)
    take("seeded", spare=False)
    settle(server)
    for statement in ("UPDATE hers SET c = 'blue' WHERE id = 1", "DELETE FROM hers WHERE id = 10"):
        attacker.sql(statement, dbname=victim_live, user=MALLORY)
    if rewrite:
        attacker.sql(rewrite, dbname=victim_live, user=MALLORY)
    before = server.log_size_bytes

    (found,) = diff("seeded", rows=9).tables
    with open_throwaway("seeded"):
        pass
    restore("seeded")

    assert (found.table, found.changed, found.removed) == ("hers", 1, 1)
    assert [dict(row.columns) for row in found.rows if row.kind == "changed"] == [
        {"c": ("red", "blue")}
    ]
    assert {row.columns["ps"] for row in found.rows if row.kind == "removed"} == {(None, None)}
    assert "sprung by" not in server.read_log(before)


@pytest.fixture(params=[SUPERUSER, "ordinary"])
def everywhere(
    request: pytest.FixtureRequest, server: Server, role: MakeRole, sql: RunSql
) -> Iterator[str]:
    """A role that meets the shadows in every database that is made from now on."""
    name: str = request.param
    if name != SUPERUSER:
        role(name)
    cast_shadows(server, "template1", SUPERUSER)
    sql(
        pg.SQL("ALTER ROLE {} SET search_path = evil, pg_catalog, public").format(
            pg.Identifier(name)
        )
    )
    yield name
    sql(pg.SQL("ALTER ROLE {} RESET search_path").format(pg.Identifier(name)))
    sql("DROP SCHEMA evil CASCADE", dbname="template1")


def test_test_databases(everywhere: str, project: Project, server: Server) -> None:
    """Nor does a test run, with templates, clones and resets, meet anything of others."""
    alias = project.settings["DATABASES"]["default"]
    if everywhere != SUPERUSER:
        alias.update(USER=everywhere, PASSWORD=ROLE_PASSWORD)
    project.write("shop/tests.py", COMMITS)
    before = server.log_size_bytes

    assert project.test() == ["first"]
    assert project.test("--parallel", "2") == []

    assert 'CREATE TABLE "shop_item"' in server.read_log(before)
    assert caught(server.read_log(before)) == []
