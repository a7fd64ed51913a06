"""The suite's Django project as the test process sees it: its aliases and its child processes."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

from django_pgsnap.connections import reconnect
from django_pgsnap.postgres.server import Server
from tests.settings import HANDED_ON_IN

ROOT = Path(__file__).parent.parent

HANDED_ON = ("DATABASES", "DATABASE_ROUTERS", "DEBUG", "INSTALLED_APPS", "PGSNAP", "STORAGES")

TIMEOUT_S = 120


def point(alias: str, **values: Any) -> None:
    """Change an alias' settings in place, so that each new connection of any thread follows."""
    close_connections()
    settings.DATABASES[alias].update(values)


def build_server(**values: str) -> Server:
    """Return a server as the package sees it, with some of a `Server`'s fields and a password."""
    settings: dict[str, Any] = {
        "HOST": values["host"],
        "PORT": values["port"],
        "USER": values.get("user", ""),
        "PASSWORD": values.pop("password", ""),
        "OPTIONS": {},
        "TIME_ZONE": None,
    }
    defaults = {"user": "", "role": "", "maintenance": "postgres"}
    return Server(wrapper=DatabaseWrapper, settings=settings, **{**defaults, **values})


@contextmanager
def aliases_put_back() -> Iterator[None]:
    """Put `settings.DATABASES` back at the end, in place, with nothing of Django left connected."""
    # Django's connections hold on to these very dicts, so they are kept and refilled.
    dicts = dict(settings.DATABASES)
    values = copy.deepcopy(dicts)
    try:
        yield
    finally:
        close_connections()
        settings.DATABASES.clear()
        settings.DATABASES.update(dicts)
        for alias, database in dicts.items():
            database.clear()
            database.update(values[alias])


def close_connections() -> None:
    """Close this thread's connections, all pools, and what Django remembers of the databases."""
    connections.close_all()
    pools: dict[str, Any] = DatabaseWrapper._connection_pools  # type: ignore[attr-defined]
    while pools:
        pools.popitem()[1].close()
    ContentType.objects.clear_cache()
    Site.objects.clear_cache()
    reconnect._known_oids.clear()
    reconnect._announced.clear()


def forget_wrapper(alias: str) -> None:
    """Have Django make this thread's wrapper of an alias anew: its engine may be another one."""
    for wrapper in connections.all(initialized_only=True):
        if wrapper.alias == alias:
            wrapper.close()
            del connections[alias]


def child_environment(**changes: Any) -> dict[str, str]:
    """Return the environment in which a child process has the settings that hold here and now.

    Args:
        changes: Settings that are others there.
    """
    values = {name: getattr(settings, name) for name in HANDED_ON} | changes
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        HANDED_ON_IN: json.dumps(values),
    }


class Manage:
    """Runs Django's commands in real processes, on the same settings as the test."""

    def __init__(self) -> None:
        """Start with no child."""
        self._children: list[subprocess.Popen[str]] = []

    def __call__(
        self, *arguments: str, timeout_s: float = TIMEOUT_S, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with nothing on stdin, and return what it printed.

        Args:
            arguments: such as "pgsnap", "take", "seeded".
            timeout_s: when to kill it, in seconds.
            options: more for `subprocess.run`, such as `input`; `env` is added to the environment.
        """
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options = self._options(options) | {"timeout": timeout_s}
        return subprocess.run(self._command(arguments), check=False, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command and return it; it is killed when the test ends."""
        options.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(self._command(arguments), **self._options(options))
        self._children.append(child)
        return child

    def end(self) -> None:
        """Kill the children that still run, and close their pipes."""
        for child in self._children:
            with child:
                child.kill()

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "django", *arguments]

    @staticmethod
    def _options(options: dict[str, Any]) -> dict[str, Any]:
        defaults = {
            "cwd": ROOT,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        return defaults | options | {"env": child_environment() | options.get("env", {})}
