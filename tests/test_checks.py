"""System checks: each problem has its id and a hint, and nothing fails before they run."""

import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, Error, run_checks
from django.core.checks import Warning as CheckWarning

from django_pgsnap.conf import CHECKS_TAG, KEYS
from tests.conftest import SetAlias
from tests.project import Manage

SQLITE = "django.db.backends.sqlite3"


def found() -> list[CheckMessage]:
    return run_checks(tags=[CHECKS_TAG])


def give(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(settings, "PGSNAP", value)


@pytest.mark.parametrize("value", [{}, {"DATABASES": None}, {"DATABASES": ["other"]}])
def test_nothing_to_say(value: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A project on PostgreSQL with good settings passes."""
    give(monkeypatch, value)

    assert found() == []


def test_without_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without the setting passes."""
    monkeypatch.delattr(settings, "PGSNAP")

    assert found() == []


def test_psycopg_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the check says how to install it, and looks at no database."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    give(monkeypatch, {"DATABASES": ["nowhere"], "SPARES": "no"})

    problem, value = found()

    assert problem == Error(
        "psycopg 3 cannot be imported: import of psycopg halted; None in sys.modules",
        hint="Install it with its library: pip install 'psycopg[binary]'.",
        id="pgsnap.E001",
    )
    assert value.id == "pgsnap.E002"


def test_both_drivers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where psycopg2 is installed too, it is said which of them Django uses."""
    (tmp_path / "psycopg2.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    (problem,) = found()

    assert problem == CheckWarning(
        "psycopg2 and psycopg 3 are both installed, and Django uses psycopg 3 where it can.",
        hint="What the project itself does by psycopg2 (execute_values, Json, ranges) fails on "
        "Django's connections. Uninstall psycopg2 where nothing needs it, or silence this.",
        id="pgsnap.W002",
    )


@pytest.mark.parametrize(("enabled", "ids"), [(True, ["pgsnap.W003"]), (False, []), (None, [])])
def test_switched_on_in_a_deployment(
    enabled: bool | None, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check --deploy` warns of snapshots that are switched on by name; a plain check does not."""
    give(monkeypatch, {"ENABLED": enabled})

    deployed = run_checks(tags=[CHECKS_TAG], include_deployment_checks=True)

    assert [each.id for each in deployed] == ids
    assert found() == []


@pytest.mark.parametrize("arguments", [["pgsnap", "list"], ["pgsnap", "--help"]])
def test_command_without_psycopg(arguments: list[str], manage: Manage, tmp_path: Path) -> None:
    """Without psycopg, or without its library, the command says what to install."""
    (tmp_path / "psycopg.py").write_text("raise ImportError('no pq wrapper available')")
    settings.DATABASES["default"]["ENGINE"] = SQLITE
    settings.DATABASES["other"]["ENGINE"] = SQLITE

    ended = manage(*arguments, env={"PYTHONPATH": str(tmp_path)})

    assert ended.returncode == 1
    assert ended.stderr == (
        "psycopg 3 cannot be imported: no pq wrapper available\n"
        "Install it with its library: pip install 'psycopg[binary]'.\n"
    )


def test_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the wrong kind is an error."""
    give(monkeypatch, {"WAIT_S": "10"})

    assert found() == [
        Error(
            "PGSNAP['WAIT_S'] must be a number of seconds, not '10'.",
            hint="See the settings in django_pgsnap's README.",
            id="pgsnap.E002",
        )
    ]


def test_not_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is no dict is an error."""
    give(monkeypatch, ["SPARES"])

    assert [(each.id, each.msg) for each in found()] == [
        ("pgsnap.E002", "PGSNAP must be a dict, not list.")
    ]


@pytest.mark.parametrize(
    ("key", "shown", "hint"),
    [
        ("ENABLE", "ENABLE", "Did you mean 'ENABLED'?"),
        ("spares", "spares", "Did you mean 'SPARES'?"),
        ("COLOUR", "COLOUR", f"Known: {', '.join(KEYS)}."),
        (1, "1", f"Known: {', '.join(KEYS)}."),
    ],
)
def test_unknown_key(key: object, shown: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that does not exist is an error, with the nearest one that does."""
    give(monkeypatch, {key: True})

    assert found() == [Error(f"PGSNAP has the unknown key {shown!r}.", hint=hint, id="pgsnap.E003")]


def test_unknown_key_of_the_test_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of PGSNAP["TEST"] that does not exist is an error, too."""
    give(monkeypatch, {"TEST": {"KEPT": 1}})

    assert found() == [
        Error(
            "PGSNAP['TEST'] has the unknown key 'KEPT'.",
            hint="Did you mean 'KEEP'?",
            id="pgsnap.E003",
        )
    ]


def test_unknown_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias that is not in DATABASES is an error."""
    give(monkeypatch, {"DATABASES": ("default", "defualt")})

    assert found() == [
        Error(
            "PGSNAP['DATABASES'] cannot be followed. There is no alias 'defualt' in DATABASES.",
            hint="Known: default, other.",
            id="pgsnap.E004",
        )
    ]


def test_alias_of_another_vendor(set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias that is not PostgreSQL is an error where it is named."""
    set_alias("other", ENGINE=SQLITE)
    give(monkeypatch, {"DATABASES": ["other", 3]})

    wrong_value, wrong_vendor = found()

    assert wrong_value.id == "pgsnap.E002"
    assert wrong_vendor == Error(
        "PGSNAP['DATABASES'] cannot be followed. The alias 'other' is SQLite, not PostgreSQL.",
        hint="Choose others with --database or PGSNAP['DATABASES'].",
        id="pgsnap.E004",
    )


def test_alias_without_a_snapshot_of_its_own(
    set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror is an error where it is named, and so is an alias whose driver is missing."""
    set_alias("other", TEST={"MIRROR": "default"})
    set_alias("third", ENGINE="django.db.backends.oracle")
    give(monkeypatch, {"DATABASES": ["other", "third"]})

    assert [each.msg.partition(". ")[2] for each in found()] == [
        "The alias 'other' is a mirror of 'default'.",
        "The alias 'third' is of a vendor without driver here, not PostgreSQL.",
    ]


def test_alias_of_another_vendor_beside(set_alias: SetAlias) -> None:
    """An alias that is not PostgreSQL is no problem beside one that is."""
    set_alias("other", ENGINE=SQLITE)

    assert found() == []


@pytest.mark.parametrize("value", [{}, None])
def test_nothing_to_take(
    value: object, set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project without PostgreSQL gets a warning."""
    set_alias("default", ENGINE=SQLITE)
    set_alias("other", ENGINE=SQLITE)
    give(monkeypatch, value)

    assert found()[-1] == CheckWarning(
        "No alias in DATABASES is PostgreSQL, so there is nothing to take snapshots of.",
        hint="Use ENGINE 'django.db.backends.postgresql', "
        "or remove django_pgsnap from INSTALLED_APPS.",
        id="pgsnap.W001",
    )


@pytest.mark.parametrize("value", [None, {"DATABASES": 5}])
def test_bad_value_does_not_keep_the_checks_from_running(
    value: object, manage: Manage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that nothing can be made of is reported by ``check``, not by a traceback."""
    give(monkeypatch, value)

    ended = manage("check")

    assert ended.returncode == 1
    assert "(pgsnap.E002) PGSNAP" in ended.stderr
    assert "Traceback" not in ended.stderr
