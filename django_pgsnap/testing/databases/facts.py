"""What a migrated test database depends on that is neither a file nor a setting that code reads.

That is the server and the role, Django's part of the project, and what is installed. Here is also
how a value is told, and a file called, the same in every process and every checkout of a project.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.utils.functional import Promise
from psycopg import sql

from ...conf import config
from ...postgres.inspection import read_activity
from ...postgres.session import Session
from .file_reads import digest_bytes

# Raised when templates made by earlier versions of this package can be used no longer.
_FORMAT: Final = 4

# Django may have read these before anything could watch, and keeps what it made of them.
_SETTINGS: Final = (
    *("AUTH_USER_MODEL", "DATABASE_ROUTERS", "DEFAULT_AUTO_FIELD", "DEFAULT_INDEX_TABLESPACE"),
    *("DEFAULT_TABLESPACE", "FIXTURE_DIRS", "INSTALLED_APPS", "LANGUAGES", "LANGUAGE_CODE"),
    *("LOCALE_PATHS", "MIGRATION_MODULES", "SERIALIZATION_MODULES", "SITE_ID", "STORAGES"),
    *("AUTH_PASSWORD_VALIDATORS", "PASSWORD_HASHERS", "TEMPLATES", "TIME_ZONE", "USE_I18N"),
    "USE_TZ",
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
_TEMPLATE: Final = sql.SQL(
    "SELECT datname, encoding, datcollate, datctype, datcollversion"
    " FROM pg_catalog.pg_database WHERE datname = %s"
)
_ROLE: Final = sql.SQL(
    "SELECT r.rolname, r.rolsuper, s.setdatabase, s.setconfig FROM pg_catalog.pg_roles r"
    " LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = 0 AND s.setrole IN (0, r.oid)"
    " WHERE r.rolname = current_user ORDER BY 3, 4"
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a test database was made from, or would be if it was migrated now."""

    # Of what it depends on, by kind and name; the kind of those told here is ``fact``.
    digests: Mapping[tuple[str, str], str]
    # How many sessions the server had counted, and how many rows that were written, in the database
    # that it is cloned from before it is migrated.
    counters: tuple[int, int]


def read_facts(connection: BaseDatabaseWrapper, session: Session, source: str) -> Facts:
    """Return the facts that count now for an alias, which leads to *source* outside of tests.

    The alias is not connected for it: the session is on its server, as the role that migrates.
    """
    given = connection.settings_dict
    test = given["TEST"]
    # A look inside would keep others from cloning it meanwhile, so the server's counters have to
    # tell whether a client has written there. Where not all is counted, no epoch is like another.
    template = read_activity(session, test.get("TEMPLATE") or "template1")
    unmigrated = list_unmigrated_models(may_migrate=test["MIGRATE"] is not False)
    facts = {
        "the version of django_pgsnap": _FORMAT,
        "the alias": [connection.alias, source],
        **{f"the setting {name}": getattr(settings, name, None) for name in _SETTINGS},
        "TEST in DATABASES": [test.get(name) for name in _TEST_SETTINGS],
        "the alias in DATABASES": [
            *(given["ENGINE"], given["TIME_ZONE"]),
            {name: value for name, value in given["OPTIONS"].items() if name != "pool"},
        ],
        "the apps without migrations": list(unmigrated),
        "the models without migrations": [
            _describe_model(model) for models in unmigrated.values() for model in models
        ],
        # What createcachetable makes.
        "the caches in the database": [
            (alias, used.cache_model_class._meta.db_table)
            for alias in settings.CACHES
            if isinstance(used := caches[alias], BaseDatabaseCache)
        ],
        "PGSNAP['TEST']['FINGERPRINT']": config().test.fingerprint,
        "the installed distributions": _list_distributions(),
        "the version of Python": sys.version,
        "the server": session.rows(_SERVER),
        "the server's extensions": session.rows(_EXTENSIONS),
        "the database that new ones are cloned from": [
            *(template.oid, template.epoch),
            session.rows(_TEMPLATE, [template.name]),
        ],
        "the role": session.rows(_ROLE),
    }
    return Facts(
        digests={("fact", name): digest_value(value) for name, value in facts.items()},
        counters=(template.sessions, template.rows),
    )


def _has_migrations(label: str) -> bool:
    name, _ = MigrationLoader.migrations_module(label)
    with suppress(ModuleNotFoundError):
        spec = find_spec(name) if name else None
        # As Django's loader has it: neither a module nor a directory without __init__.py counts.
        return bool(spec and spec.origin and spec.submodule_search_locations)
    return False


def list_unmigrated_models(*, may_migrate: bool = True) -> dict[str, list[Any]]:
    """Return the models whose tables Django makes without migrations, by their app's label."""
    return {
        app.label: [*app.get_models(include_auto_created=True, include_swapped=True)]
        for app in apps.get_app_configs()
        if not (may_migrate and _has_migrations(app.label))
    }


def _describe_model(model: Any) -> list[Any]:
    """Return what syncdb makes a model's table of."""
    options = model._meta
    fields = [*options.local_fields, *options.local_many_to_many]
    return [options.label, options.db_table, options.original_attrs, model.__bases__, fields]


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


# A directory of `tempfile` means the same each time, whatever it is called. So does the one that it
# makes them in, which may be another one in each process.
_TEMPORARY: Final = "<temporary>"
_MADE_THERE: Final = re.compile(
    re.escape(_TEMPORARY + os.sep + tempfile.gettempprefix()) + "[a-z0-9_]{8}(?![a-z0-9_])"
)

# What begins the digest of a value that cannot be told, because the project's code fails.
UNKNOWN: Final = "?"

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")

# How deep a look goes; what lies deeper is told by its type alone. An object without a `repr` of
# its own may know half the process, so its attributes are deeper than the items of a container.
_DEPTH: Final = 12
_OBJECT: Final = 5

_REPR: Final[object] = object.__repr__


def digest_value(value: object) -> str:
    return digest_result(lambda: value)


def digest_result(read: Callable[[], object]) -> str:
    """Return 20 hexadecimal digits that stand for what a function returns.

    Where code of the project fails, its `repr` or `deconstruct` for instance, it is `UNKNOWN`
    with the error.
    """
    try:
        text = repr(make_plain(read()))
    except Exception as error:  # noqa: BLE001  # whatever that code raises
        return f"{UNKNOWN}{type(error).__name__}: {error}"
    text = text.replace(sys.prefix, "<prefix>").replace(project_root(), "<project>")
    text = _MADE_THERE.sub(_TEMPORARY, text.replace(tempfile.gettempdir(), _TEMPORARY))
    return digest_bytes(text.encode(errors="surrogatepass"))


def make_plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return something that looks the same wherever the value means the same."""
    if isinstance(value, str | Promise):
        return str(value)
    if depth < 0:
        value = type(value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        items = [[str(key), make_plain(each, depth - 1)] for key, each in value.items()]
        return sorted(items, key=repr)
    if isinstance(value, list | tuple | set | frozenset):
        items = [make_plain(each, depth - 1) for each in value]
        return items if isinstance(value, list | tuple) else sorted(items, key=repr)
    inside = _attributes(value)
    if inside is None:
        return _ADDRESS.sub("", repr(value))
    return [make_plain(type(value)), make_plain(inside, depth - _OBJECT)]


def _attributes(value: Any) -> object:
    """Return what an object is made of, None where its `repr` says it."""
    if hasattr(value, "deconstruct"):
        return value.deconstruct()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return getattr(value, "__dict__", None) if type(value).__repr__ is _REPR else None


@cache
def project_root() -> str:
    """Return the directory from which the project's modules are imported."""
    module = sys.modules.get(settings.SETTINGS_MODULE or "")
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return os.getcwd()  # noqa: PTH109  # as text
    levels = module.__name__.count(".") + hasattr(module, "__path__")
    return str(Path(os.path.abspath(file)).parents[levels])  # noqa: PTH100  # without ".."


def name_file(path: str) -> str:
    """Return what a file is called in every checkout of the project."""
    root = project_root()
    path = os.path.abspath(path)  # noqa: PTH100  # as text
    if os.path.commonpath([path, root]) == os.path.abspath(os.sep):  # noqa: PTH100  # as text
        return path
    return os.path.relpath(path, root)


def locate_file(name: str) -> str:
    return os.path.normpath(os.path.join(project_root(), name))  # noqa: PTH118  # many, perhaps
