"""The guard: off in production, whatever else is set."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from django.conf import settings

from django_pgsnap import safety
from django_pgsnap.clones.transitions import comment_on_database
from django_pgsnap.conf import TEST_DATABASES
from django_pgsnap.errors import NotEnabledError
from django_pgsnap.postgres.session import ServerIdentity, Session
from django_pgsnap.postgres.targets import Target, list_targets
from django_pgsnap.safety import (
    check_enabled,
    check_server_allowed,
    exempt_test_database,
    forget_test_database,
    is_enabled,
    prefer_test_databases,
)
from tests.conftest import MakeDatabase, ServerAs, SessionAs, SetAlias

HINT = "Set PGSNAP = {'ENABLED': True} in the settings of a system whose data may be replaced."
PUBLIC = "93.184.216.34"


@pytest.fixture(autouse=True)
def _no_exemptions() -> Iterator[None]:
    yield
    safety._created_here.clear()


@pytest.fixture
def about(set_alias: SetAlias) -> list[Target]:
    set_alias("default", NAME="test_live", HOST="db")
    set_alias("other", NAME="test_other", HOST="db")
    return list_targets()


def switch(monkeypatch: pytest.MonkeyPatch, enabled: bool | None, *, debug: bool) -> None:
    given: dict[str, Any] = {} if enabled is None else {"ENABLED": enabled}
    monkeypatch.setattr(settings, "PGSNAP", given)
    monkeypatch.setattr(settings, "DEBUG", debug)


@pytest.mark.parametrize(
    ("enabled", "debug", "on"),
    [
        (None, True, True),
        (None, False, False),
        (True, False, True),
        (True, True, True),
        (False, True, False),
        (False, False, False),
    ],
)
def test_is_on(
    enabled: bool | None, debug: bool, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENABLED decides; where it says nothing, DEBUG does."""
    switch(monkeypatch, enabled, debug=debug)

    assert is_enabled() is on


def test_settings_that_allow(about: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is on, nothing is refused yet."""
    switch(monkeypatch, None, debug=True)

    check_enabled(about)


@pytest.mark.parametrize(
    ("enabled", "debug", "reason"),
    [(None, False, "DEBUG is off"), (False, True, "PGSNAP['ENABLED'] is off")],
)
def test_settings_that_refuse(
    enabled: bool | None,
    debug: bool,
    reason: str,
    about: list[Target],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is off, the setting that says so is named, with the remedy."""
    switch(monkeypatch, enabled, debug=debug)

    with pytest.raises(NotEnabledError) as caught:
        check_enabled(about)

    assert caught.value.message == f"Snapshots are switched off here, since {reason}."
    assert caught.value.hint == HINT


def test_databases_of_a_test_run_are_exempt(
    about: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process created for its tests may be replaced wherever it is, DEBUG or not."""
    switch(monkeypatch, None, debug=False)
    exempt_test_database("default", "test_live")
    exempt_test_database("other", "test_other")

    check_enabled(about)
    check_server_allowed(far(), about)


@pytest.mark.parametrize(
    ("alias", "database"), [("other", "other"), ("default", "test_other"), ("elsewhere", "x")]
)
def test_exemption_is_by_fact(
    alias: str, database: str, about: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking like a test database, or being beside one, exempts nothing."""
    switch(monkeypatch, None, debug=False)
    exempt_test_database("default", "test_live")
    exempt_test_database(alias, database)

    with pytest.raises(NotEnabledError):
        check_enabled(about)
    with pytest.raises(NotEnabledError):
        check_server_allowed(far(), about)


def test_exemption_ends_with_the_name(
    about: list[Target], set_alias: SetAlias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the test runner has put the real name back, the real database is safe."""
    switch(monkeypatch, None, debug=False)
    exempt_test_database("default", "test_live")
    set_alias("default", NAME="live", HOST="db")

    with pytest.raises(NotEnabledError):
        check_enabled(about[:1])


def test_tests_leave_other_databases_alone(
    about: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process runs tests, an alias without a test database is left out, or refused."""
    switch(monkeypatch, True, debug=True)
    exempt_test_database("default", "test_live")

    assert prefer_test_databases(about) == about[:1]
    assert prefer_test_databases(about[1:]) == about[1:]
    with pytest.raises(NotEnabledError) as caught:
        check_enabled(about)
    assert caught.value.message == (
        "The alias 'other' leads to the database 'test_other', "
        "which is not a test database of this run."
    )
    assert caught.value.hint == (
        "Name the alias in the databases of the test, so that it gets one."
    )


def test_tests_without_test_databases(about: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests run, whatever is not theirs is refused even if they have no database at all."""
    switch(monkeypatch, True, debug=True)
    monkeypatch.setenv(TEST_DATABASES, "[]")

    with pytest.raises(NotEnabledError) as caught:
        check_enabled(about)

    assert caught.value.message == (
        "The alias 'default' leads to the database 'test_live', "
        "which is not a test database of this run."
    )
    assert caught.value.hint == (
        "Let the run make one: a test says in its databases which it needs, with pytest by the "
        "mark django_db; a fixture django_db_setup of the project's own has to call "
        "setup_databases."
    )


def test_exemption_is_forgotten(about: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the test run nothing is exempt."""
    switch(monkeypatch, None, debug=False)
    exempt_test_database("default", "test_live")
    forget_test_database("default", "test_live")

    with pytest.raises(NotEnabledError):
        check_enabled(about[:1])


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_server_on_this_machine(
    host: str | None,
    about: list[Target],
    server_as: ServerAs,
    session_as: SessionAs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server behind a socket or on the loopback is nobody's production."""
    switch(monkeypatch, None, debug=True)
    session = session_as(**({"host": host} if host else {}))

    assert session.address == (host or "")
    check_server_allowed(session, about)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.5", "172.17.0.2", "192.168.1.9", "169.254.7.7", "::1", "fd00::5", "fe80::1%eth0"],
)
def test_private_address(
    address: str, about: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in a private network, such as a container's, is nobody's production."""
    switch(monkeypatch, None, debug=True)

    check_server_allowed(far(address), about)


@pytest.mark.parametrize(
    "address",
    [
        *(PUBLIC, "2606:2800:220:1::1", "172.32.0.1", f"::ffff:{PUBLIC}", "100.64.0.1"),
        # Not for private networks, though some Pythons say so.
        *("198.18.0.1", "2001::1", "240.0.0.1", "192.0.2.1", "0.0.0.0"),  # noqa: S104
    ],
)
def test_public_address(address: str, about: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the world can reach is refused, even where DEBUG is on."""
    switch(monkeypatch, None, debug=True)

    with pytest.raises(NotEnabledError) as caught:
        check_server_allowed(far(address), about)

    assert caught.value.message == (
        f"The database 'test_live' is on a server at the public address {address}, "
        "so it may be somebody's production."
    )
    assert caught.value.hint == HINT


def test_server_behind_a_tunnel(about: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarded port is on this machine; the server behind it says where it is itself."""
    switch(monkeypatch, None, debug=True)

    with pytest.raises(NotEnabledError, match=PUBLIC):
        check_server_allowed(far("127.0.0.1", behind=PUBLIC), about)


@pytest.mark.parametrize("marked", [True, False])
def test_database_that_the_environment_calls_a_test_database(
    marked: bool,
    about: list[Target],
    make_database: MakeDatabase,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only the environment says is believed where the database is marked as a test run's."""
    switch(monkeypatch, enabled=False, debug=True)
    make_database("test_live")
    if marked:
        session.execute(comment_on_database("test_live", '{"pgsnap_test": 1}'))
    exempt_test_database("default", "test_live", announced=True)

    check_enabled(about[:1])
    with nullcontext() if marked else pytest.raises(NotEnabledError) as caught:
        check_server_allowed(session, about[:1])

    if caught:
        assert str(caught.value) == (
            "PGSNAP_TEST_DATABASES in the environment calls 'test_live' a test database, but no "
            "test run has made it.\nUnset PGSNAP_TEST_DATABASES."
        )


def test_public_address_allowed_by_name(
    about: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ENABLED somebody has taken the responsibility."""
    switch(monkeypatch, enabled=True, debug=False)

    check_server_allowed(far(), about)


def far(address: str = PUBLIC, *, behind: str | None = None) -> Session:
    """Return a session on a server somewhere else, of which only the addresses are asked."""

    class Far(Session):
        identity = ServerIdentity(system=1, started="1", is_standby=False)

        def __init__(self) -> None:
            self.address = address
            self.server_address = address if behind is None else behind

    return Far()
