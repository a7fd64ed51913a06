"""Targets: which live databases an operation is about, and on which servers."""

from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from django_pgsnap.errors import ConfigurationError
from django_pgsnap.postgres.targets import (
    aliases_sharing_database,
    group_by_server,
    list_targets,
    live_database_names,
)
from tests.conftest import SetAlias

SQLITE = "django.db.backends.sqlite3"


@pytest.fixture(autouse=True)
def _two_databases(set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "PGSNAP", {})
    for alias in ("default", "other"):
        set_alias(alias, NAME=f"live_{alias}", HOST="db", PORT="5433", USER="ada", PASSWORD="x")


def found(*aliases: str) -> dict[str, str]:
    return {target.alias: target.name for target in list_targets(aliases or None)}


def refused(*aliases: str) -> tuple[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        list_targets(aliases or None)
    return caught.value.message, caught.value.hint


def test_all_by_default() -> None:
    """Without a choice it is about every PostgreSQL alias, in the order of DATABASES."""
    assert found() == {"default": "live_default", "other": "live_other"}


def test_chosen_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's choice counts before the settings', in the order of DATABASES."""
    monkeypatch.setattr(settings, "PGSNAP", {"DATABASES": ["default"]})

    assert list(found("other", "default", "other")) == ["default", "other"]
    assert list(found("other")) == ["other"]


def test_chosen_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings may narrow it."""
    monkeypatch.setattr(settings, "PGSNAP", {"DATABASES": ["other"]})

    assert list(found()) == ["other"]


def test_mirror_is_left_out(set_alias: SetAlias) -> None:
    """A mirror is another way to a database that is there already, so it does not count."""
    set_alias("other", TEST={"MIRROR": "default"})

    assert list(found()) == ["default"]


def test_mirror_is_refused(set_alias: SetAlias) -> None:
    """Whoever asks for a mirror is told which alias to ask for."""
    set_alias("other", TEST={"MIRROR": "default"})

    assert refused("other") == (
        "The alias 'other' is a mirror of 'default'.",
        "Choose that one instead.",
    )


def test_other_vendor_is_left_out(set_alias: SetAlias) -> None:
    """What is not PostgreSQL does not count."""
    set_alias("other", ENGINE=SQLITE, NAME="db.sqlite3")

    assert list(found()) == ["default"]


def test_vendor_without_driver_is_left_out(set_alias: SetAlias) -> None:
    """An alias whose driver is not installed here keeps nobody from the others."""
    set_alias("other", ENGINE="django.db.backends.oracle")

    assert [target.alias for target in list_targets()] == ["default"]
    assert live_database_names()


def test_other_vendor_is_refused(set_alias: SetAlias) -> None:
    """Whoever asks for what is not PostgreSQL is told so."""
    set_alias("other", ENGINE=SQLITE, NAME="db.sqlite3")

    assert refused("other") == (
        "The alias 'other' is SQLite, not PostgreSQL.",
        "Choose others with --database or PGSNAP['DATABASES'].",
    )


def test_unknown_alias_is_refused() -> None:
    """Whoever asks for an alias that is not there is told which ones are."""
    assert refused("default", "defualt") == (
        "There is no alias 'defualt' in DATABASES.",
        "Known: default, other.",
    )


def test_nothing_left_is_refused(set_alias: SetAlias) -> None:
    """A project without PostgreSQL has nothing to take snapshots of."""
    set_alias("default", ENGINE=SQLITE, NAME="a")
    set_alias("other", ENGINE=SQLITE, NAME="b")

    assert refused() == (
        "No alias in DATABASES is PostgreSQL.",
        "Snapshots need ENGINE 'django.db.backends.postgresql'.",
    )


def test_duplicates_count_once(set_alias: SetAlias) -> None:
    """Of two aliases that lead to the same database, as whatever role, the first counts."""
    set_alias("other", NAME="live_default", USER="bob")

    assert found() == {"default": "live_default"}
    assert list_targets()[0].server.user == "ada"


@pytest.mark.parametrize("different", [{"HOST": "db2"}, {"PORT": "5434"}, {"NAME": "live"}])
def test_same_name_elsewhere_is_no_duplicate(set_alias: SetAlias, different: Any) -> None:
    """The same name on another server, or another name on the same, is another database."""
    set_alias("other", **{"NAME": "live_default", **different})

    assert list(found()) == ["default", "other"]


def test_connection_parameters(set_alias: SetAlias) -> None:
    """All that leads to the server is known."""
    options = {"sslmode": "require", "assume_role": "owner"}
    set_alias("default", OPTIONS=options)

    server = list_targets(["default"])[0].server

    assert (server.host, server.port, server.user, server.role) == ("db", "5433", "ada", "owner")
    assert server.settings["PASSWORD"] == "x"
    assert server.settings["OPTIONS"] == options


def test_password_is_not_shown() -> None:
    """Neither the password nor any other parameter is part of what a server looks like."""
    server = list_targets()[0].server

    assert "'x'" not in repr(server)
    assert str(server) == "db:5433 as ada"


def test_maintenance_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance sessions may go another way, past a pooler for instance."""
    overrides = {"host": "direct", "port": 5432, "dbname": "admin", "sslmode": "disable"}
    monkeypatch.setattr(settings, "PGSNAP", {"MAINTENANCE": overrides})

    server = list_targets()[0].server

    assert (server.host, server.port, server.user) == ("direct", "5432", "ada")
    assert server.maintenance == "admin"
    assert server.settings["PORT"] == 5432
    assert server.settings["OPTIONS"] == {"sslmode": "disable"}


def test_maintenance_overrides_of_one_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the overrides are given by alias, each has its own, or none."""
    overrides = {"other": {"host": "direct"}}
    monkeypatch.setattr(settings, "PGSNAP", {"MAINTENANCE": overrides})

    assert [target.server.host for target in list_targets()] == ["db", "direct"]


@pytest.mark.parametrize("name", [None, "postgres"])
def test_live_database_called_postgres(set_alias: SetAlias, name: str | None) -> None:
    """Where the live database is postgres, as without NAME, maintenance sessions go elsewhere."""
    set_alias("other", NAME=name)

    assert found("other") == {"other": "postgres"}
    assert "postgres" in live_database_names()


def test_maintenance_database_does_not_depend_on_the_choice(set_alias: SetAlias) -> None:
    """Operations on some and on all databases of a server meet at the same locks."""
    set_alias("other", NAME="postgres")

    assert {target.server.maintenance for target in list_targets()} == {"pgsnap"}
    assert list_targets(["default"])[0].server.maintenance == "pgsnap"


def test_usual_maintenance_database() -> None:
    """Otherwise maintenance sessions go to postgres."""
    assert list_targets()[0].server.maintenance == "postgres"


def test_alias_without_a_name_is_refused(set_alias: SetAlias) -> None:
    """A service file may name the database for Django, but we have to know the name."""
    set_alias("other", NAME="", OPTIONS={"service": "app"})

    assert refused("other") == (
        "The alias 'other' has no NAME.",
        "Give its database's NAME in DATABASES, beside the service too.",
    )
    assert found("default") == {"default": "live_default"}


def test_defaults_of_libpq(set_alias: SetAlias) -> None:
    """What an alias does not say is left to libpq."""
    set_alias("default", HOST="", PORT="", USER="", PASSWORD="")

    server = list_targets(["default"])[0].server

    assert (server.host, server.port, server.user, server.role) == ("", "", "", "")
    assert str(server) == "the local socket"


def test_by_server(set_alias: SetAlias) -> None:
    """Targets are grouped by where they are and who connects."""
    set_alias("third", NAME="live_third", HOST="db2")
    set_alias("fourth", NAME="live_fourth", USER="bob")

    groups = group_by_server(list_targets())

    assert [[target.alias for target in group] for group in groups.values()] == [
        ["default", "other"],
        ["third"],
        ["fourth"],
    ]


def test_live_names(set_alias: SetAlias) -> None:
    """Every name in DATABASES is known, of mirrors and other vendors, too."""
    set_alias("other", TEST={"MIRROR": "default"})
    set_alias("third", ENGINE=SQLITE, NAME="db.sqlite3")

    assert live_database_names() == {"live_default", "live_other", "db.sqlite3"}
    assert set(connections) == {"default", "other", "third"}


def test_aliases_of_the_default_database(set_alias: SetAlias) -> None:
    """An alias without a name leads to postgres, as one does that says so."""
    set_alias("default", NAME="postgres")
    set_alias("other", NAME=None)

    assert aliases_sharing_database(["default"]) == ["default", "other"]
