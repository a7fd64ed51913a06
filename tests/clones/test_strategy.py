"""Cloning a database: which strategy, and the statements that do it."""

from typing import Any

import psycopg
import pytest
from psycopg import sql as pg

from django_pgsnap.clones import strategy as strategies
from django_pgsnap.clones.records import STRATEGIES, CopyRecord, Strategy, parse_strategy
from django_pgsnap.clones.strategy import (
    WAL_LOG_MAX_BYTES,
    check_strategy,
    choose_strategy,
    is_refusal_to_share_blocks,
    note_rates,
    quicker_strategy,
    shares_blocks,
)
from django_pgsnap.clones.transitions import Clone, drop_database
from django_pgsnap.errors import ConfigurationError
from django_pgsnap.postgres.session import Session
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, SessionAs
from tests.records import copy_record

ODD = 'Ödd "name" 100%'
LARGE = WAL_LOG_MAX_BYTES + 1
MIB = 1024**2


def clone(**values: Any) -> Clone:
    return Clone(
        **{"source": "live", "name": "copy", "owner": "postgres", "strategy": "wal_log", **values}
    )


def old(session: Session) -> Session:
    """Return the session as if its server were the last release that corrupts with WAL_LOG."""
    old = Session(session._connection)
    old.server_version = 150002
    return old


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_makes_a_shut_copy(
    strategy: Strategy,
    session: Session,
    role: MakeRole,
    make_database: MakeDatabase,
    databases: ListDatabases,
) -> None:
    """A clone belongs to its owner and lets nobody in, whatever its source's properties are."""
    make_database(ODD)
    session.execute(pg.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(pg.Identifier(ODD)))
    each = clone(source=ODD, name=ODD[::-1], owner=role(ODD), strategy=strategy)

    each.prepare(session)
    session.execute(each.statement)

    made = next(database for database in databases() if database.name == ODD[::-1])
    assert (made.owner, made.allows_connections, made.connection_limit, made.is_template) == (
        ODD,
        False,
        0,
        False,
    )


def test_statement() -> None:
    """The strategy clone is a way of copying files."""
    assert clone(strategy="clone").statement.as_string(None) == (
        'CREATE DATABASE "copy" TEMPLATE "live" OWNER "postgres" STRATEGY FILE_COPY'
        " ALLOW_CONNECTIONS false CONNECTION LIMIT 0 IS_TEMPLATE false"
    )
    assert " STRATEGY WAL_LOG " in clone().statement.as_string(None)


@pytest.mark.pg(">= 18")
def test_prepare_chooses_the_method(session: Session) -> None:
    """Sharing blocks is switched on for a clone, and off for a plain copy."""
    shown = []
    for strategy in ("clone", "file_copy"):
        clone(strategy=strategy).prepare(session)
        shown.append(session.value(pg.SQL("SHOW file_copy_method")))

    assert shown == ["clone", "copy"]


@pytest.mark.pg(">= 18")
def test_best_strategy(session: Session) -> None:
    """Small databases are logged; large ones share blocks where the server can."""
    assert choose_strategy(session, WAL_LOG_MAX_BYTES) == "wal_log"
    assert choose_strategy(session, LARGE) == "clone"


def test_many_files(session: Session) -> None:
    """Each file costs more to copy than to log, so a database of many small ones is logged."""
    assert choose_strategy(session, 130 * MIB, relations=1_000) != "wal_log"
    assert choose_strategy(session, 130 * MIB, relations=25_000) == "wal_log"
    assert choose_strategy(session, 2 * 1024 * MIB, relations=25_000) != "wal_log"


def test_size_unknown(session: Session) -> None:
    """Where the server does not tell the size, the files are copied."""
    assert choose_strategy(session, None, relations=25_000) != "wal_log"


@pytest.mark.parametrize(("free", "logs"), [(33 * MIB, True), (32 * MIB, False), (None, True)])
def test_little_space(
    free: int | None, logs: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a copy and its log may not fit, the files are copied, which fails without harm."""
    monkeypatch.setattr(strategies, "read_free_bytes", lambda _: free)

    assert (choose_strategy(session, 8 * MIB) == "wal_log") is logs


@pytest.mark.pg("< 18")
def test_best_strategy_before_18(session: Session) -> None:
    """Before 18 the files of large databases are copied."""
    assert choose_strategy(session, WAL_LOG_MAX_BYTES) == "wal_log"
    assert choose_strategy(session, LARGE) == "file_copy"


@pytest.mark.parametrize(
    ("clone_rate", "file_copy_rate", "strategy"),
    [
        (0, 0, "clone"),
        (0, 2e9, "clone"),
        (1e9, 0, "file_copy"),
        (1e9, 2e9, "file_copy"),
        (2e9, 1e9, "clone"),
        (6e9, 7e9, "clone"),
    ],
)
def test_strategy_by_rates(clone_rate: float, file_copy_rate: float, strategy: Strategy) -> None:
    """Sharing blocks is tried first; where it turns out to copy them, the quicker way is taken."""
    newest = copy_record(clone_rate=clone_rate, file_copy_rate=file_copy_rate)

    assert quicker_strategy(newest) == strategy


def noted(wanted: Strategy, used: Strategy, size_bytes: int) -> CopyRecord:
    """Return the record of a copy that took half a second; of the one before rates were 3 and 2."""
    record = copy_record(
        strategy=used, size_bytes=size_bytes, seconds=0.5, clone_rate=3.0, file_copy_rate=2.0
    )
    return note_rates(record, wanted)


def rates(wanted: Strategy, used: Strategy, size_bytes: int) -> tuple[float, float]:
    record = noted(wanted, used, size_bytes)
    return record.clone_rate, record.file_copy_rate


def test_rates_of_what_was_tried() -> None:
    """A large copy shows the rate of its strategy, a small or a logged one shows nothing."""
    assert rates("clone", "clone", 10**9) == (2e9, 2.0)
    assert rates("file_copy", "file_copy", 10**9) == (3.0, 2e9)
    assert rates("file_copy", "file_copy", 10**6) == (3.0, 2.0)
    assert rates("wal_log", "wal_log", 10**9) == (3.0, 2.0)


def test_refusal_is_remembered() -> None:
    """What the file system refused is not tried again."""
    assert quicker_strategy(noted("clone", "file_copy", 10**6)) == "file_copy"


def test_server_that_corrupts(session: Session) -> None:
    """Before 15.3, WAL_LOG is never chosen, and refused."""
    assert choose_strategy(old(session), 1) != "wal_log"
    with pytest.raises(ConfigurationError) as caught:
        check_strategy(old(session), "wal_log")
    assert caught.value.message == (
        "The strategy wal_log can corrupt the database that it copies on PostgreSQL 15.2."
    )
    assert caught.value.hint == "Use file_copy, or upgrade to 15.3 or later."


@pytest.mark.pg("< 18")
def test_server_that_cannot_clone(session: Session) -> None:
    """Before 18 the strategy clone is refused."""
    with pytest.raises(ConfigurationError) as caught:
        check_strategy(session, "clone")
    assert caught.value.message == (
        f"PostgreSQL {session.server_release} has no strategy clone on this platform."
    )
    assert caught.value.hint == "Use file_copy, or upgrade to 18 or later."


@pytest.mark.pg(">= 18")
def test_all_strategies_of_18(session: Session) -> None:
    """On 18 each strategy may be asked for."""
    for strategy in STRATEGIES:
        check_strategy(session, strategy)


def test_strategies_of_every_server(session: Session) -> None:
    """Logging and plain copying are there on every server."""
    check_strategy(session, "wal_log")
    check_strategy(session, "file_copy")


@pytest.mark.parametrize(
    ("name", "strategy"),
    [*zip(STRATEGIES, STRATEGIES, strict=True), ("", "file_copy"), ("teleport", "file_copy")],
)
def test_strategy_named(name: str, strategy: Strategy) -> None:
    """What a comment says is a strategy, or plain copying."""
    assert parse_strategy(name) == strategy


@pytest.mark.parametrize(
    ("code", "refuses"),
    [("XX000", True), ("58030", True), ("53100", False), ("55006", False), ("57014", False)],
)
def test_refuses_to_clone(code: str, refuses: bool, session: Session) -> None:
    """What the server has no code for, or calls an I/O error, may be the file system's refusal."""
    raising = pg.SQL("DO {}").format(pg.Literal(f"BEGIN RAISE SQLSTATE '{code}'; END"))
    with pytest.raises(psycopg.Error) as caught:
        session.execute(raising)

    assert is_refusal_to_share_blocks(caught.value) is refuses
    assert not is_refusal_to_share_blocks(None)


@pytest.mark.parametrize(
    ("strategy", "size_bytes", "seconds", "shares"),
    [
        ("clone", 10 * 1024 * MIB, 0.2, True),
        ("clone", 1024 * MIB, 0.8, False),
        ("file_copy", 10 * 1024 * MIB, 0.2, False),
        ("clone", 10 * 1024 * MIB, 0.0, True),
        ("", 0, 0.0, False),
    ],
)
def test_shares_blocks(strategy: str, size_bytes: int, seconds: float, shares: bool) -> None:
    """A file system that shares blocks is told by a rate that no copying reaches."""
    assert shares_blocks(strategy, size_bytes, seconds) is shares


def test_drop(session: Session, make_database: MakeDatabase, databases: ListDatabases) -> None:
    """A database of ours is dropped, however odd its name; one that is gone is no error."""
    make_database(ODD)

    session.execute(drop_database(ODD))
    session.execute(drop_database(ODD))

    assert databases() == []


def test_drop_of_what_was_half_dropped(
    session: Session, session_as: SessionAs, make_database: MakeDatabase, databases: ListDatabases
) -> None:
    """What an interrupted DROP left can be dropped, too."""
    make_database("copy")
    session.execute(pg.SQL("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'copy'"))

    session.execute(drop_database("copy"))

    assert databases() == []
