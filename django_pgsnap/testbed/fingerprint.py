"""The fingerprint of a migrated test database: everything that can change it, as digests.

Two test databases with the same fingerprint are the same, so one may be cloned instead of migrated.
What cannot be seen from here, the project says by ``PGSNAP["TEST"]["FINGERPRINT"]``; and what
depends on the date is never older than ``PGSNAP["TEST"]["MAX_AGE_S"]``.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from weakref import ReferenceType

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.db import router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ModelState
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.functional import Promise
from psycopg import sql

from ..conf import test_config
from ..server import Session
from . import code
from .code import Code

# Raised when templates made by earlier versions of this package can be used no longer.
_FORMAT: Final = 1

# What migrations and the tables of unmigrated apps depend on by way of Django itself.
_SETTINGS: Final = (
    *("AUTH_USER_MODEL", "DEFAULT_AUTO_FIELD", "DEFAULT_INDEX_TABLESPACE", "DEFAULT_TABLESPACE"),
    *("LANGUAGES", "LANGUAGE_CODE", "SITE_ID", "TIME_ZONE", "USE_I18N", "USE_TZ", "FIXTURE_DIRS"),
)
# It has the names of test databases, which are another one in each of several processes.
_KNOWN_OTHERWISE: Final = frozenset({"DATABASES", "PGSNAP"})
_TEST_SETTINGS: Final = ("CHARSET", "COLLATION", "MIGRATE", "TEMPLATE")

# Data that migrations commonly read lies in these directories of an app.
_DATA_DIRECTORIES: Final = ("fixtures", "sql")

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_LENGTH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a migrated test database depends on.

    Attributes:
        ingredients: A digest of each thing that it depends on, by name.
    """

    ingredients: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Digest of all ingredients: 64 hexadecimal digits."""
        return _digest(sorted(self.ingredients.items()))

    @property
    def identity(self) -> str:
        """What a template with this fingerprint has in its name: 16 hexadecimal digits."""
        return self.digest[:_LENGTH]

    @property
    def environment(self) -> str:
        """Digest of all ingredients but the migrations."""
        return _digest(sorted((k, v) for k, v in self.ingredients.items() if k != "migrations"))

    def differs_in(self, other: Fingerprint) -> list[str]:
        """Return the names of the ingredients that are not the same."""
        return sorted(
            name
            for name in {*self.ingredients, *other.ingredients}
            if self.ingredients.get(name) != other.ingredients.get(name)
        )


def take(connection: BaseDatabaseWrapper, session: Session, source: str) -> Fingerprint:
    """Return the fingerprint that a test database migrated now would have.

    Args:
        connection: The wrapper of its alias, which is not connected for it.
        session: A maintenance session on its server, as the role that migrates.
        source: Name of the database that the alias leads to outside of tests.
    """
    packages = {config.label: _migrations(config, connection) for config in apps.get_app_configs()}
    migrated = {label: package for label, package in packages.items() if package is not None}
    unmigrated = [config for config in apps.get_app_configs() if packages[config.label] is None]
    reached = code.reached_from(_entry_points(migrated.values()))
    files = {
        path: (package.name, _bytes(path))
        for package in migrated.values()
        for path in _files_of(package)
    }
    # Those are an ingredient of their own, so that a template of fewer migrations can be found.
    others = [text for path, text in reached.files.items() if path not in files]
    test = connection.settings_dict["TEST"]
    return Fingerprint(
        ingredients={
            name: _digest(value)
            for name, value in {
                "format": _FORMAT,
                "alias": [connection.alias, source],
                "migrations": [(name, _name(path), text) for path, (name, text) in files.items()],
                "code": sorted(others),
                "data": [(_name(path), _bytes(path)) for path in _data_files()],
                "reads": _reads(reached),
                "apps": list(settings.INSTALLED_APPS),
                "migration modules": [
                    (label, package.name if package else None)
                    for label, package in packages.items()
                ],
                "routers": [_plain(each) for each in router.routers],
                "settings": [(name, _plain(getattr(settings, name, None))) for name in _SETTINGS],
                "test settings": [(name, _plain(test.get(name))) for name in _TEST_SETTINGS],
                "connection": _connection(connection),
                "unmigrated models": [_models(config) for config in unmigrated],
                "caches": _caches(),
                "distributions": _distributions(),
                "python": sys.version,
                "server": session.rows(_SERVER),
                "extensions": session.rows(_EXTENSIONS),
                "template database": session.rows(_TEMPLATE, [test.get("TEMPLATE")]),
                "role": session.rows(_ROLE),
                "project": _plain(test_config().fingerprint),
            }.items()
        }
    )


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()


def _name(path: str) -> str:
    return path.rpartition(os.sep)[2]


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _migrations(config: AppConfig, connection: BaseDatabaseWrapper) -> ModuleSpec | None:
    """Return the package of an app's migrations, None where Django does not migrate it."""
    if connection.settings_dict["TEST"]["MIGRATE"] is False:
        return None
    name, _ = MigrationLoader.migrations_module(config.label)
    if name is None:
        return None
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return None
    # As Django's loader has it: neither a module nor a directory without __init__.py counts.
    if spec is None or spec.origin is None or spec.submodule_search_locations is None:
        return None
    return spec


def _files_of(package: ModuleSpec) -> list[str]:
    """Return the files of a package of migrations, with the SQL and other data among them."""
    return _below(package.submodule_search_locations or ())


def _below(directories: Iterable[str]) -> list[str]:
    return sorted(
        os.path.join(parent, name)  # noqa: PTH118  # a hot spot of the start-up
        for directory in directories
        for parent, _, names in os.walk(directory)
        if not parent.endswith("__pycache__")
        for name in names
    )


def _data_files() -> list[str]:
    own = [
        os.path.join(config.path, name)  # noqa: PTH118  # the same
        for config in apps.get_app_configs()
        for name in _DATA_DIRECTORIES
    ]
    return _below([*own, *map(str, settings.FIXTURE_DIRS)])


def _entry_points(packages: Iterable[ModuleSpec]) -> Iterator[str]:
    """Yield the modules that Django runs when it migrates."""
    for package in packages:
        yield package.name
        for path in _files_of(package):
            if path.endswith(".py"):
                yield f"{package.name}.{_name(path).removesuffix('.py')}"
    for each in router.routers:
        yield type(each).__module__
    for signal in (pre_migrate, post_migrate):
        for entry in signal.receivers or ():
            receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
            yield getattr(receiver, "__module__", None) or type(receiver).__module__


def _reads(reached: Code) -> list[tuple[str, str | None]]:
    """Return the settings and environment variables that the project's code names."""
    known = [
        (name, str(_plain(getattr(settings, name))))
        for name in sorted(reached.settings - _KNOWN_OTHERWISE)
        if hasattr(settings, name)
    ]
    return [*known, *((name, os.environ.get(name)) for name in sorted(reached.variables))]


def _connection(connection: BaseDatabaseWrapper) -> list[Any]:
    given = connection.settings_dict
    options = {name: value for name, value in given["OPTIONS"].items() if name != "pool"}
    return [given["ENGINE"], given["TIME_ZONE"], _plain(options)]


def _caches() -> list[Any]:
    """Return the tables that createcachetable makes."""
    found = [(alias, caches[alias]) for alias in settings.CACHES]
    return [
        (alias, each.cache_model_class._meta.db_table)
        for alias, each in found
        if isinstance(each, BaseDatabaseCache)
    ]


def _distributions() -> list[str]:
    """Return all installed distributions, by the directories that have version in their names."""
    found: set[str] = set()
    for directory in {path or os.curdir for path in sys.path}:
        if os.path.isdir(directory):  # noqa: PTH112  # a hot spot of the start-up
            found.update(
                name
                for name in os.listdir(directory)  # noqa: PTH208  # the same
                if name.endswith((".dist-info", ".egg-info"))
            )
    return sorted(found)


def _models(config: AppConfig) -> list[Any]:
    """Return the state of an app's models, from which syncdb makes tables."""
    return [
        _plain(_state(model))
        for model in config.get_models(include_auto_created=True, include_swapped=True)
    ]


def _state(model: Any) -> list[Any]:
    state = ModelState.from_model(model, exclude_rels=False)
    return [
        *(state.app_label, state.name, state.options, [_plain(base) for base in state.bases]),
        model._meta.db_table,
        [(name, field.deconstruct()[1:]) for name, field in state.fields.items()],
    ]


def _plain(value: Any) -> Any:  # noqa: PLR0911  # one kind of value each
    """Return something that looks the same in every process where the value means the same."""
    if isinstance(value, str | Promise):
        return str(value)
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(each)) for each in value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "deconstruct"):
        return _plain(value.deconstruct())
    return _ADDRESS.sub("", repr(value))


_SERVER: Final = sql.SQL(
    "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'TimeZone',"
    " 'default_tablespace', 'default_text_search_config', 'lc_monetary', 'lc_numeric',"
    " 'lc_time', 'DateStyle', 'IntervalStyle', 'standard_conforming_strings') ORDER BY name"
)
_EXTENSIONS: Final = sql.SQL(
    "SELECT name, default_version FROM pg_available_extensions ORDER BY name"
)
# What is written into the database that new ones are cloned from shows in its counters. After a
# crash the server counts from zero; it notes that time with those of the background writer only.
_TEMPLATE: Final = sql.SQL(
    "SELECT d.oid, d.datname, d.encoding, d.datcollate, d.datctype, d.datcollversion,"
    " s.tup_inserted, s.tup_updated, s.tup_deleted, s.stats_reset, b.stats_reset"
    " FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid, pg_stat_bgwriter b"
    " WHERE d.datname = coalesce(nullif(%s, ''), 'template1')"
)
_ROLE: Final = sql.SQL(
    "SELECT r.rolname, r.rolsuper, s.setdatabase, s.setconfig FROM pg_roles r"
    " LEFT JOIN pg_db_role_setting s ON s.setdatabase = 0 AND s.setrole IN (0, r.oid)"
    " WHERE r.rolname = current_user ORDER BY 3, 4"
)
