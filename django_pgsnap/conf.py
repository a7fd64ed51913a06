"""The settings: ``PGSNAP`` with its defaults and what may be in it, and the aliases of PostgreSQL.

All of it works without psycopg, so that the system checks can tell that it is missing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .errors import ConfigurationError

GIB = 1024**3

CHECKS_TAG = "django_pgsnap"
# The environment variable by which a test run leads the processes that its tests start.
TEST_DATABASES = "PGSNAP_TEST_DATABASES"

# The environment variable by which ``pgsnap run`` leads a command to its clones.
RUN_DATABASES = "PGSNAP_RUN_DATABASES"

_ANNOUNCED = {"alias": str, "name": str, "source": str, "template": str | None, "place": list}
_SECRETS = ("password", "secret", "token", "api_key", "private_key")

SETTINGS_HINT = "See the settings in django_pgsnap's README."


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """The settings of the test runner: ``PGSNAP["TEST"]``."""

    # What tests that commit start from: ``migrated`` with the data that migrations inserted, or
    # ``flushed`` as in stock Django.
    baseline: str = "migrated"
    require_snapshots: bool = False  # whether tests that miss one fail instead of being skipped
    keep: int = 3  # how many templates to keep; 0 to migrate every time
    fingerprint: object = None  # what the migrated state depends on, beyond what can be seen
    max_age_s: float = 24 * 60 * 60.0  # of a template, since migrations may read the date


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings, with a default for each."""

    enabled: bool | None = None  # None leaves it to ``DEBUG`` and the server's address
    # None for every PostgreSQL alias that is not a mirror.
    databases: tuple[str, ...] | None = None
    # Of how many snapshots, those last taken or restored, to keep a spare; 0 for none.
    spares: int = 2
    spare_max_bytes: int = 10 * GIB  # larger databases have one only if the files share blocks
    undo: int = 3  # how many states that restores and undos replaced are kept
    undo_max_bytes: int = 50 * GIB  # together; the newest is kept in any case
    before_migrate: bool = False  # whether ``migrate`` takes a snapshot before it applies anything
    wait_s: float = 10.0  # how long to wait for busy sessions and for other operations
    keep_sessions: bool = False  # whether a restore in the admin leaves others' logins
    # Connection parameters that differ for maintenance sessions, by libpq name; or a dict of them
    # for each alias that has some.
    maintenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    diff: Mapping[str, Any] = field(default_factory=dict)
    test: TestConfig = TestConfig()


KEYS = tuple(field.name.upper() for field in fields(Config))
TEST_KEYS = tuple(field.name.upper() for field in fields(TestConfig))


def given() -> Any:
    """Return the ``PGSNAP`` setting as it was written, which may be anything."""
    return getattr(settings, "PGSNAP", {})


def config() -> Config:
    """Return the settings as they are now; unknown keys are the system checks' business.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    setting = given()
    if wrong := problems(setting):
        raise ConfigurationError(" ".join(wrong), hint=SETTINGS_HINT)
    values = {key.lower(): setting[key] for key in KEYS if key in setting}
    if values.get("databases") is not None:
        values["databases"] = tuple(values["databases"])
    for key in ("spares", "undo"):
        if values.get(key) is True:
            values[key] = getattr(Config, key)
    test = setting.get("TEST", {})
    values["test"] = TestConfig(**{key.lower(): test[key] for key in TEST_KEYS if key in test})
    return Config(**values)


def diff_mask() -> tuple[str, ...]:
    """Return parts of the names of columns whose values a diff does not show, in lower case."""
    return tuple(part.lower() for part in config().diff.get("MASK", _SECRETS))


def announced_databases() -> list[dict[str, Any]]:
    """Return the test databases that a test run leads this process to.

    Raises:
        ConfigurationError: The environment says something else.
    """
    found = _read_variable(TEST_DATABASES, "[]")
    if not (
        isinstance(found, list)
        and all(isinstance(each, dict) and each.keys() == _ANNOUNCED.keys() for each in found)
        and all(isinstance(each[key], kind) for each in found for key, kind in _ANNOUNCED.items())
    ):
        raise _unreadable(TEST_DATABASES)
    return found


def run_databases() -> dict[str, str]:
    """Return the names of the clones that ``pgsnap run`` leads this process to, by alias.

    Raises:
        ConfigurationError: The environment says something else, or names an unknown alias.
    """
    found = _read_variable(RUN_DATABASES, "{}")
    if not (isinstance(found, dict) and all(isinstance(name, str) for name in found.values())):
        raise _unreadable(RUN_DATABASES)
    for alias in found:
        if alias not in settings.DATABASES:
            raise ConfigurationError(
                "{name} in the environment names the alias {alias!r}, which is not in DATABASES.",
                hint="Run the command with the settings of the pgsnap run that started it.",
                name=RUN_DATABASES,
                alias=alias,
            )
    return found


def _read_variable(name: str, default: str) -> Any:
    try:
        return json.loads(os.environ.get(name, default))
    except (ValueError, RecursionError) as error:
        raise _unreadable(name) from error


def _unreadable(name: str) -> ConfigurationError:
    return ConfigurationError(
        "{name} in the environment cannot be read.", hint="Unset {name}.", name=name
    )


def problems(given: object) -> list[str]:
    """Return what is wrong with a ``PGSNAP`` setting, a sentence each."""
    if not isinstance(given, Mapping):
        return [f"PGSNAP must be a dict, not {type(given).__name__}."]
    test = given.get("TEST")
    return [
        *_wrong("PGSNAP", given, _EXPECTED),
        *(_wrong("PGSNAP['TEST']", test, _EXPECTED_TEST) if isinstance(test, Mapping) else ()),
    ]


def _wrong(name: str, given: Mapping[Any, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        if key in expected and not expected[key][1](value):
            # Whoever takes these for the settings of a connection writes a password into them.
            is_secret = key in ("DATABASES", "MAINTENANCE")
            shown = type(value).__name__ if is_secret else repr(value)
            yield f"{name}[{key!r}] must be {expected[key][0]}, not {shown}."


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not _is_bool(value) and value >= 0


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_count_or_bool(value: object) -> bool:
    return _is_bool(value) or _is_count(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _is_overrides(value: object) -> bool:
    return isinstance(value, Mapping) and (
        len({isinstance(each, Mapping) for each in value.values()}) < 2  # noqa: PLR2004
    )


def _is_diff(value: object) -> bool:
    return (
        isinstance(value, Mapping) and value.keys() <= {"MASK"} and _is_texts(value.get("MASK", []))
    )


_EXPECTED = {
    "ENABLED": ("True, False or None", lambda value: value is None or _is_bool(value)),
    "DATABASES": (
        "a list of database aliases or None",
        lambda value: value is None or _is_texts(value),
    ),
    "SPARES": ("a number of snapshots, True or False", _is_count_or_bool),
    "SPARE_MAX_BYTES": ("a number of bytes", _is_number),
    "UNDO": ("a number of states, True or False", _is_count_or_bool),
    "UNDO_MAX_BYTES": ("a number of bytes", _is_number),
    "BEFORE_MIGRATE": ("True or False", _is_bool),
    "WAIT_S": ("a number of seconds", _is_number),
    "KEEP_SESSIONS": ("True or False", _is_bool),
    "MAINTENANCE": ("a dict of connection parameters, or of such dicts by alias", _is_overrides),
    "DIFF": ("a dict whose MASK is a list of texts", _is_diff),
    "TEST": ("a dict", lambda value: isinstance(value, Mapping)),
}

_EXPECTED_TEST = {
    "BASELINE": ("'migrated' or 'flushed'", ("migrated", "flushed").__contains__),
    "REQUIRE_SNAPSHOTS": ("True or False", _is_bool),
    "KEEP": ("a number of templates", _is_count),
    "MAX_AGE_S": ("a number of seconds", _is_number),
}

PSYCOPG_HINT = "Install it with its library: pip install 'psycopg[binary]'."


def psycopg_problem() -> str | None:
    """Return why psycopg 3 cannot be used here, None if it can."""
    try:
        import_module("psycopg")
    except ImportError as error:
        return f"psycopg 3 cannot be imported: {error}"
    return None


def get_wrapper(alias: str) -> BaseDatabaseWrapper | None:
    """Return this thread's wrapper of an alias, None where its driver is not installed."""
    try:
        return connections[alias]
    except (ImproperlyConfigured, ImportError):  # which of them differs by vendor
        return None


def iter_postgresql_wrappers() -> Iterator[BaseDatabaseWrapper]:
    """Yield this thread's wrapper of each PostgreSQL alias, in the order of ``DATABASES``."""
    for alias in connections:
        wrapper = get_wrapper(alias)
        if wrapper is not None and wrapper.vendor == "postgresql":
            yield wrapper
