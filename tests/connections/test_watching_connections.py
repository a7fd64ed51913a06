"""Keeping a process going when another one restores a database under it."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType, ContentTypeManager
from django.contrib.postgres import signals as types
from django.contrib.sites.models import Site, SiteManager
from django.db import OperationalError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import TransactionTestCase, modify_settings, override_settings
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_pgsnap.connections import reconnect
from django_pgsnap.connections.reconnect import watch_connections
from django_pgsnap.signals import post_restore
from tests.conftest import RunSql, SetAlias
from tests.project import point
from tests.servers import Server
from tests.staleness import (
    answer,
    asgi_answer,
    change,
    heard,
    is_fresh,
    make_twin,
    swap_twin,
    threads,
)
from tests.testapp.models import Author

KINDS: dict[str, dict[str, Any]] = {
    "neither": {},
    "persistent": {"CONN_MAX_AGE": 600},
    "pool": {"OPTIONS": {"pool": True}},
    "pool of one": {"OPTIONS": {"pool": {"min_size": 1}}},
    "atomic requests": {"ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 600},
    "no autocommit": {"AUTOCOMMIT": False, "CONN_MAX_AGE": 600},
}


@pytest.fixture(params=KINDS)
def twin(live: str, request: pytest.FixtureRequest, server: Server) -> str:
    """The name of a live database whose twin, made before `change`, will take its place."""
    make_twin(server, live)
    change()
    point("default", **KINDS[request.param])
    return live


def one_kind(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("twin", [kind], indirect=True)


def test_threads_answer_from_what_took_the_place(twin: str, server: Server) -> None:
    """However threads connect, their next request finds the other database and fresh caches."""
    with threads(3) as pool:
        before = [each.submit(answer, "/state/").result() for each in pool]
        swap_twin(server, twin)
        after = [each.submit(answer, "/state/").result() for each in pool]

    assert all(is_fresh(state, authors=1) for state in before)
    assert all(is_fresh(state, authors=0) for state in after)


@pytest.mark.parametrize("twin", ["neither", "persistent", "pool of one"], indirect=True)
def test_requests_at_once(twin: str, server: Server) -> None:
    """Requests that come at the same time after a swap are all right, and one notices it."""
    with threads(6) as pool, heard(post_restore) as calls:
        for each in [each.submit(answer, "/state/") for each in pool]:
            each.result()
        swap_twin(server, twin)
        after = [each.result() for each in [each.submit(answer, "/state/") for each in pool]]

    assert all(is_fresh(state, authors=0) for state in after)
    assert [(call["using"], call["snapshot"]) for call in calls] == [("default", None)]


@pytest.mark.parametrize("path", ["/state/", "/async-state/"])
@one_kind("neither")
def test_asgi(twin: str, server: Server, path: str) -> None:
    """Views behind ASGI, asynchronous ones too, are answered from what took the place."""
    before = asyncio.run(asgi_answer(path))
    swap_twin(server, twin)
    after = asyncio.run(asgi_answer(path))

    assert is_fresh(before, authors=1)
    assert is_fresh(after, authors=0)


@pytest.mark.parametrize("twin", ["neither", "persistent"], indirect=True)
def test_connection_that_ends_in_between(twin: str, server: Server) -> None:
    """What begins after the swap is right, though the thread had connected before it."""
    assert answer("/state/")["status"] == 200
    connection.ensure_connection()

    swap_twin(server, twin)

    assert not Author.objects.exists()


@one_kind("pool")
def test_pool_is_mended_at_once(twin: str, server: Server) -> None:
    """A pool is not left to find out about one ended connection after the other, with pauses."""
    with threads(4) as pool:
        for each in [each.submit(answer, "/state/") for each in pool]:
            each.result()
        connection.pool.wait()  # type: ignore[attr-defined]
        swap_twin(server, twin)
        answer("/state/")

        statistics = connection.pool.get_stats()  # type: ignore[attr-defined]

    assert statistics["connections_lost"] >= 2


def test_duplicate_and_other_aliases(
    lives: dict[str, str], set_alias: SetAlias, server: Server
) -> None:
    """Each alias of a database is told, those of others are not."""
    make_twin(server, lives["default"])
    set_alias("again")
    for alias in ("default", "again", "other"):
        assert answer(f"/state/?using={alias}")["status"] == 200

    with heard(post_restore) as calls:
        swap_twin(server, lives["default"])
        for alias in ("default", "again", "other"):
            answer(f"/state/?using={alias}")

    assert [call["using"] for call in calls] == ["default", "again"]


def test_other_vendors_are_left_alone(live: str, set_alias: SetAlias, tmp_path: Path) -> None:
    """Neither the settings nor the connections of another vendor's alias change."""
    file = str(tmp_path / "lite")
    set_alias("lite", ENGINE="django.db.backends.sqlite3", NAME=file, CONN_HEALTH_CHECKS=False)
    connections.settings["broken"] = {
        **connections.settings["lite"],
        "ENGINE": "tests.no_such_backend",
    }

    watch_connections()
    connections["lite"].ensure_connection()

    assert not connections["lite"].settings_dict["CONN_HEALTH_CHECKS"]
    assert not connections.settings["broken"]["CONN_HEALTH_CHECKS"]
    assert answer("/state/")["status"] == 200


@one_kind("neither")
def test_cached_lookups_outside_of_requests(twin: str, server: Server) -> None:
    """What Django gives from memory is right, whichever lookup a thread calls, and when."""
    lookups: list[Callable[[], object]] = [
        lambda: ContentType.objects.get_by_natural_key("testapp", "author").pk,
        lambda: ContentType.objects.get_for_model(Author).pk,
        lambda: ContentType.objects.get_for_models(Author)[Author].pk,
        lambda: Site.objects.get_current().name,
    ]
    for keeps_connected in (False, True):
        before = [look() for look in lookups]
        for look, known in zip(lookups, before, strict=True):
            if not keeps_connected:
                connection.close()
            swap_twin(server, twin)
            assert look() != known
            swap_twin(server, twin)
            assert look() == known
    known_id = ContentType.objects.get_for_model(Author).pk
    ContentType.objects.get_for_id(known_id)
    swap_twin(server, twin)
    with pytest.raises(ContentType.DoesNotExist):
        ContentType.objects.get_for_id(known_id)


@pytest.mark.parametrize("kind", KINDS)
def test_page_that_needs_no_database(kind: str, live: str) -> None:
    """It costs no connection, with a pool none of that, and waits for no server."""
    point("default", **KINDS[kind])
    assert answer("/state/")["status"] == 200
    connection.close()

    with heard(connection_created) as made:
        assert answer("/no-query/")["status"] == 200
        point("default", PORT="1")
        assert answer("/no-query/")["status"] == 200

    assert connection.connection is None
    assert made == []


def test_cached_lookup_without_a_server(live: str) -> None:
    """What Django has in memory it gives, though nobody can tell whether it is still true."""
    known = ContentType.objects.get_for_model(Author)
    connection.close()
    connection.settings_dict["PORT"] = "1"

    assert ContentType.objects.get_for_model(Author) is known


def test_cached_lookup_in_a_coroutine(live: str) -> None:
    """A coroutine, which may not connect, is given what is in memory, as by Django."""
    known = ContentType.objects.get_for_model(Author)

    async def look() -> ContentType:
        return ContentType.objects.get_for_model(Author)

    assert asyncio.run(look()) is known


def test_connection_is_lost_while_it_is_set_up(live: str, before_ours: Callable[..., None]) -> None:
    """Nothing half set up is left by a look, so that the next query connects for itself."""
    known = ContentType.objects.get_for_model(Author)
    connection.close()

    def fail(connection: BaseDatabaseWrapper, **_: Any) -> None:
        raise OperationalError("terminating connection due to administrator command")

    before_ours(fail)

    assert ContentType.objects.get_for_model(Author) is known
    assert connection.connection is None


def test_database_that_a_test_case_forbids(lives: dict[str, str]) -> None:
    """What is in memory is given in a test that may not use the database, and by its server."""

    class OneDatabase(TransactionTestCase):
        databases = {"default"}

    manager = ContentType.objects.db_manager("other")
    known = manager.get_for_model(Author)
    connections["other"].close()
    OneDatabase.setUpClass()
    try:
        with threads(1) as (live_server,):
            given = [manager.get_for_model(Author)]
            given.append(live_server.submit(manager.get_for_model, Author).result())
    finally:
        OneDatabase.doClassCleanups()

    assert given == [known, known]


@pytest.mark.parametrize("debug", [True, False])
def test_look_is_not_counted(live: str, debug: bool, settings: Settings) -> None:
    """Neither assertNumQueries nor connection.queries see that we look."""
    settings.DEBUG = debug

    with CaptureQueriesContext(connection) as captured:
        connection.close()
        connection.ensure_connection()
        connection.close_if_health_check_failed()

    assert captured.captured_queries == []
    assert connection.queries == []


def test_no_transaction_is_left_open(live: str, sql: RunSql) -> None:
    """With AUTOCOMMIT off, looking leaves no session inside a transaction."""
    point("default", AUTOCOMMIT=False, CONN_MAX_AGE=600)
    connection.ensure_connection()
    sql("SELECT pg_notify('nobody', '')")
    connection.close_if_health_check_failed()

    states = sql("SELECT state FROM pg_stat_activity WHERE datname = %s", [live])

    # That of who made the database may still be leaving.
    assert set(states) == {("idle",)}


def test_transaction_of_another_receiver_stays(live: str, before_ours: Callable[..., None]) -> None:
    """What another receiver began on a new connection with AUTOCOMMIT off is not rolled back."""

    def receiver(connection: BaseDatabaseWrapper, **_: Any) -> None:
        connection.connection.execute("SET search_path TO theirs")

    before_ours(receiver)
    point("default", AUTOCOMMIT=False)

    with connection.cursor() as cursor:
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("theirs",)


@pytest.mark.parametrize("order", ["before", "after"])
@one_kind("pool of one")
def test_types_of_extensions(
    order: str, twin: str, server: Server, before_ours: Callable[..., None], sql: RunSql
) -> None:
    """Types that got other oids are read right, whoever is told first of a new connection."""
    # No contrib module is needed: Django goes by the types' names, psycopg by their oids.
    sql("""CREATE TYPE hstore AS ENUM ('"a"=>"1"')""", dbname=f"{twin}_twin")
    sql("""CREATE TYPE hstore AS ENUM ('"a"=>"1"')""", dbname=twin)
    sql("""CREATE TYPE citext AS ENUM ('b')""", dbname=f"{twin}_twin")
    if order == "before":
        before_ours(types.register_type_handlers)

    types.get_hstore_oids.cache_clear()  # type: ignore[attr-defined]

    with modify_settings(INSTALLED_APPS={"append": "django.contrib.postgres"}):
        before = values("""'"a"=>"1"'::hstore""")
        swap_twin(server, twin)
        after = values("""'"a"=>"1"'::hstore, ARRAY['b'::citext]""")

    assert before == ({"a": "1"},)
    assert after == ({"a": "1"}, ["b"])


def test_types_of_postgis(live: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostGIS' wrappers know of their types is forgotten, for the alias alone."""
    registries = {"geometry": {"default": "stale", "other": "theirs"}}
    monkeypatch.setattr(type(connections["default"]), "_type_infos", registries, raising=False)
    make_twin(server, live)
    connection.ensure_connection()

    swap_twin(server, live)
    connection.close()
    connection.ensure_connection()

    assert registries == {"geometry": {"other": "theirs"}}


def test_connections_made_before_the_watch(live: str, server: Server, unwatched: None) -> None:
    """What another app's ready() had connected to and cached is watched, too."""
    make_twin(server, live)
    change()
    point("default", CONN_MAX_AGE=600)
    ContentType.objects.get_for_model(Author)
    watch_connections()

    swap_twin(server, live)

    assert is_fresh(answer("/state/"), authors=0)


@pytest.mark.parametrize("pgsnap", [{"ENABLED": False}, {"ENABLED": None}])
def test_off(live: str, pgsnap: dict[str, Any], unwatched: None) -> None:
    """Where the app is off, Django is as it was."""
    config = apps.get_app_config("django_pgsnap")
    point("default", CONN_HEALTH_CHECKS=False)

    with override_settings(PGSNAP=pgsnap, DEBUG=False):
        config.ready()

    assert connection.settings_dict["CONN_HEALTH_CHECKS"] is False
    assert not is_watched()
    assert not hasattr(ContentTypeManager.get_for_id, reconnect._DJANGO_LOOKUP)


def test_debug_switches_it_on(live: str, unwatched: None) -> None:
    """With nothing else said, DEBUG decides."""
    with override_settings(PGSNAP={}, DEBUG=True):
        apps.get_app_config("django_pgsnap").ready()

    assert is_watched()


def test_switching_on_twice(live: str) -> None:
    """Starting the app anew, as tests with other INSTALLED_APPS do, changes nothing."""
    before = ContentTypeManager.get_for_model, list(connection_created.receivers)

    apps.get_app_config("django_pgsnap").ready()

    assert (ContentTypeManager.get_for_model, list(connection_created.receivers)) == before


def values(columns: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns}")
        row = cursor.fetchone()
    connection.close()
    return tuple(row)


@pytest.fixture
def before_ours() -> Iterator[Callable[..., None]]:
    """Connects a receiver to `connection_created` that is called before ours."""
    connected = []

    def connect(receiver: Callable[..., None]) -> None:
        connection_created.connect(receiver)
        connected.append(receiver)

    yield connect
    for receiver in connected:
        connection_created.disconnect(receiver)


@pytest.fixture
def unwatched() -> Iterator[None]:
    """The process as it is where the app is off; afterwards it is on again."""
    _unwatch()
    yield
    _unwatch()
    watch_connections()


def is_watched() -> bool:
    looks = hasattr(ContentTypeManager.get_for_model, reconnect._DJANGO_LOOKUP)
    assert looks == hasattr(SiteManager.get_current, reconnect._DJANGO_LOOKUP)
    return looks and DatabaseWrapper.connect is reconnect._connect


def _unwatch() -> None:
    DatabaseWrapper.connect = reconnect._django_connect  # type: ignore[method-assign]
    unhealthy = reconnect._django_close_if_unhealthy
    DatabaseWrapper.close_if_health_check_failed = unhealthy  # type: ignore[method-assign]
    for manager, names in reconnect._find_cached_lookups():
        for name in names:
            lookup = getattr(type(manager), name)
            setattr(type(manager), name, getattr(lookup, reconnect._DJANGO_LOOKUP, lookup))
