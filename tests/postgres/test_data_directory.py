"""How far a copy is, seen by the files that appear in the server's data directory."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from psycopg import sql as pg

from django_pgsnap.postgres.data_directory import list_unfinished, measure_growth, read_free_bytes
from django_pgsnap.postgres.session import Session
from tests.conftest import MakeDatabase, MakeRole, RunSql, SessionAs
from tests.servers import Server

# No database will have this oid; it is that of one under construction.
OID = "4000000000"


def grow(directory: Path, name: str, size_bytes: int) -> None:
    """Write what the server would write if it made a database."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(b"x" * size_bytes)


def remove(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


@pytest.fixture
def tablespace(clean_server: Server, sql: RunSql) -> Iterator[Path]:
    """The directory of a tablespace in which the server keeps databases."""
    location = clean_server.root / "space"
    location.mkdir()
    clean_server._give_away(location)
    sql(pg.SQL("CREATE TABLESPACE space LOCATION {}").format(pg.Literal(str(location))))
    (directory,) = location.iterdir()
    yield directory
    sql("DROP TABLESPACE IF EXISTS space")
    location.rmdir()


def test_grows(session: Session, clean_server: Server) -> None:
    """The files of a new directory are summed up; what was there before does not count."""
    base = clean_server.data_dir / "base"
    grow(base / "4000000001", "1", 7000)
    before = list_unfinished(session)
    seen = [measure_growth(session, before)]

    grow(base / OID, "1", 1000)
    seen.append(measure_growth(session, before))
    grow(base / OID, "2", 500)
    grow(base / "4000000001", "2", 7000)
    seen.append(measure_growth(session, before))

    remove(base / OID)
    remove(base / "4000000001")
    assert seen == [0, 1000, 1500]


def test_other_directories_do_not_count(session: Session, clean_server: Server) -> None:
    """Files of queries under way, and of databases that are there, are no growth."""
    before = list_unfinished(session)
    base = clean_server.data_dir / "base"

    grow(base / "pgsql_tmp_test", "1", 1000)

    assert measure_growth(session, before) == 0
    remove(base / "pgsql_tmp_test")


def test_complete_copy_does_not_count(session: Session, make_database: MakeDatabase) -> None:
    """A database that is complete has a row, so its files are not under construction."""
    before = list_unfinished(session)

    make_database("copy")

    assert measure_growth(session, before) == 0


def test_tablespace(session: Session, sql: RunSql, tablespace: Path) -> None:
    """Databases in another tablespace are seen, too, and a tablespace may go away."""
    before = list_unfinished(session)
    grow(tablespace / OID, "1", 1000)
    grown = measure_growth(session, before)
    remove(tablespace / OID)

    sql("DROP TABLESPACE space")

    assert grown == 1000
    assert measure_growth(session, before) == 0


def test_tablespace_that_is_not_there(session: Session, tablespace: Path) -> None:
    """A tablespace whose disk is missing is no reason not to copy other databases."""
    location = tablespace.parent
    elsewhere = location.rename(location.with_name("elsewhere"))

    before = list_unfinished(session)

    elsewhere.rename(location)
    assert measure_growth(session, before) == 0


def test_may_not_look(role: MakeRole, session_as: SessionAs) -> None:
    """For a role that may not look nothing is known, rather than nothing done."""
    ordinary = session_as(role())

    assert list_unfinished(ordinary) is None
    assert measure_growth(ordinary, None) is None


def test_may_look(role: MakeRole, session_as: SessionAs, sql: RunSql) -> None:
    """A role that was let look need not be a superuser."""
    role()
    functions = "pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean)"
    sql(f"GRANT EXECUTE ON FUNCTION {functions} TO ordinary")

    ordinary = session_as("ordinary")

    assert measure_growth(ordinary, list_unfinished(ordinary)) == 0


def test_free_space_on_this_machine(session: Session) -> None:
    """A superuser on the server's own machine sees what is free on its disk."""
    free = read_free_bytes(session)

    assert free is not None
    assert free > 0


def test_free_space_of_a_tablespace(
    session: Session, tablespace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fullest disk counts: a copy lies where its source does."""
    free = {str(tablespace.parent): SimpleNamespace(free=1)}
    disks = "django_pgsnap.postgres.data_directory.shutil.disk_usage"
    monkeypatch.setattr(disks, lambda path: free.get(path, SimpleNamespace(free=2)))

    assert read_free_bytes(session) == 1


def test_free_space_that_may_not_be_known(role: MakeRole, session_as: SessionAs) -> None:
    """Who may not know where the data directory is sees nothing."""
    assert read_free_bytes(session_as(role())) is None


def test_free_space_elsewhere(session: Session) -> None:
    """The disk of another machine is not this one's."""
    session.address = "192.0.2.1"

    assert read_free_bytes(session) is None
