"""Where the app is switched on: nothing here works on a production database by accident."""

import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from django.conf import settings
from django.db import connections
from psycopg import sql

from .conf import TEST_DATABASES, announced_databases, config
from .errors import ConfigurationError, NotEnabledError
from .messages import message
from .postgres.session import Session
from .postgres.targets import Target, check_server

_HINT = message(
    "Set PGSNAP = {'ENABLED': True} in the settings of a system whose data may be replaced."
)
_ALIAS_HINT = message("Name the alias in the databases of the test, so that it gets one.")
_TESTS_HINT = message(
    "Let the run make one: a test says in its databases which it needs, with pytest by the mark "
    "django_db; a fixture django_db_setup of the project's own has to call setup_databases."
)

# (alias, database) pairs that a test runner of this process created. They are exempt by that
# fact, never by what they are called. Told of each is whether this process only knows it from its
# environment, which anything may have set.
_created_here: dict[tuple[str, str], bool] = {}
_UNMARKED: Final = sql.SQL(
    "SELECT datname FROM pg_database WHERE datname = ANY(%s) AND NOT starts_with("
    """coalesce(shobj_description(oid, 'pg_database'), ''), '{"pgsnap_test":')"""
)

# Loopback, link-local and private networks (RFC 1122, 1918, 3927, 4193, 4291). What Python calls
# private changes with its version, and has networks for other purposes.
_NEARBY: Final = [
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
_allowed_here = ContextVar("_allowed_here", default=False)


def exempt_test_database(alias: str, database: str, *, announced: bool = False) -> None:
    """Remember that this process, or that which started it, created a database for its tests."""
    _created_here[alias, database] = announced


def forget_test_database(alias: str, database: str) -> None:
    _created_here.pop((alias, database), None)


@contextmanager
def allow_here() -> Iterator[None]:
    """Allow what the settings or the server's address forbid, for looking or after a question."""
    token = _allowed_here.set(True)
    try:
        yield
    finally:
        _allowed_here.reset(token)


def is_in_tests() -> bool:
    """Tell whether this process runs tests, or was started by one, with test databases or not."""
    return bool(_created_here) or TEST_DATABASES in os.environ


def is_enabled() -> bool:
    """Tell whether the settings switch the app on, as far as one can tell without a server."""
    enabled = config().enabled
    return bool(settings.DEBUG) if enabled is None else enabled


def prefer_test_databases(targets: Sequence[Target]) -> list[Target]:
    """Return the test databases among these, if this process has any of them; else all."""
    return [target for target in targets if _is_exempt(target)] or list(targets)


def check_enabled(targets: Sequence[Target]) -> None:
    """Refuse where the settings switch the app off, and in tests what is not theirs.

    Raises:
        NotEnabledError: ``PGSNAP["ENABLED"]`` is false, or unset while ``DEBUG`` is off; or this
            process runs tests, or was started by one, and there is no test database in a target's
            place.
    """
    others = [target for target in targets if not _is_exempt(target)]
    if others and is_in_tests():
        _check_readable()
        raise NotEnabledError(
            "The alias {alias!r} leads to the database {name!r}, which is not a test database "
            "of this run.",
            hint=_ALIAS_HINT if _created_here else _TESTS_HINT,
            alias=others[0].alias,
            name=others[0].name,
        )
    if is_enabled() or not others or _allowed_here.get():
        return
    reason = message("DEBUG is off" if config().enabled is None else "PGSNAP['ENABLED'] is off")
    raise NotEnabledError(
        "Snapshots are switched off here, since {reason}.", hint=_HINT, reason=reason
    )


def _check_readable() -> None:
    try:
        announced_databases()
    except ConfigurationError as error:
        raise NotEnabledError(
            "{cause} So no database here is known to be one of tests.",
            hint=error.hint,
            cause=error.message,
        ) from error


def check_server_allowed(session: Session, targets: Sequence[Target]) -> None:
    """Refuse a server at a public address, unless the settings switch the app on by name.

    Where they switch it off, a database that the environment calls a test database must be one.

    Raises:
        ConfigurationError: It is a standby, or not the server that Django connects to.
        NotEnabledError: It is neither on this machine nor at a private address, or a database is
            no test database.
    """
    check_server(session, targets)
    if config().enabled or _allowed_here.get():
        return
    if not is_enabled():
        _check_announced(session, targets)
    # The second is what the server itself says: by a tunnel, everything is on this machine.
    far = [each for each in (session.address, session.server_address) if not _is_nearby(each)]
    if far and not all(map(_is_exempt, targets)):
        raise NotEnabledError(
            "The database {name!r} is on a server at the public address {address}, so it may "
            "be somebody's production.",
            hint=_HINT,
            name=targets[0].name,
            address=far[0],
        )


def _check_announced(session: Session, targets: Sequence[Target]) -> None:
    names = [target.name for target in targets if _created_here.get((target.alias, target.name))]
    if names and (unmarked := session.value(_UNMARKED, [names])):
        raise NotEnabledError(
            "{variable} in the environment calls {unmarked!r} a test database, but no test run "
            "has made it.",
            hint="Unset {variable}.",
            variable=TEST_DATABASES,
            unmarked=unmarked,
        )


def _is_exempt(target: Target) -> bool:
    # The wrapper's present name counts: a test runner changes it and changes it back.
    present = connections[target.alias].settings_dict["NAME"]
    return present == target.name and (target.alias, target.name) in _created_here


def _is_nearby(text: str) -> bool:
    if not text:  # a socket
        return True
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _NEARBY)
