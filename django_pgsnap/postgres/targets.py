"""Aliases: Django's wrappers of the databases that the settings name.

Targets: which live databases an operation is about, and on which servers they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..aliases import iter_postgresql_wrappers
from ..conf import config
from ..errors import ConfigurationError
from .server import Server, maintenance_name

# How Django's cursors behave is no business of a maintenance session.
_DJANGO_ONLY: Final = ("cursor_factory", "context", "dbname", "prepare_threshold")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A live database: the one that an alias in ``DATABASES`` names."""

    alias: str
    name: str
    server: Server


def list_targets(aliases: Sequence[str] | None = None) -> list[Target]:
    """Return the live databases to work on, in the order of ``DATABASES``.

    Args:
        aliases: Only these; None for ``PGSNAP["DATABASES"]`` or else every PostgreSQL alias that
            is not a mirror. Where two aliases name the same database, the first one counts.

    Raises:
        ConfigurationError: An alias is unknown, a mirror, or not PostgreSQL, or none is left.
    """
    found: dict[tuple[str, str, str], Target] = {}
    for alias in _chosen_aliases(aliases):
        target = _target(connections[alias])
        found.setdefault((target.server.host, target.server.port, target.name), target)
    return list(found.values())


class OnServer(Protocol):
    """What is on one server."""

    @property
    def server(self) -> Server:
        """The server."""


OnServerT = TypeVar("OnServerT", bound=OnServer)


def group_by_server(found: Iterable[OnServerT]) -> dict[Server, list[OnServerT]]:
    """Return what is on each server."""
    groups: dict[Server, list[OnServerT]] = {}
    for each in found:
        groups.setdefault(each.server, []).append(each)
    return groups


def live_database_names() -> set[str]:
    """Return the names of all databases in ``DATABASES``: none of them is ever ours to drop."""
    return {_database_name(connections.settings[alias]) for alias in connections}


def _chosen_aliases(aliases: Sequence[str] | None) -> list[str]:
    wanted = config().databases if aliases is None else aliases
    if wanted is None:
        wanted = [
            wrapper.alias for wrapper in iter_postgresql_wrappers() if not _is_mirror(wrapper)
        ]
        if not wanted:
            raise ConfigurationError(
                "No alias in DATABASES is PostgreSQL.",
                hint="Snapshots need ENGINE 'django.db.backends.postgresql'.",
            )
        return wanted
    for alias in wanted:
        _check_alias(alias)
    return [alias for alias in connections if alias in set(wanted)]


def _check_alias(alias: str) -> None:
    if alias not in connections.settings:
        raise ConfigurationError(
            f"There is no alias {alias!r} in DATABASES.",
            hint=f"Known: {', '.join(connections)}.",
        )
    wrapper = connections[alias]
    if wrapper.vendor != "postgresql":
        raise ConfigurationError(
            f"The alias {alias!r} is {wrapper.display_name}, not PostgreSQL.",
            hint="Choose others with --database or PGSNAP['DATABASES'].",
        )
    if _is_mirror(wrapper):
        raise ConfigurationError(
            f"The alias {alias!r} is a mirror of {wrapper.settings_dict['TEST']['MIRROR']!r}.",
            hint="Choose that one instead.",
        )


def _is_mirror(wrapper: BaseDatabaseWrapper) -> bool:
    return bool(wrapper.settings_dict["TEST"].get("MIRROR"))


def _database_name(settings: Mapping[str, Any]) -> str:
    name = settings["NAME"]
    # Django connects to postgres where NAME is None.
    return "postgres" if name is None else str(name)


def _target(wrapper: BaseDatabaseWrapper) -> Target:
    name = _database_name(wrapper.settings_dict)
    if not name:
        raise ConfigurationError(
            f"The alias {wrapper.alias!r} has no NAME.",
            hint="Give its database's NAME in DATABASES, beside the service too.",
        )
    return Target(alias=wrapper.alias, name=name, server=get_server(wrapper))


def get_server(wrapper: BaseDatabaseWrapper) -> Server:
    """Return the server that an alias leads to."""
    # The same whatever was chosen, so that all operations on a server meet at the same locks.
    maintenance = maintenance_name(sorted(live_database_names()), config().maintenance)
    parameters = _parameters(wrapper)
    return Server(
        host=str(parameters.get("host", "")),
        port=str(parameters.get("port", "")),
        user=str(parameters.get("user", "")),
        role=str(wrapper.settings_dict["OPTIONS"].get("assume_role", "")),
        maintenance=maintenance,
        parameters=parameters,
    )


def _parameters(wrapper: BaseDatabaseWrapper) -> dict[str, Any]:
    # No variable holds passwords while this can fail: pages that explain errors show variables.
    return {
        key: value
        for key, value in {**wrapper.get_connection_params(), **config().maintenance}.items()
        if key not in _DJANGO_ONLY
    }
