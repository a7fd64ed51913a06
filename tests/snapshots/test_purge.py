"""Purging: everything that is ours goes, and nothing else does."""

from collections import Counter

import pytest
from django.core.management import CommandError

from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.purge import list_managed_databases, purge
from django_pgsnap.snapshots.queries import list_snapshots, overview
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from django_pgsnap.testing.databases import templates
from django_pgsnap.testing.databases.recording import seal
from tests.conftest import Call, ListDatabases, MakeDatabase, MakeLive, MakeRole, RunSql
from tests.project import Manage, point
from tests.servers import Server
from tests.suites.wanted import FACTS, wanted
from tests.terminal import on_terminal
from tests.watching import settle, write


@pytest.fixture
def full(live: str, session: Session, server: Server) -> str:
    """The name of a live database of which there is one of each: copy, spare, undo, template."""
    take("seeded")
    write("Ursula")
    restore("seeded")
    templates.publish_template(session, live, wanted(source=live), seal(FACTS))
    session.close()
    settle(server)
    return live


def names_of(databases: ListDatabases) -> list[str]:
    return [database.name for database in databases()]


def test_everything_goes_but_the_live_database(full: str, databases: ListDatabases) -> None:
    """Snapshots, spares, undos and templates are listed by kind, and dropped."""
    listed = list_managed_databases()

    gone = purge()

    assert Counter(each.kind for each in listed) == Counter(["copy", "spare", "undo", "template"])
    assert all(each.size_bytes > 3_000_000 for each in listed)
    assert sorted(each.name for each in gone) == sorted(each.name for each in listed)
    assert names_of(databases) == [full]


def test_kinds_go_by_themselves(full: str, call: Call) -> None:
    """Replaced states go by undo --drop, templates by prune --templates; snapshots stay."""
    (template,) = overview().beside
    assert (template.kind, template.size_bytes > 3_000_000) == ("template", True)
    assert "Test templates: 1, " in call("pgsnap", "list").stdout

    would = call("pgsnap", "prune", "--templates", "--dry-run").stdout
    dropped = [
        call("pgsnap", *words).stdout for words in (["undo", "--drop"], ["prune", "--templates"])
    ]

    assert would.startswith("Would drop 1 database: ")
    assert [each.startswith("Dropped 1 database: ") for each in dropped] == [True, True]
    left = overview()
    assert ([each.name for each in left.snapshots], left.undos, left.beside) == (
        ["seeded"],
        (),
        (),
    )


def test_what_is_not_ours_stays(
    live: str, make_database: MakeDatabase, databases: ListDatabases, sql: RunSql, role: MakeRole
) -> None:
    """Another role's database under a name of ours stays, and so does one that only looks so."""
    copy = take("seeded", spare=False).members[0].database.name
    make_database("pgsnap_backup")
    sql(f'ALTER DATABASE "{copy}" OWNER TO "{role("mallory")}"')

    assert purge(everyone=True) == []

    assert sorted(names_of(databases)) == sorted([live, copy, "pgsnap_backup"])


def test_clone_that_the_settings_name_stays(live: str, databases: ListDatabases) -> None:
    """A clone of `pgsnap run` that was kept, and is worked on as a live database, is none to drop.

    Not even where other projects' databases are to go, which the one it is a clone of is now.
    """
    take("seeded", spare=False)
    with open_throwaway("seeded", keep=True) as clones:
        pass
    point("default", NAME=clones["default"])

    assert [each.kind for each in purge(everyone=True)] == ["copy"]

    assert names_of(databases) == [live, clones["default"]]


def test_other_projects_on_demand(make_live: MakeLive, databases: ListDatabases) -> None:
    """Other projects' snapshots go only if one says so, and not while an operation is at work."""
    other = make_live(name="other_project")
    take("theirs", databases=["default"], spare=False)
    ours = make_live(name="our_project")
    take("ours", databases=["default"], spare=False)
    point("other", NAME=ours)

    first = purge()
    second = purge(everyone=True)

    assert [each.about for each in first] == ["ours"]
    assert [each.about for each in second] == ["theirs"]
    assert sorted(names_of(databases)) == sorted([other, ours])


def test_command_asks(full: str, manage: Manage, call: Call, databases: ListDatabases) -> None:
    """On a terminal purge shows what would go and asks; elsewhere it wants a yes beforehand."""
    with pytest.raises(CommandError) as caught:
        call("pgsnap", "purge")
    with on_terminal(manage, "pgsnap", "purge") as terminal:
        terminal.expect("Drop them for good? [y/N] ")
        terminal.type("n\n")
        assert terminal.end() == 0
    assert len(names_of(databases)) == 5

    said = call("pgsnap", "purge", "-y").stdout

    assert str(caught.value) == "This drops all snapshots. Give -y to say yes."
    assert "  copy of seeded  " in terminal.text
    assert terminal.lines[-1] == "Nothing dropped."
    assert said.startswith("Dropped 4 databases: ")
    assert names_of(databases) == [full]


def test_what_came_while_the_command_asked_stays(full: str, manage: Manage) -> None:
    """Only what was shown goes; a colleague may have taken a snapshot meanwhile."""
    with on_terminal(manage, "pgsnap", "purge") as terminal:
        terminal.expect("Drop them for good? [y/N] ")
        take("later", spare=False)
        terminal.type("y\n")
        assert terminal.end() == 0

    assert [each.name for each in list_snapshots()] == ["later"]


@pytest.mark.usefixtures("live_pair")
def test_parts_outside_go_though_they_were_not_shown(two_servers: Server) -> None:
    """A set goes as a whole, on a server too of which nothing of it was shown."""
    copies = "SELECT count(*) FROM pg_database WHERE datname ~ '^pgsnap_[0-9a-f]'"
    with two_servers.connect() as connection:
        take("both", spare=False)
        connection.execute("CREATE DATABASE third")
        point("other", NAME="third")
        assert connection.execute(copies).fetchone() == (1,)

        purge(shown={each.name for each in list_managed_databases()})

        assert connection.execute(copies).fetchone() == (0,)


def test_maintenance_database_goes_too(
    make_live: MakeLive, sql: RunSql, databases: ListDatabases, server: Server
) -> None:
    """Where the live database is called postgres, what we worked from is dropped at the end."""
    make_live()
    point("default", NAME="postgres")
    point("other", NAME="postgres")
    take("seeded", databases=["default"], spare=False)
    assert "pgsnap" in names_of(databases)

    purge()

    assert "pgsnap" not in names_of(databases)
