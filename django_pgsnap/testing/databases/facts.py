"""What a migrated test database depends on that is neither a file nor a setting that code reads.

That is the server and the role, Django's part of the project, and what is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Self

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ModelState
from psycopg import sql

from ...conf import test_config
from ...postgres.inspection import read_counters
from ...postgres.session import Session
from .stable_values import digest_result, digest_value

# Raised when templates made by earlier versions of this package can be used no longer.
_FORMAT: Final = 4

# Django may have read these before anything could watch, and keeps what it made of them.
_SETTINGS: Final = (
    *("AUTH_USER_MODEL", "DATABASE_ROUTERS", "DEFAULT_AUTO_FIELD", "DEFAULT_INDEX_TABLESPACE"),
    *("DEFAULT_TABLESPACE", "FIXTURE_DIRS", "INSTALLED_APPS", "LANGUAGES", "LANGUAGE_CODE"),
    *("LOCALE_PATHS", "MIGRATION_MODULES", "SERIALIZATION_MODULES", "SITE_ID", "STORAGES"),
    *("AUTH_PASSWORD_VALIDATORS", "TIME_ZONE", "USE_I18N", "USE_TZ"),
)
_TEST_SETTINGS: Final = ("CHARSET", "COLLATION", "MIGRATE", "TEMPLATE")

_SERVER: Final = sql.SQL(
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('server_version', 'TimeZone',"
    " 'default_tablespace', 'default_text_search_config', 'lc_monetary', 'lc_numeric',"
    " 'lc_time', 'DateStyle', 'IntervalStyle', 'standard_conforming_strings') ORDER BY name"
)
_EXTENSIONS: Final = sql.SQL(
    "SELECT name, default_version FROM pg_catalog.pg_available_extensions ORDER BY name"
)
# What is written into it shows in its counters. After a crash the server counts from zero; it notes
# that time with those of the background writer only.
_TEMPLATE: Final = sql.SQL(
    "SELECT d.oid, d.datname, d.encoding, d.datcollate, d.datctype, d.datcollversion,"
    " s.stats_reset, b.stats_reset"
    " FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid,"
    " pg_catalog.pg_stat_bgwriter b WHERE d.datname = %s"
)
_ROLE: Final = sql.SQL(
    "SELECT r.rolname, r.rolsuper, s.setdatabase, s.setconfig FROM pg_catalog.pg_roles r"
    " LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = 0 AND s.setrole IN (0, r.oid)"
    " WHERE r.rolname = current_user ORDER BY 3, 4"
)


@dataclass(frozen=True, kw_only=True)
class SourceCounters:
    """What the server has counted in the database that new ones are cloned from.

    A look inside would keep others from cloning it meanwhile, so the server's counters have to tell
    whether a client has written there (manual, pg_stat_database). Both must change: readers raise
    only sessions, autovacuum raises only rows, those of catalogs included.
    """

    sessions: int = 0
    written: int = 0

    @classmethod
    def read(cls, session: Session, template_database: str | None) -> Self:
        """Return what is counted now of the one in ``TEST["TEMPLATE"]``, or of the usual one."""
        name = template_database or "template1"
        found = read_counters(session, [name]).get(name)
        return cls(sessions=found.sessions, written=found.rows) if found else cls()

    def show_no_writer_since(self, then: SourceCounters) -> bool:
        """Tell whether no client has written into it since the counters were those of *then*.

        Cloning needs an empty database, so a later writer opened a later session.
        """
        return self.sessions == then.sessions or self.written == then.written


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a test database that is migrated now would depend on.

    The digests are by what each fact is called in messages. The counters are those of the database
    that it is cloned from before it is migrated.
    """

    digests: dict[str, str]
    counters: SourceCounters


def read_facts(connection: BaseDatabaseWrapper, session: Session, source: str) -> Facts:
    """Return the facts that count now.

    Args:
        connection: The wrapper of the alias, which is not connected for it.
        session: A maintenance session on its server, as the role that migrates.
        source: Name of the database that the alias leads to outside of tests.
    """
    given = connection.settings_dict
    test = given["TEST"]
    is_migrated = {
        config.label: test["MIGRATE"] is not False and _has_migrations(config.label)
        for config in apps.get_app_configs()
    }
    facts = {
        "the version of django_pgsnap": _FORMAT,
        "the alias": [connection.alias, source],
        **{f"the setting {name}": getattr(settings, name, None) for name in _SETTINGS},
        "TEST in DATABASES": [test.get(name) for name in _TEST_SETTINGS],
        "the alias in DATABASES": [
            *(given["ENGINE"], given["TIME_ZONE"]),
            {name: value for name, value in given["OPTIONS"].items() if name != "pool"},
        ],
        "the apps with migrations": is_migrated,
        # What createcachetable makes.
        "the caches in the database": [
            (alias, cache.cache_model_class._meta.db_table)
            for alias in settings.CACHES
            if isinstance(cache := caches[alias], BaseDatabaseCache)
        ],
        "PGSNAP['TEST']['FINGERPRINT']": test_config().fingerprint,
        "the installed distributions": _list_distributions(),
        "the version of Python": sys.version,
        "the server": session.rows(_SERVER),
        "the server's extensions": session.rows(_EXTENSIONS),
        "the database that new ones are cloned from": session.rows(
            _TEMPLATE, [test.get("TEMPLATE") or "template1"]
        ),
        "the role": session.rows(_ROLE),
    }
    models = digest_result(
        lambda: [
            _describe_model(model)
            for config in apps.get_app_configs()
            if not is_migrated[config.label]
            for model in _list_models(config)
        ]
    )
    digests = {name: digest_value(value) for name, value in facts.items()}
    return Facts(
        digests={**digests, "the models without migrations": models},
        counters=SourceCounters.read(session, test.get("TEMPLATE")),
    )


def _has_migrations(label: str) -> bool:
    name, _ = MigrationLoader.migrations_module(label)
    if name is None:
        return False
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return False
    # As Django's loader has it: neither a module nor a directory without __init__.py counts.
    return spec is not None and spec.origin is not None and bool(spec.submodule_search_locations)


def list_unmigrated_models() -> Iterator[Any]:
    """Yield the models whose tables Django may make without migrations."""
    for config in apps.get_app_configs():
        if not _has_migrations(config.label):
            yield from _list_models(config)


def _list_models(config: AppConfig) -> Iterator[Any]:
    return config.get_models(include_auto_created=True, include_swapped=True)


def _describe_model(model: Any) -> list[Any]:
    """Return the state from which syncdb makes a model's table."""
    state = ModelState.from_model(model, exclude_rels=False)
    return [
        *(state.app_label, state.name, state.options, list(state.bases)),
        model._meta.db_table,
        [(name, field.deconstruct()[1:]) for name, field in state.fields.items()],
    ]


def _list_distributions() -> list[str]:
    """Return all installed distributions, by the directories that have version in their names.

    What lies in the project's own directory is no installation, but left by a build.
    """
    return sorted(
        {
            name
            for path in sys.path
            if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)  # noqa: PTH112  # a hot spot of the start-up
            for name in os.listdir(path)  # noqa: PTH208  # the same
            if name.endswith((".dist-info", ".egg-info"))
        }
    )
