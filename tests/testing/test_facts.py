"""What a template depends on beside files and settings: each fact alone, by its name."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import connections, models
from django.test import override_settings

from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases import facts
from django_pgsnap.testing.databases.facts import (
    UNKNOWN,
    Facts,
    digest_value,
    locate_file,
    make_plain,
    name_file,
    project_root,
    read_facts,
)
from tests.conftest import MakeRole, RunSql, SessionAs, SetAlias

Read = Callable[[], Facts]


@pytest.fixture
def read(session: Session) -> Read:
    """Reads the facts that count for a test database of ``default``."""
    return lambda: read_facts(connections["default"], session, "live")


def changed(before: Facts, after: Facts) -> set[str]:
    return {
        name
        for kind, name in before.digests
        if before.digests[kind, name] != after.digests[kind, name]
    }


def test_same_again(read: Read) -> None:
    """Where nothing changes, the facts stay."""
    assert read() == read()


CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cached"}
}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"AUTH_USER_MODEL": "testapp.Author"}, "the setting AUTH_USER_MODEL"),
        ({"SITE_ID": 2}, "the setting SITE_ID"),
        ({"LANGUAGE_CODE": "de"}, "the setting LANGUAGE_CODE"),
        ({"TIME_ZONE": "Europe/Berlin"}, "the setting TIME_ZONE"),
        ({"DATABASE_ROUTERS": [f"{__name__}.Router"]}, "the setting DATABASE_ROUTERS"),
        ({"PGSNAP": {"TEST": {"FINGERPRINT": "2"}}}, "PGSNAP['TEST']['FINGERPRINT']"),
        ({"CACHES": CACHES}, "the caches in the database"),
        ({"MIGRATION_MODULES": {"testapp": None}}, "the apps without migrations"),
        ({"MIGRATION_MODULES": {"testapp": None}}, "the models without migrations"),
    ],
    ids=str,
)
def test_settings(read: Read, change: dict[str, Any], name: str) -> None:
    """Settings count that Django has read before anything can watch."""
    before = read()

    with override_settings(**change):
        assert name in changed(before, read())


def test_order_of_apps(read: Read) -> None:
    """The order of the apps is that of migrations, and of what is inserted after them."""
    before = read()
    installed = [config.name for config in apps.get_app_configs()]

    with override_settings(INSTALLED_APPS=installed[::-1]):
        assert "the setting INSTALLED_APPS" in changed(before, read())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"max_length": 7}, id="a field"),
        pytest.param({"db_column": "heading"}, id="a column"),
        pytest.param({"default": date.today}, id="a default"),
    ],
)
@pytest.mark.parametrize("is_migrated", [True, False])
def test_models(
    read: Read, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], is_migrated: bool
) -> None:
    """The state of models counts where an app has no migrations, and only there."""
    model_field = apps.get_model("testapp", "Author")._meta.get_field("name")
    with override_settings(MIGRATION_MODULES={} if is_migrated else {"testapp": None}):
        before = read()
        for name, value in change.items():
            monkeypatch.setattr(model_field, name, value)

        expected = set() if is_migrated else {"the models without migrations"}
        assert changed(before, read()) == expected


def test_models_that_cannot_be_told(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that cannot say what it is does not end the run."""
    name = apps.get_model("testapp", "Author")._meta.get_field("name")
    monkeypatch.setattr(name, "deconstruct", lambda: 1 / 0)

    with override_settings(MIGRATION_MODULES={"testapp": None}):
        digest = read().digests["fact", "the models without migrations"]

    assert digest == f"{UNKNOWN}ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("name", "value"), [("CHARSET", "LATIN1"), ("COLLATION", "C"), ("MIGRATE", False)]
)
def test_test_settings(read: Read, set_alias: SetAlias, name: str, value: object) -> None:
    """What Django creates a test database with counts."""
    before = read()

    set_alias("default", TEST={**connections["default"].settings_dict["TEST"], name: value})

    assert "TEST in DATABASES" in changed(before, read())


def test_name_of_the_test_database(read: Read, set_alias: SetAlias) -> None:
    """Processes with test databases of their own names share a template."""
    before = read()

    set_alias("default", TEST={**connections["default"].settings_dict["TEST"], "NAME": "gw1"})

    assert changed(before, read()) == set()


def test_options_of_the_connection(read: Read, set_alias: SetAlias) -> None:
    """A search path, for instance, decides where tables are made."""
    before = read()

    set_alias("default", OPTIONS={"options": "-c search_path=other"})

    assert changed(before, read()) == {"the alias in DATABASES"}


def test_alias(read: Read, session: Session) -> None:
    """Routers and migrations may treat each alias in its own way."""
    other = read_facts(connections["other"], session, "live")

    assert changed(read(), other) == {"the alias"}


class Router:
    def allow_migrate(self, *_: str, **_hints: Any) -> bool | None:
        return None


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("new", ["something-1.1.dist-info", None])
def test_distributions(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, new: str | None
) -> None:
    """Installed distributions count with their versions; what a build leaves does not."""
    place = tmp_path / ("site-packages" if installed else "project")
    directory = place / "something-1.0.dist-info"
    directory.mkdir(parents=True)
    monkeypatch.syspath_prepend(place)
    before = read()

    if new:
        directory.rename(place / new)
    else:
        directory.rmdir()

    assert changed(before, read()) == ({"the installed distributions"} if installed else set())


def test_python(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python may be another standard library."""
    before = read()

    monkeypatch.setattr(sys, "version", "3.99")

    assert changed(before, read()) == {"the version of Python"}


def test_role(read: Read, session_as: SessionAs, role: MakeRole, sql: RunSql) -> None:
    """Another role owns what it makes, and may carry a search path of its own."""
    before = read()
    session = session_as(role())
    ordinary = read_facts(connections["default"], session, "live")
    sql("ALTER ROLE ordinary SET search_path = other")

    assert changed(before, ordinary) == {"the role"}
    assert changed(ordinary, read_facts(connections["default"], session, "live")) == {"the role"}


def test_forgotten_counters(read: Read, sql: RunSql) -> None:
    """Where the server has lost its counters, as after a crash, they prove nothing."""
    before = read()

    sql("SELECT pg_stat_reset_shared('wal')")

    assert changed(before, read()) == {"the database that new ones are cloned from"}


def test_not_all_is_counted(read: Read, sql: RunSql) -> None:
    """Where a database or a role goes uncounted, counters cannot tell that nobody wrote."""
    sql("ALTER DATABASE template1 SET track_counts = off")
    try:
        assert changed(read(), read()) == {"the database that new ones are cloned from"}
    finally:
        sql("ALTER DATABASE template1 RESET track_counts")


def test_server_and_extensions(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's version and those of its extensions count, here as if they were others."""
    before = read()

    monkeypatch.setattr(facts, "_SERVER", facts._ROLE)
    monkeypatch.setattr(facts, "_EXTENSIONS", facts._ROLE)

    assert changed(before, read()) == {"the server", "the server's extensions"}


@dataclass
class Options:
    names: set[str] = field(default_factory=lambda: {"ada", "bob"})


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value


def test_stable_values() -> None:
    """Neither addresses nor the order of sets make another value of an object."""
    assert make_plain(object()) == make_plain(object())
    assert make_plain({"b": {2, 1}, "a": models.F("x")}) == make_plain(
        {"a": models.F("x"), "b": {1, 2}}
    )
    assert make_plain(Options()) == [f"{__name__}.Options", [["names", ["ada", "bob"]]]]
    assert make_plain(Holder(Options())) == make_plain(Holder(Options()))
    assert make_plain(Holder(1)) != make_plain(Holder(2))


def test_values_that_hold_themselves() -> None:
    """A value that leads back to itself is told as far as it goes."""
    holder = Holder(None)
    holder.value = {"self": [holder]}

    assert digest_value(holder) == digest_value(holder)


def test_places_in_values() -> None:
    """Where the project and the virtual environment lie does not count."""
    assert digest_value(f"{project_root()}/a") == digest_value("<project>/a")
    assert digest_value(f"{sys.prefix}/a") == digest_value("<prefix>/a")


def test_names_of_files() -> None:
    """Files are called by their way from the project, which has other places in other checkouts."""
    assert project_root() == str(Path(__file__).parents[2])
    assert name_file(__file__) == "tests/testing/test_facts.py"
    assert locate_file("tests/testing/test_facts.py") == __file__
