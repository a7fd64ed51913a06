"""The database that new ones are cloned from: whether anybody has written into it since.

What is in it is in every template. A look inside would keep others from cloning it meanwhile, so
the server's counters have to tell (manual, pg_stat_database): how many sessions it has had, and
how many rows were written in it, catalogs included. One alone would tell too much. Who only reads
has a session, and autovacuum, which notes statistics of shared catalogs in any database, writes
without one.

What a template depends on outside of the project: the server, the role, what is installed.

The fingerprint of a migrated test database: everything that can change it, as digests.

Two test databases with the same fingerprint are the same, so one may be cloned instead of migrated.
What cannot be seen from here, the project says by ``PGSNAP["TEST"]["FINGERPRINT"]``; and what
depends on the date is never older than ``PGSNAP["TEST"]["MAX_AGE_S"]``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.db import router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ModelState
from psycopg import sql

from ...clones.records import TemplateRecord
from ...conf import test_config
from ...postgres.counters import rows_written
from ...postgres.session import Session
from . import migrate_signals
from .source_dependencies import Reader
from .stable_values import digest, plain

_COUNTERS: Final = sql.SQL(
    "SELECT pg_stat_get_db_sessions(oid), {} FROM pg_database WHERE datname = %s"
).format(rows_written(sql.Identifier("oid")))


def template_source(template_database: str | None) -> str:
    """Return the name of that database, given the name in ``TEST["TEMPLATE"]``, if there is one."""
    return template_database or "template1"


@dataclass(frozen=True, kw_only=True)
class SourceCounters:
    """What the server has counted of that database.

    Attributes:
        sessions: How many sessions it has had.
        written: How many rows were ever written in it.
    """

    sessions: int = 0
    written: int = 0

    @classmethod
    def of(cls, session: Session, template_database: str | None) -> Self:
        """Return what is counted now.

        Args:
            session: A maintenance session.
            template_database: The name in ``TEST["TEMPLATE"]``, if there is one.
        """
        for sessions, rows in session.rows(_COUNTERS, [template_source(template_database)]):
            return cls(sessions=sessions, written=rows)
        return cls()

    @classmethod
    def of_template(cls, template: TemplateRecord) -> Self:
        """Return what was counted before a template, or the first of its ancestors, was made."""
        return cls(sessions=template.ground_sessions, written=template.ground_written)

    def is_still_that_of(self, template: TemplateRecord) -> bool:
        """Tell whether no client has written into it since a template was made.

        Nobody is on a database while it is cloned. Who wrote later came later, too.
        """
        then = self.of_template(template)
        return self.sessions == then.sessions or self.written == then.written


def ingredients(session: Session, template_database: str | None) -> dict[str, Any]:
    """Return what a new database depends on that no project decides, by name.

    Args:
        session: A maintenance session, as the role that migrates.
        template_database: The name in ``TEST["TEMPLATE"]``, if there is one.
    """
    return {
        "distributions": distributions(),
        "python": sys.version,
        "server": session.rows(_SERVER),
        "extensions": session.rows(_EXTENSIONS),
        "template database": session.rows(_TEMPLATE, [template_source(template_database)]),
        "role": session.rows(_ROLE),
    }


def distributions() -> list[str]:
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


_SERVER: Final = sql.SQL(
    "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'TimeZone',"
    " 'default_tablespace', 'default_text_search_config', 'lc_monetary', 'lc_numeric',"
    " 'lc_time', 'DateStyle', 'IntervalStyle', 'standard_conforming_strings') ORDER BY name"
)
_EXTENSIONS: Final = sql.SQL(
    "SELECT name, default_version FROM pg_available_extensions ORDER BY name"
)
# What is written into it shows in its counters, see `ground`. After a crash the server counts from
# zero; it notes that time with those of the background writer only.
_TEMPLATE: Final = sql.SQL(
    "SELECT d.oid, d.datname, d.encoding, d.datcollate, d.datctype, d.datcollversion,"
    " s.stats_reset, b.stats_reset"
    " FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid, pg_stat_bgwriter b"
    " WHERE d.datname = %s"
)
_ROLE: Final = sql.SQL(
    "SELECT r.rolname, r.rolsuper, s.setdatabase, s.setconfig FROM pg_roles r"
    " LEFT JOIN pg_db_role_setting s ON s.setdatabase = 0 AND s.setrole IN (0, r.oid)"
    " WHERE r.rolname = current_user ORDER BY 3, 4"
)


# Raised when templates made by earlier versions of this package can be used no longer.
_FORMAT: Final = 3

# What migrations and the tables of unmigrated apps depend on by way of Django itself.
_SETTINGS: Final = (
    *("AUTH_USER_MODEL", "DEFAULT_AUTO_FIELD", "DEFAULT_INDEX_TABLESPACE", "DEFAULT_TABLESPACE"),
    *("LANGUAGES", "LANGUAGE_CODE", "SITE_ID", "TIME_ZONE", "USE_I18N", "USE_TZ", "FIXTURE_DIRS"),
)
_TEST_SETTINGS: Final = ("CHARSET", "COLLATION", "MIGRATE", "TEMPLATE")

# Data that migrations commonly read lies in these directories of an app.
_DATA_DIRECTORIES: Final = ("fixtures", "sql")

# These a template's history tells for each migration, so that one of fewer can be found.
_HISTORY: Final = frozenset({"migrations", "code", "reads"})

_LENGTH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a migrated test database depends on.

    Attributes:
        ingredients: A digest of each thing that it depends on, by name.
        ground: The database that it is cloned from before it is migrated.
    """

    ingredients: Mapping[str, str]
    ground: SourceCounters = field(default=SourceCounters(), compare=False)

    @property
    def digest(self) -> str:
        """Digest of all ingredients: 64 hexadecimal digits."""
        return digest(sorted(self.ingredients.items()))

    @property
    def identity(self) -> str:
        """What a template with this fingerprint has in its name: 16 hexadecimal digits."""
        return self.digest[:_LENGTH]

    @property
    def environment(self) -> str:
        """Digest of all ingredients but the migrations and what they import."""
        return digest(sorted((k, v) for k, v in self.ingredients.items() if k not in _HISTORY))

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
    migrated = [package for package in packages.values() if package is not None]
    unmigrated = [config for config in apps.get_app_configs() if packages[config.label] is None]
    steps = {name: path for package in migrated for name, path in _steps(package)}
    beside = set(_below(place for package in migrated for place in _places(package)))
    reader = Reader()
    reached = reader.reached_from(steps)
    hooks = reader.reached_from({*_hooks(), *_kinds(unmigrated)})
    test = connection.settings_dict["TEST"]
    depends_on = {
        "format": _FORMAT,
        "alias": [connection.alias, source],
        "migrations": [(name, _bytes(path)) for name, path in steps.items()],
        "code": [file for file in reached.files if file[0] not in steps],
        "reads": reached.reads,
        "hooks": [hooks.files, hooks.reads],
        "data": [
            (_name(path), _bytes(path))
            for path in [*sorted(beside - set(steps.values())), *_data_files()]
        ],
        "apps": list(settings.INSTALLED_APPS),
        "migration modules": [
            (label, package.name if package else None) for label, package in packages.items()
        ],
        "routers": [plain(each) for each in router.routers],
        "settings": [(name, plain(getattr(settings, name, None))) for name in _SETTINGS],
        "test settings": [(name, plain(test.get(name))) for name in _TEST_SETTINGS],
        "connection": _connection(connection),
        "unmigrated models": [_models(config) for config in unmigrated],
        "caches": _caches(),
        "project": plain(test_config().fingerprint),
        **ingredients(session, test.get("TEMPLATE")),
    }
    return Fingerprint(
        ingredients={name: digest(value) for name, value in depends_on.items()},
        ground=SourceCounters.of(session, test.get("TEMPLATE")),
    )


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


def _places(package: ModuleSpec) -> list[str]:
    return list(package.submodule_search_locations or ())


def _steps(package: ModuleSpec) -> Iterator[tuple[str, str]]:
    """Yield the modules that Django's loader takes for migrations, and their files."""
    for place in _places(package):
        for name in sorted(os.listdir(place)):  # noqa: PTH208  # a hot spot of the start-up
            if name.endswith(".py") and name[0] not in "_~":
                yield f"{package.name}.{name.removesuffix('.py')}", os.path.join(place, name)  # noqa: PTH118


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


def _hooks() -> Iterator[str]:
    """Yield the modules of what Django asks and tells while it migrates."""
    for each in router.routers:
        yield type(each).__module__
    yield from migrate_signals.list_modules()


def _kinds(unmigrated: Iterable[AppConfig]) -> Iterator[str]:
    """Yield the modules of what the tables of apps without migrations are made of."""
    for config in unmigrated:
        for model in config.get_models(include_auto_created=True, include_swapped=True):
            options = model._meta
            for each in (*options.local_fields, *options.indexes, *options.constraints):
                yield type(each).__module__


def _connection(connection: BaseDatabaseWrapper) -> list[Any]:
    given = connection.settings_dict
    options = {name: value for name, value in given["OPTIONS"].items() if name != "pool"}
    return [given["ENGINE"], given["TIME_ZONE"], plain(options)]


def _caches() -> list[Any]:
    """Return the tables that createcachetable makes."""
    found = [(alias, caches[alias]) for alias in settings.CACHES]
    return [
        (alias, each.cache_model_class._meta.db_table)
        for alias, each in found
        if isinstance(each, BaseDatabaseCache)
    ]


def _models(config: AppConfig) -> list[Any]:
    """Return the state of an app's models, from which syncdb makes tables."""
    return [
        plain(_state(model))
        for model in config.get_models(include_auto_created=True, include_swapped=True)
    ]


def _state(model: Any) -> list[Any]:
    state = ModelState.from_model(model, exclude_rels=False)
    return [
        *(state.app_label, state.name, state.options, [plain(base) for base in state.bases]),
        model._meta.db_table,
        [(name, field.deconstruct()[1:]) for name, field in state.fields.items()],
    ]
