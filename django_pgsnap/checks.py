"""System checks: what is wrong with the settings, before a command runs into it."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from . import conf
from .clones.names import nearest_names
from .errors import ConfigurationError


def check_settings(**_: Any) -> list[CheckMessage]:
    """Return what is wrong with ``PGSNAP``, with what it needs, and with our environment."""
    given = conf.given()
    found = [*_check_values(given), *_check_environment()]
    if problem := conf.psycopg_problem():
        return [Error(problem, hint=conf.PSYCOPG_HINT, id="pgsnap.E001"), *found]
    return [*found, *_check_databases(given), *_check_psycopg2()]


def check_deployment(**_: Any) -> list[CheckMessage]:
    """Return what should not be so in production."""
    given = conf.given()
    if not (isinstance(given, dict) and given.get("ENABLED") is True):
        return []
    return [
        CheckWarning(
            "PGSNAP['ENABLED'] is True: whoever may run commands or restore in the admin can "
            "replace the databases of this deployment.",
            hint="Set it in the settings of systems whose data may be replaced, and there only.",
            id="pgsnap.W003",
        )
    ]


def _check_environment() -> Iterator[CheckMessage]:
    try:
        conf.run_databases()
    except ConfigurationError as error:
        yield Error(error.message, hint=error.hint, id="pgsnap.E006")
    try:
        conf.announced_databases()
    except ConfigurationError as error:
        yield CheckWarning(error.message, hint=error.hint, id="pgsnap.W004")


def _check_psycopg2() -> Iterator[CheckMessage]:
    if find_spec("psycopg2"):
        yield CheckWarning(
            "psycopg2 and psycopg 3 are both installed, and Django uses psycopg 3 where it can.",
            hint="What the project itself does by psycopg2 (execute_values, Json, ranges) fails on "
            "Django's connections. Uninstall psycopg2 where nothing needs it, or silence this.",
            id="pgsnap.W002",
        )


def _check_values(given: object) -> Iterator[CheckMessage]:
    for problem in conf.problems(given):
        yield Error(problem, hint=conf.SETTINGS_HINT, id="pgsnap.E002")
    test = given.get("TEST") if isinstance(given, dict) else None
    for name, settings, keys in (
        ("PGSNAP", given, conf.KEYS),
        ("PGSNAP['TEST']", test, conf.TEST_KEYS),
    ):
        for key in map(str, settings if isinstance(settings, dict) else ()):
            if key not in keys:
                similar = nearest_names(key, keys)
                known = f"Did you mean {similar[0]!r}?" if similar else f"Known: {', '.join(keys)}."
                yield Error(f"{name} has the unknown key {key!r}.", hint=known, id="pgsnap.E003")


def _check_databases(given: object) -> Iterator[CheckMessage]:
    named = given.get("DATABASES") if isinstance(given, dict) else None
    if not isinstance(named, list | tuple):
        if not any(conf.iter_postgresql_wrappers()):
            yield CheckWarning(
                "No alias in DATABASES is PostgreSQL, so there is nothing to take snapshots of.",
                hint="Use ENGINE 'django.db.backends.postgresql', "
                "or remove django_pgsnap from INSTALLED_APPS.",
                id="pgsnap.W001",
            )
        return
    from .postgres.targets import check_alias  # which needs psycopg

    for alias in named:
        if isinstance(alias, str):  # anything else is a bad value
            try:
                check_alias(alias)
            except ConfigurationError as error:
                said = f"PGSNAP['DATABASES'] cannot be followed. {error.message}"
                yield Error(said, hint=error.hint, id="pgsnap.E004")
