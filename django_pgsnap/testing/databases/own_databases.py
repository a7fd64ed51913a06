"""The test databases of this process: which they are, and the lock that says that they live.

A run holds an advisory lock for each of its test databases as long as it lives. So a later run can
tell what a killed one left from what a living one uses. Forked workers share the connection that
holds the locks, so that they are held until the last of them is gone.

Processes that a test starts learn the test databases from the environment: what they do to a
database happens there, not in development. The environment says that tests run even where there is
no test database yet, or will be none.
"""

import json
import os
from dataclasses import dataclass, replace
from typing import Final

from django.db import connections

from ...clones.for_tests import run_lock_key
from ...conf import TEST_DATABASES, announced_databases
from ...errors import ConfigurationError, DatabaseBusyError, OperationRunningError
from ...messages import printable
from ...postgres.advisory_locks import (
    acquire_lock,
    describe_lock_holder,
    release_lock,
    try_acquire_lock,
)
from ...postgres.server import Server
from ...postgres.session import Session
from ...postgres.targets import get_server
from ...reporting import logger
from ...safety import exempt_test_database, forget_test_database

# How long the server may take to notice that a killed run is gone.
_GONE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class OwnDatabase:
    alias: str
    name: str
    source: str  # name of the alias' database outside of tests
    template: str | None  # the one that holds its migrated state, None if none was kept
    written: int = 0  # how many rows had been written in it when it was in that state
    announced: bool = False  # whether another process made it, which has started this one


# By alias and name: a test runner leads an alias from one to another.
_own: dict[tuple[str, str], OwnDatabase] = {}

# The sessions that hold the locks, by process too: forked workers must not use their parent's.
_sessions: dict[tuple[int, Server], Session] = {}


def announce_tests() -> None:
    """Announce that tests run, so that nothing but test databases is worked on from now."""
    os.environ.setdefault(TEST_DATABASES, "[]")


def withdraw_announcement() -> None:
    """Announce that no more tests run, if their databases are all given up."""
    if not _own:
        os.environ.pop(TEST_DATABASES, None)


def list_made_databases() -> list[OwnDatabase]:
    """Return the test databases that this process made, by all aliases that lead or led there."""
    return [own for own in _own.values() if not own.announced]


def find_own_database(alias: str, name: str = "") -> OwnDatabase | None:
    """Return the test database that an alias leads to now, or that has this name, if it is ours."""
    # Not connections[alias]: a driver of another vendor may be missing. An alias that was added at
    # run time may lack a name.
    return _own.get((alias, name or str(connections.settings[alias].get("NAME"))))


def register_database(own: OwnDatabase) -> None:
    """Take note of a test database of this process, which snapshots may be taken of from now."""
    _own[own.alias, own.name] = own
    exempt_test_database(own.alias, own.name, announced=own.announced)
    _announce()


def register_mirror(alias: str, source: str) -> None:
    """Take note of an alias that a test runner leads to another one's test database."""
    name = str(connections[alias].settings_dict["NAME"])
    for own in list(_own.values()):
        if own.name == name:
            register_database(replace(own, alias=alias, source=source))


def forget_database(server: Server, name: str) -> None:
    """Give a test database and its name up, by whatever alias; with the last the session ends."""
    there = _own_on(server)
    for own in list(_own.values()):
        # A mirror leads to another server outside of tests.
        is_mirror = connections.settings[own.alias]["TEST"]["MIRROR"] is not None
        if own.name == name and (own in there or is_mirror):
            del _own[own.alias, name]
            forget_test_database(own.alias, name)
    _announce()
    session = _sessions.get((os.getpid(), server))
    if session is not None and not session.broken:
        release_lock(session, run_lock_key(name))
    if session is not None and not _own:
        _sessions.pop((os.getpid(), server)).close()


def get_lock_session(server: Server) -> Session:
    """Return the session of this process that holds the locks of its test databases."""
    key = (os.getpid(), server)
    before = _sessions.get(key)
    if before is not None and not before.broken:
        return before
    # Whoever runs tests may create databases, so a maintenance database is never refused.
    _sessions[key] = session = server.session("tests", before_creating=lambda _: None)
    # A server that crashes may forget the last names and marks: the next run sweeps the rest.
    session.configure({"synchronous_commit": "off"})
    session.prepare_repeated()
    for own in _own_on(server) if before is not None else ():
        # A worker's may be held by its parent, whose session stands.
        try_acquire_lock(session, run_lock_key(own.name))
    return session


def claim_name(session: Session, name: str) -> None:
    """Claim the name of a test database for as long as this run lives.

    Raises:
        DatabaseBusyError: Another run uses it.
    """
    try:
        acquire_lock(session, run_lock_key(name), _GONE_S)
    except OperationRunningError as error:
        raise DatabaseBusyError(
            f"The test database {name!r} is in use by another test run: "
            f"{describe_lock_holder(session, run_lock_key(name))}.",
            hint="Wait for that run, or give this one another name in DATABASES: "
            "'TEST': {'NAME': '…'}.",
        ) from error


def adopt_announced_databases() -> None:
    """Lead this process, which a test has started, to the test databases of that test."""
    try:
        told = [(each.pop("place"), each) for each in announced_databases()]
    except ConfigurationError as error:
        # Then no database here is one of the test's, and the guard refuses all of them.
        logger.warning(printable(error.message))
        return
    for place, values in told:
        own = OwnDatabase(**values, announced=True)
        if own.alias in connections.settings and _place(own.alias) == place:
            connections[own.alias].settings_dict["NAME"] = own.name
            register_database(own)


def _own_on(server: Server) -> list[OwnDatabase]:
    # Test databases of several servers may have one name, and one may be led to by several roles.
    return [
        own for own in _own.values() if get_server(connections[own.alias]).address == server.address
    ]


def _announce() -> None:
    """Tell the processes that tests will start."""
    told = ("alias", "name", "source", "template")
    found = [
        {**{key: getattr(own, key) for key in told}, "place": _place(own.alias, NAME=own.source)}
        for own in map(find_own_database, connections)
        if own is not None
    ]
    os.environ[TEST_DATABASES] = json.dumps(found)


def _place(alias: str, **given: str) -> list[str]:
    settings = {**connections[alias].settings_dict, **given}
    return [str(settings[key]) for key in ("HOST", "PORT", "NAME")]
