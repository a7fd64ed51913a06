"""Targets: which live databases an operation is about, and on which servers they are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, Protocol, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from ..conf import config, get_wrapper, iter_postgresql_wrappers
from ..errors import ConfigurationError, MissingRightError, ServerUnavailableError
from ..messages import message
from ..reporting import logger
from .server import Server, maintenance_name
from .session import ServerIdentity, Session


@dataclass(frozen=True, kw_only=True)
class Target:
    """A live database: the one that an alias in ``DATABASES`` names."""

    alias: str
    name: str
    server: Server  # its server, by the way that maintenance sessions take
    usual_server: Server = field(compare=False, repr=False)  # the same by the way that Django takes


def list_targets(aliases: Sequence[str] | None = None) -> list[Target]:
    """Return the live databases to work on, in the order of ``DATABASES``.

    Without aliases, those are ``PGSNAP["DATABASES"]``, or else every PostgreSQL alias that is not a
    mirror. Where two aliases name the same database, the first one counts.

    Raises:
        ConfigurationError: An alias is unknown, a mirror, or not PostgreSQL, or none is left.
    """
    found: dict[tuple[object, str], Target] = {}
    for alias in _chosen_aliases(aliases):
        target = _target(connections[alias])
        found.setdefault((target.usual_server.address, target.name), target)
    return list(found.values())


def merge_servers(targets: Sequence[Target], *, are_named: bool) -> list[Target]:
    """Return targets so that each database comes once, and each server with one address.

    Several addresses can lead to one server, and only the server can say so. One that cannot be
    reached is taken for another one: whoever goes on with it will hear why. Standbys are left out
    unless somebody has named these targets.
    """
    if len({target.usual_server.address for target in targets}) == 1:
        return list(targets)
    met: dict[tuple[str, str, str], ServerIdentity] = {}
    for server, there in group_by_server(targets).items():
        try:
            session = server.session("comparing servers")
        except (MissingRightError, ServerUnavailableError):
            continue
        with session:
            met[server.address] = session.identity
            for target in there:
                _check_same_database(session, target)
    servers: dict[tuple[object, str, str], Server] = {}
    merged: dict[tuple[object, str], Target] = {}
    for target in targets:
        address = target.server.address
        if not are_named and address in met and met[address].is_standby:
            _warn_of_standby(target)
            continue
        identity = met.get(address, address)
        key = (identity, target.server.user, target.server.role)
        server = servers.setdefault(key, target.server)
        merged.setdefault((identity, target.name), replace(target, server=server))
    return list(merged.values())


def check_server(session: Session, targets: Sequence[Target]) -> None:
    """Refuse a standby, and maintenance sessions that meet another server than Django does."""
    for target in targets:
        if session.identity.is_standby:
            raise ConfigurationError(
                "The alias {alias!r} leads to a standby, which is read-only.",
                hint="Choose the alias of its primary with --database or PGSNAP['DATABASES'].",
                alias=target.alias,
            )
        _check_same_database(session, target)


def _check_same_database(session: Session, target: Target) -> None:
    usual = target.usual_server
    if usual.address == target.server.address or not _overrides(target.alias):
        return
    oid = session.value(sql.SQL("SELECT oid FROM pg_database WHERE datname = %s"), [target.name])
    try:
        met = usual.identify(target.name)
    except ServerUnavailableError:
        # It may be gone or shut, which is no reason not to restore it.
        met = (usual.identify(target.server.maintenance)[0], oid)
    if met != (session.identity, oid):
        raise ConfigurationError(
            "Django connects the alias {alias!r} to {usual}, but the way in "
            "PGSNAP['MAINTENANCE'], to {server}, does not lead to the same database.",
            hint="Give each alias its own: PGSNAP = {{'MAINTENANCE': {{{alias!r}: {{'host': "
            "'…', 'port': '…'}}}}}}.",
            alias=target.alias,
            usual=usual,
            server=target.server,
        )


class OnServer(Protocol):
    @property
    def server(self) -> Server: ...


OnServerT = TypeVar("OnServerT", bound=OnServer)


def group_by_server(found: Iterable[OnServerT]) -> dict[Server, list[OnServerT]]:
    groups: dict[Server, list[OnServerT]] = {}
    for each in found:
        groups.setdefault(each.server, []).append(each)
    return groups


@cache
def _warn_of_standby(target: Target) -> None:
    """Say once in a process that a standby is left out."""
    logger.warning(
        "The alias %r leads to a standby, which is read-only; it is left out.", target.alias
    )


def live_database_names() -> set[str]:
    """Return the names of all databases in ``DATABASES``: none of them is ever ours to drop."""
    return {_database_name(connections.settings[alias]) for alias in connections}


def _chosen_aliases(aliases: Sequence[str] | None) -> list[str]:
    wanted = config().databases if aliases is None else aliases
    if wanted is not None:
        for alias in wanted:
            check_alias(alias)
        return [alias for alias in connections if alias in wanted]
    found = [each.alias for each in iter_postgresql_wrappers() if not _is_mirror(each)]
    if not found:
        raise ConfigurationError(
            "No alias in DATABASES is PostgreSQL.",
            hint="Snapshots need ENGINE 'django.db.backends.postgresql'.",
        )
    return found


def check_alias(alias: str) -> None:
    """Refuse an alias that is not in ``DATABASES``, not PostgreSQL, or a mirror."""
    if alias not in connections.settings:
        raise ConfigurationError(
            "There is no alias {alias!r} in DATABASES.",
            hint="Known: {known}.",
            alias=alias,
            known=", ".join(connections),
        )
    wrapper = get_wrapper(alias)
    if wrapper is None or wrapper.vendor != "postgresql":
        raise ConfigurationError(
            "The alias {alias!r} is {vendor}, not PostgreSQL.",
            hint="Choose others with --database or PGSNAP['DATABASES'].",
            alias=alias,
            vendor=wrapper.display_name if wrapper else message("of a vendor without driver here"),
        )
    if _is_mirror(wrapper):
        raise ConfigurationError(
            "The alias {alias!r} is a mirror of {mirrored!r}.",
            hint="Choose that one instead.",
            alias=alias,
            mirrored=wrapper.settings_dict["TEST"]["MIRROR"],
        )


def _is_mirror(wrapper: BaseDatabaseWrapper) -> bool:
    # An alias that was added at run time may lack it.
    return bool(wrapper.settings_dict.get("TEST", {}).get("MIRROR"))


def _database_name(settings: Mapping[str, Any]) -> str:
    name = settings["NAME"]
    # Django connects to postgres where NAME is None.
    return "postgres" if name is None else str(name)


def _target(wrapper: BaseDatabaseWrapper) -> Target:
    name = _database_name(wrapper.settings_dict)
    if not name:
        raise ConfigurationError(
            "The alias {alias!r} has no NAME.",
            hint="Give its database's NAME in DATABASES, beside the service too.",
            alias=wrapper.alias,
        )
    overrides = _overrides(wrapper.alias)
    server = _build_server(wrapper, overrides)
    usual = _build_server(wrapper, {}) if overrides else server
    return Target(alias=wrapper.alias, name=name, server=server, usual_server=usual)


def get_server(wrapper: BaseDatabaseWrapper) -> Server:
    """Return the server that an alias leads to, by the way that maintenance sessions take."""
    return _build_server(wrapper, _overrides(wrapper.alias))


def aliases_sharing_database(aliases: Iterable[str]) -> list[str]:
    """Return every alias, mirrors included, that leads to the live database of one of these."""
    wanted = set(aliases)
    places = {
        wrapper.alias: (get_server(wrapper).identity, _database_name(wrapper.settings_dict))
        for wrapper in iter_postgresql_wrappers()
    }
    leading = {place for alias, place in places.items() if alias in wanted}
    return [alias for alias, place in places.items() if place in leading]


def meet_servers(names: Collection[str]) -> None:
    """Find out to which servers the aliases of databases with these names lead.

    One that cannot be reached stays unknown.
    """
    for wrapper in iter_postgresql_wrappers():
        if _database_name(wrapper.settings_dict) in names:
            with suppress(MissingRightError, ServerUnavailableError):
                get_server(wrapper).session("comparing servers").close()


def _build_server(wrapper: BaseDatabaseWrapper, overrides: Mapping[str, Any]) -> Server:
    settings = _overridden(wrapper.settings_dict, overrides)
    options = settings["OPTIONS"]
    return Server(
        service=str(options.get("service", "")),
        host=str(settings["HOST"] or options.get("host", "")),
        port=str(settings["PORT"] or options.get("port", "")),
        user=str(settings["USER"] or options.get("user", "")),
        role=str(options.get("assume_role", "")),
        # The same whatever was chosen, so that all operations on a server meet at the same locks.
        maintenance=maintenance_name(sorted(live_database_names()), overrides),
        wrapper=type(wrapper),
        settings=settings,
    )


def _overrides(alias: str) -> Mapping[str, Any]:
    given = config().maintenance
    by_alias = any(isinstance(value, Mapping) for value in given.values())
    return given.get(alias, {}) if by_alias else given


_SETTING_OF: Final = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}


def _overridden(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    # No variable holds passwords while this can fail: pages that explain errors show variables.
    more = {key: value for key, value in overrides.items() if key not in {*_SETTING_OF, "dbname"}}
    return {
        **settings,
        **{_SETTING_OF[key]: value for key, value in overrides.items() if key in _SETTING_OF},
        "OPTIONS": {**settings["OPTIONS"], **more},
    }
