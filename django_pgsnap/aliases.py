"""The driver, and Django's wrappers of the aliases; usable without psycopg, for system checks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

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
