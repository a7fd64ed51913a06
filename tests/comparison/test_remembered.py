"""Large tables are compared range by range, and what is known of a copy is not read again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql as pg

from django_pgsnap.comparison import sides, versions
from django_pgsnap.comparison.diff import diff
from django_pgsnap.postgres.session import Session
from django_pgsnap.reporting import Reporter
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.types import Snapshot
from tests.conftest import RunSql
from tests.servers import Server

ROWS = 4_000


@pytest.fixture
def snapshot(live: str, sql: RunSql) -> Snapshot:
    """A snapshot of a table that has more blocks than a range."""
    sql(
        "CREATE TABLE large (id int PRIMARY KEY, n int, t text);"
        "INSERT INTO large SELECT i, 0, repeat('x', 300) FROM generate_series(1, 4000) i",
        dbname=live,
    )
    return take("seeded", spare=False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tells the databases in which all ranges of the table were read."""
    names: list[str] = []
    real = versions._range_sums

    def noting(side: sides.Side, *what: Any) -> versions.Sums:
        if what[-1] == versions._RANGE_BLOCKS:
            names.append(side.session.value(pg.SQL("SELECT current_database()::text")))
        return real(side, *what)

    monkeypatch.setattr(versions, "_range_sums", noting)
    return names


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what is known of copies is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def counts() -> tuple[int, int, int, str]:
    """Return what was added, removed and changed in the one table that differs, and how."""
    (table,) = diff("seeded").tables
    return table.added, table.removed, table.changed, table.method


@pytest.mark.parametrize("half", [0, 2**31], ids=["late ids", "early ids"])
def test_ranges(
    live: str, snapshot: Snapshot, sql: RunSql, monkeypatch: pytest.MonkeyPatch, half: int
) -> None:
    """Whatever changes anywhere in a large table is told, each time anew."""
    monkeypatch.setattr(versions, "_HALF", half)
    assert diff("seeded").is_empty

    sql("UPDATE large SET n = 1 WHERE id % 700 = 0", dbname=live)
    assert counts() == (0, 0, ROWS // 700, "row versions")

    sql("DELETE FROM large WHERE id % 200 = 1", dbname=live)
    sql("VACUUM large", dbname=live)
    assert counts() == (0, 20, ROWS // 700, "row versions")

    sql("INSERT INTO large SELECT -i FROM generate_series(1, 3000) i", dbname=live)
    assert counts() == (3000, 20, ROWS // 700, "row versions")

    sql("UPDATE large SET n = 2", dbname=live)
    assert counts() == (3000, 20, ROWS - 20, "row versions")


def test_table_that_shrinks_and_grows(live: str, snapshot: Snapshot, sql: RunSql) -> None:
    """What is known of a copy stays known while the live table has fewer blocks."""
    assert diff("seeded").is_empty
    sql("DELETE FROM large WHERE id > 2000", dbname=live)
    sql("VACUUM large", dbname=live)
    assert counts() == (0, ROWS - 2000, 0, "row versions")

    sql(
        "INSERT INTO large SELECT i, 0, repeat('x', 300) FROM generate_series(3001, 4000) i",
        dbname=live,
    )

    assert counts() == (0, 1000, 0, "row versions")


def test_progress(live: str, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table is compared a part at a time, and it is told how far that is."""
    monkeypatch.setattr(versions, "_RANGES_PER_STEP", 8)
    heard: list[tuple[int, int]] = []

    class Listener(Reporter):
        def copied(self, done_bytes: int | None, total_bytes: int) -> None:
            assert done_bytes is not None
            heard.append((done_bytes, total_bytes))

    for _ in range(2):
        heard.clear()
        diff("seeded", models=["large"], reporter=Listener())

        done, (total, *others) = [each for each, _ in heard], {total for _, total in heard}
        assert others == []
        assert done == sorted(done)
        assert done[-1] == total
        assert len(done) > 2


def test_copy_is_read_once(live: str, snapshot: Snapshot, sql: RunSql, reads: list[str]) -> None:
    """The second diff reads the live database alone, by two sessions."""
    copy = snapshot.members[0].database.name
    assert diff("seeded").is_empty
    assert sorted(reads) == sorted([copy, live])
    reads.clear()
    sql("UPDATE large SET n = 1 WHERE id = 700", dbname=live)

    assert counts() == (0, 0, 1, "row versions")
    assert reads == [live, live]


def write_to_copy(server: Server, copy: str, *, shut: bool) -> None:
    """Write to a copy, which nobody should, and shut it again."""
    name = pg.Identifier(copy)
    opened = pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {} CONNECTION LIMIT {}")
    with server.connect() as maintenance:
        maintenance.execute(opened.format(name, pg.SQL("true"), pg.SQL("-1")))
        with server.connect(copy) as connection:
            connection.execute("UPDATE large SET n = 5 WHERE id = 9")
        if shut:
            maintenance.execute(opened.format(name, pg.SQL("false"), pg.SQL("0")))


@pytest.mark.parametrize("shut", [True, False])
def test_copy_that_was_written(
    live: str, snapshot: Snapshot, server: Server, reads: list[str], *, shut: bool
) -> None:
    """Who opens a copy and writes to it has it read again."""
    assert diff("seeded").is_empty
    reads.clear()

    write_to_copy(server, snapshot.members[0].database.name, shut=shut)

    assert counts() == (0, 0, 1, "row versions")
    assert snapshot.members[0].database.name in reads


def test_copy_that_is_written_while_it_is_open(
    live: str, snapshot: Snapshot, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes and goes while a diff has the copy open has it read again."""
    copy = snapshot.members[0].database.name
    assert diff("seeded").is_empty
    real: Callable[..., None] = sides._open

    def open_for_others(maintenance: Session, database: str) -> None:
        real(maintenance, database)
        with server.connect(copy) as connection:
            connection.execute("UPDATE large SET n = 5 WHERE id = 9")

    monkeypatch.setattr(sides, "_open", open_for_others)

    assert counts() == (0, 0, 1, "row versions")
    monkeypatch.setattr(sides, "_open", real)
    assert counts() == (0, 0, 1, "row versions")


def test_damaged_file(live: str, snapshot: Snapshot, sql: RunSql, caches: Path) -> None:
    """A file that says nothing is written anew."""
    assert diff("seeded").is_empty
    (file,) = caches.glob("django-pgsnap/sums-*")
    sql("UPDATE large SET n = 1 WHERE id = 700", dbname=live)

    for content in ("", "[]", '{"state": 1}', "{"):
        file.write_text(content)

        assert counts() == (0, 0, 1, "row versions")
        assert file.stat().st_size > 100
