"""What a template depends on: each ingredient alone makes another template of it."""

import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import get_commands
from django.db import connections, models
from django.db.models.signals import post_migrate
from django.test import override_settings

from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases import fingerprint, source_dependencies
from django_pgsnap.testing.databases.fingerprint import Fingerprint
from django_pgsnap.testing.databases.source_dependencies import Reader
from django_pgsnap.testing.databases.stable_values import plain
from tests.conftest import RunSql, SetAlias

PACKAGE = "fingerprinted"

FIRST = """
from django.conf import settings
from django.db import migrations
from fingerprinted.helpers import names

class Migration(migrations.Migration):
    operations = []
    year = settings.FISCAL_YEAR
"""

Take = Callable[[], Fingerprint]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's package with migrations of the test app, which import a helper from it."""
    package = tmp_path / PACKAGE
    for directory in (package, package / "migrations"):
        directory.mkdir()
        (directory / "__init__.py").write_text("")
    (package / "helpers.py").write_text("from .deeper import names\n")
    (package / "deeper.py").write_text("names = ['ada']\n")
    (package / "migrations" / "0001_initial.py").write_text(FIRST)
    (package / "migrations" / "0001_initial.sql").write_text("SELECT 1;")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(MIGRATION_MODULES={"testapp": f"{PACKAGE}.migrations"}):
        yield package
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    invalidate_caches()


@pytest.fixture
def take(package: Path, session: Session) -> Take:
    """Takes the fingerprint that a test database migrated now would have."""
    return lambda: fingerprint.take(connections["default"], session, "live")


def test_same_again(take: Take) -> None:
    """Where nothing changes, the fingerprint stays."""
    first = take()

    assert take() == first
    assert (take().digest, len(first.identity)) == (first.digest, 16)


@pytest.mark.parametrize(
    ("file", "ingredient"),
    [
        ("migrations/0001_initial.py", "migrations"),
        ("migrations/0001_initial.sql", "data"),
        ("migrations/_helpers.py", "data"),
        ("migrations/0002_new.py", "migrations"),
        ("helpers.py", "code"),
        ("deeper.py", "code"),
        ("__init__.py", "code"),
    ],
)
def test_files(take: Take, package: Path, file: str, ingredient: str) -> None:
    """Migrations count with what lies beside them, and with the code that they import."""
    before = take()

    with (package / file).open("a") as handle:
        handle.write("\n# changed\n")

    assert take().differs_in(before) == [ingredient]


def test_a_removed_migration(take: Take, package: Path) -> None:
    """A migration that is gone counts as well."""
    (package / "migrations" / "0002_old.py").write_text("")
    before = take()

    (package / "migrations" / "0002_old.py").unlink()

    assert take().differs_in(before) == ["migrations"]


def test_code_that_no_migration_imports(take: Take, package: Path) -> None:
    """What migrations do not run may change without another template."""
    (package / "views.py").write_text("pages = 1\n")
    before = take()

    (package / "views.py").write_text("pages = 2\n")

    assert take() == before


@pytest.mark.parametrize("name", ["fingerprinted.seed", "fingerprinted.seed.NAMES"])
def test_code_that_is_named(take: Take, package: Path, name: str) -> None:
    """Modules may be imported by a name in quotes, their own or that of what is in them."""
    (package / "deeper.py").write_text(f"names = import_string({name!r})\n")
    (package / "seed.py").write_text("NAMES = 1\n")
    before = take()

    (package / "seed.py").write_text("NAMES = 2\n")

    assert take().differs_in(before) == ["code"]


def test_commands(take: Take, package: Path) -> None:
    """Migrations may call a management command of the project."""
    commands = package / "management" / "commands"
    commands.mkdir(parents=True)
    (commands / "fill_tables.py").write_text("rows = 1\n")
    (package / "deeper.py").write_text("names = call_command('fill_tables')\n")
    with override_settings(INSTALLED_APPS=[PACKAGE, "tests.testapp"]):
        get_commands.cache_clear()  # type: ignore[attr-defined]
        before = take()
        (commands / "fill_tables.py").write_text("rows = 2\n")
        after = take()
    get_commands.cache_clear()  # type: ignore[attr-defined]

    assert after.differs_in(before) == ["code"]


SKIMMED = """
from django.conf import settings
from . import (
    validators,  # which reads one
    fields as kinds,
)
options = {"swappable": "TENANT_MODEL"}
debug = settings.DEBUG
"""


@pytest.mark.parametrize(
    ("change", "ingredients"),
    [
        ({"FISCAL_YEAR": 2027}, ["reads"]),
        ({"TENANT_MODEL": "shop.Tenant"}, ["reads"]),
        ({"TENANT_LENGTH": 7}, ["reads"]),
        ({"DEBUG": True}, []),
    ],
    ids=str,
)
def test_settings_of_installed_apps(
    take: Take,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    ingredients: list[str],
) -> None:
    """Of an installed app, settings count that its migrations name, and what these import."""
    monkeypatch.setattr(
        source_dependencies,
        "_INSTALLED",
        (*source_dependencies._INSTALLED, f"{package.resolve()}/"),
    )
    (package / "helpers.py").write_text(SKIMMED)
    (package / "validators.py").write_text("length = getattr(settings, 'TENANT_LENGTH', 1)\n")
    with override_settings(INSTALLED_APPS=[PACKAGE, "tests.testapp"], FISCAL_YEAR=2026):
        before = take()
        with override_settings(**change):
            after = take()
        (package / "validators.py").write_text("# of another version\n")
        reached = Reader().reached_from([f"{PACKAGE}.migrations.0001_initial"])

    assert after.differs_in(before) == ingredients
    assert reached.files == []


@pytest.mark.parametrize(
    ("change", "ingredients"),
    [
        ({"FISCAL_YEAR": 2027}, ["reads"]),
        ({"AUTH_USER_MODEL": "testapp.Author"}, ["settings"]),
        ({"SITE_ID": 2}, ["settings"]),
        ({"DEFAULT_AUTO_FIELD": "django.db.models.AutoField"}, ["settings"]),
        ({"LANGUAGE_CODE": "de"}, ["settings"]),
        ({"TIME_ZONE": "Europe/Berlin"}, ["settings"]),
        ({"PGSNAP": {"TEST": {"FINGERPRINT": "2"}}}, ["project"]),
        (
            {
                "CACHES": {
                    "default": {
                        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                        "LOCATION": "cached",
                    }
                }
            },
            ["caches"],
        ),
    ],
    ids=str,
)
def test_settings(take: Take, change: dict[str, Any], ingredients: list[str]) -> None:
    """Settings that migrations name count, and those that Django reads for them."""
    with override_settings(FISCAL_YEAR=2026):
        before = take()
        with override_settings(**change):
            after = take()

    assert after.differs_in(before) == ingredients


def test_installed_apps(take: Take) -> None:
    """An app more is another database."""
    before = take()

    with override_settings(INSTALLED_APPS=["django.contrib.flatpages", "tests.testapp"]):
        after = take()

    assert "apps" in after.differs_in(before)


def test_order_of_apps(take: Take) -> None:
    """The order of the apps is that of migrations, and of what is inserted after them."""
    before = take()
    installed = [config.name for config in apps.get_app_configs()]

    with override_settings(INSTALLED_APPS=installed[::-1]):
        after = take()

    assert "apps" in after.differs_in(before)


def test_migration_modules(take: Take) -> None:
    """An app whose migrations are switched off gets its tables from its models."""
    before = take()

    with override_settings(MIGRATION_MODULES={"testapp": None}):
        after = take()

    assert {"migration modules", "migrations", "unmigrated models"} <= set(after.differs_in(before))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"max_length": 7}, id="a field"),
        pytest.param({"db_column": "heading"}, id="a column"),
        pytest.param({"default": date.today}, id="a default"),
    ],
)
def test_unmigrated_models(
    take: Take, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Where an app has no migrations, the state of its models counts."""
    field = apps.get_model("testapp", "Author")._meta.get_field("name")
    with override_settings(MIGRATION_MODULES={"testapp": None}):
        before = take()
        for name, value in change.items():
            monkeypatch.setattr(field, name, value)
        after = take()

    assert after.differs_in(before) == ["unmigrated models"]


def test_migrated_models(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of an app with migrations do not count, since migrations make its tables."""
    before = take()

    monkeypatch.setattr(
        apps.get_model("testapp", "Author")._meta.get_field("name"), "max_length", 7
    )

    assert take() == before


@pytest.mark.parametrize(
    ("name", "value"), [("CHARSET", "LATIN1"), ("COLLATION", "C"), ("TEMPLATE", "template0")]
)
def test_test_settings(take: Take, set_alias: SetAlias, name: str, value: str) -> None:
    """What Django creates a test database with counts."""
    before = take()

    set_alias("default", TEST={**connections["default"].settings_dict["TEST"], name: value})

    assert "test settings" in take().differs_in(before)


def test_migrate_switched_off(take: Take, set_alias: SetAlias) -> None:
    """A test database that is made from models is not one that was migrated."""
    before = take()

    set_alias("default", TEST={**connections["default"].settings_dict["TEST"], "MIGRATE": False})

    assert {"test settings", "unmigrated models"} <= set(take().differs_in(before))


def test_options_of_the_connection(take: Take, set_alias: SetAlias) -> None:
    """A search path, for instance, decides where tables are made."""
    before = take()

    set_alias("default", OPTIONS={"options": "-c search_path=other"})

    assert take().differs_in(before) == ["connection"]


def test_alias(take: Take, session: Session) -> None:
    """Routers and migrations may treat each alias in its own way."""
    other = fingerprint.take(connections["other"], session, "live")

    assert other.differs_in(take()) == ["alias"]


class Router:
    def allow_migrate(self, *_: str, **_hints: Any) -> bool | None:
        return None


def test_routers(take: Take) -> None:
    """A router decides what is migrated where, so it counts with its code."""
    before = take()

    with override_settings(DATABASE_ROUTERS=[f"{__name__}.Router"]):
        after = take()

    assert {"hooks", "routers"} <= set(after.differs_in(before))


def test_receivers(take: Take, package: Path) -> None:
    """What runs after migrations inserts data, too."""
    before = take()
    (package / "signals.py").write_text("def receive(**_): pass\n")
    receive = import_module(f"{PACKAGE}.signals").receive
    post_migrate.connect(receive)
    try:
        after = take()
    finally:
        post_migrate.disconnect(receive)

    assert after.differs_in(before) == ["hooks"]


def test_kinds_of_fields(take: Take, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a field becomes in a table is decided by its class."""
    own = "from django.db.models import CharField\nclass Own(CharField): pass\n"
    (package / "fields.py").write_text(own)
    field = apps.get_model("testapp", "Author")._meta.get_field("name")
    monkeypatch.setattr(field, "__class__", import_module(f"{PACKAGE}.fields").Own)
    with override_settings(MIGRATION_MODULES={"testapp": None}):
        before = take()

        (package / "fields.py").write_text(own + "# changed")

        assert take().differs_in(before) == ["hooks"]


@pytest.mark.parametrize(("old", "new"), [("1.0", "1.1"), ("1.0", None)])
def test_distributions(take: Take, tmp_path: Path, old: str, new: str | None) -> None:
    """Every installed distribution counts with its version."""
    directory = tmp_path / f"something-{old}.dist-info"
    directory.mkdir()
    before = take()

    if new:
        directory.rename(tmp_path / f"something-{new}.dist-info")
    else:
        directory.rmdir()

    assert take().differs_in(before) == ["distributions"]


def test_environment_variable(take: Take, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a migration's code names count, however it reads them."""
    (package / "deeper.py").write_text("import os\nnames = os.environ.get('TENANT_NAMES')\n")
    before = take()

    monkeypatch.setitem(os.environ, "TENANT_NAMES", "ada")

    assert take().differs_in(before) == ["reads"]


def test_name_of_the_test_database(take: Take, package: Path, set_alias: SetAlias) -> None:
    """Processes with test databases of their own names share a template."""
    (package / "deeper.py").write_text("from django.conf import settings\nsettings.DATABASES\n")
    before = take()

    set_alias("default", TEST={**connections["default"].settings_dict["TEST"], "NAME": "gw1"})

    assert take() == before


def test_python(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python may be another standard library."""
    before = take()

    monkeypatch.setattr(sys, "version", "3.99")

    assert take().differs_in(before) == ["python"]


def test_role(take: Take, session_as: Any, role: Any) -> None:
    """Another role owns what it makes."""
    before = take()

    after = fingerprint.take(connections["default"], session_as(role()), "live")

    assert "role" in after.differs_in(before)


def test_settings_of_the_role(take: Take, session_as: Any, role: Any, sql: RunSql) -> None:
    """A role may carry a search path of its own."""
    session = session_as(role())
    before = fingerprint.take(connections["default"], session, "live")

    sql("ALTER ROLE ordinary SET search_path = other")

    after = fingerprint.take(connections["default"], session, "live")
    assert after.differs_in(before) == ["role"]


def test_template_database(take: Take, sql: RunSql) -> None:
    """The counters of the database that new ones are cloned from go with the fingerprint."""
    before = take()

    # The session would count what it wrote when it ends, which is after we have closed it.
    sql(
        "CREATE TABLE everywhere (); DROP TABLE everywhere; SELECT pg_stat_force_next_flush()",
        dbname="template1",
    )

    after = take()
    assert (after.differs_in(before), after.ground == before.ground) == ([], False)


def test_forgotten_counters(take: Take, sql: RunSql) -> None:
    """Where the server has lost its counters, as after a crash, they prove nothing."""
    before = take()

    sql("SELECT pg_stat_reset_shared('bgwriter')")

    assert take().differs_in(before) == ["template database"]


def test_server_and_extensions(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's version and those of its extensions count, here as if they were others."""
    before = take()

    monkeypatch.setattr(fingerprint, "_SERVER", fingerprint._ROLE)
    monkeypatch.setattr(fingerprint, "_EXTENSIONS", fingerprint._ROLE)

    assert take().differs_in(before) == ["extensions", "server"]


def test_values_without_addresses() -> None:
    """An object's address does not make it another one."""
    assert plain(object()) == plain(object()) == "<object object>"
    assert plain({"b": {2, 1}, "a": models.F("x")}) == plain({"a": models.F("x"), "b": {1, 2}})


def test_installed_code_is_left_out() -> None:
    """Code of installed distributions is known by their versions, so it is not read."""
    reached = Reader().reached_from(["django.contrib.auth.models", "json", "tests.testapp.models"])

    assert {module for module, _ in reached.files} == {
        "tests",
        "tests.testapp",
        "tests.testapp.models",
    }
