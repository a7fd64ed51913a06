"""Which server and database an alias leads to is what the server says, not how we came there."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import connections
from psycopg import sql as pg

from django_pgsnap.clones.transitions import rewrite_comment
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ConfigurationError, ServerUnavailableError
from django_pgsnap.postgres.targets import aliases_sharing_database, get_server
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, SetAlias
from tests.poolers import pgbouncer
from tests.project import close_connections, point
from tests.servers import SUPERUSER, Server
from tests.watching import oids, settle

TABLE = "CREATE TABLE testapp_author (id bigserial PRIMARY KEY, name text)"


def write(server: Server, database: str, name: str) -> None:
    with server.connect(database) as client:
        client.execute("INSERT INTO testapp_author (name) VALUES (%s)", [name])


def authors(server: Server, database: str) -> list[str]:
    with server.connect(database) as client:
        return [name for (name,) in client.execute("SELECT name FROM testapp_author ORDER BY id")]


def make(server: Server, name: str) -> None:
    with server.connect() as client:
        client.execute(pg.SQL("CREATE DATABASE {} TEMPLATE template0").format(pg.Identifier(name)))
    with server.connect(name) as client:
        client.execute(TABLE)


def lead(alias: str, server: Server, **values: object) -> None:
    place = {"HOST": "127.0.0.1", "PORT": server.port, "PASSWORD": server.password}
    point(alias, **{"USER": SUPERUSER, "NAME": "app", **place, **values})


@pytest.fixture
def two(clean_server: Server, two_servers: Server) -> tuple[Server, Server]:
    """Two servers, to which the two aliases lead; the databases have one name."""
    for alias, server in (("default", clean_server), ("other", two_servers)):
        make(server, "app")
        lead(alias, server)
    return clean_server, two_servers


def override(monkeypatch: pytest.MonkeyPatch, **maintenance: object) -> None:
    monkeypatch.setattr(django_settings, "PGSNAP", {"ENABLED": True, "MAINTENANCE": maintenance})


def test_overrides_that_lead_elsewhere(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overrides that lead all aliases to one server are refused for those of another."""
    first, second = two
    override(monkeypatch, host=str(first.root), port=str(first.port))
    before = [settle(server) for server in two]

    verbs: list[Callable[..., object]] = [take, list_snapshots]
    for databases, verb in itertools.product((None, ["other"]), verbs):
        with pytest.raises(ConfigurationError) as caught:
            verb(databases=databases)

        assert caught.value.message == (
            f"Django connects the alias 'other' to 127.0.0.1:{second.port} as postgres, but the "
            f"way in PGSNAP['MAINTENANCE'], to {first.root}:{first.port} as postgres, does not "
            "lead to the same database."
        )
        assert caught.value.hint == (
            "Give each alias its own: PGSNAP = {'MAINTENANCE': "
            "{'other': {'host': '…', 'port': '…'}}}."
        )
    assert [settle(server) for server in two] == before


def test_overrides_by_alias(two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alias may have overrides of its own."""
    first, second = two
    override(
        monkeypatch,
        default={"host": str(first.root), "password": ""},
        other={"host": str(second.root), "password": ""},
    )

    assert take("both").aliases == ("default", "other")
    for server in two:
        write(server, "app", "Ursula")
    restore("both")

    assert [authors(server, "app") for server in two] == [[], []]


def test_services(
    two: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aliases that name services are on the servers of these services."""
    lines = []
    for name, server in zip(("one", "two"), two, strict=True):
        lines += [f"[{name}]", f"host={server.root}", f"port={server.port}", f"user={SUPERUSER}"]
    file = tmp_path / "services"
    file.write_text("\n".join(lines))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    nothing = {"HOST": "", "PORT": "", "USER": "", "PASSWORD": ""}
    point("default", **nothing, OPTIONS={"service": "one"})
    point("other", **nothing, OPTIONS={"service": "two"})

    assert take("both").aliases == ("default", "other")
    write(two[1], "app", "Ursula")
    restore("both")

    assert authors(two[1], "app") == []
    assert list_snapshots()[0].is_complete


def test_several_addresses_of_one_server(live: str, set_alias: SetAlias, server: Server) -> None:
    """Where two addresses lead to one database it counts once, and nobody blocks himself."""
    set_alias("other", HOST=str(server.root), NAME=live)

    assert take("seeded").aliases == ("default",)
    settle(server)
    (found,) = list_snapshots()
    assert len(found.members) == 1
    assert found.is_complete
    assert diagnose(fix=True).findings == diagnose().findings
    restore("seeded")
    undo()


def test_several_addresses_of_a_server_that_was_restarted(two: tuple[Server, Server]) -> None:
    """They still lead to one server as soon as one of them was met again."""
    _, second = two
    lead("default", second)
    lead("other", second, HOST=str(second.root))
    list_snapshots()
    close_connections()
    second.restart()

    get_server(connections["default"]).session("looking").close()

    assert aliases_sharing_database(["default"]) == ["default", "other"]


def test_several_addresses_past_a_pooler(
    live: str, set_alias: SetAlias, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it does where overrides lead both aliases another way."""
    override(monkeypatch, host=str(server.root))
    set_alias("other", HOST="localhost", NAME=live)

    assert take("seeded").aliases == ("default",)
    restore("seeded")


def test_databases_by_several_addresses(lives: dict[str, str], server: Server) -> None:
    """Two databases of one server make one snapshot, by whatever addresses they are reached."""
    point("other", HOST=str(server.root))

    assert take("seeded").aliases == ("default", "other")
    write(server, lives["other"], "Ursula")
    restore("seeded")

    assert authors(server, lives["other"]) == []


def test_pooler_is_refused(
    live: str, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A pooler is named with its remedy, and nothing is left in its sessions."""
    with pgbouncer(server, server.root) as port:
        point("default", PORT=port, PASSWORD="")
        for verb in (take, list_snapshots, restore):
            with pytest.raises(ServerUnavailableError) as caught:
                verb()
            assert caught.value.message == (
                f"Between us and the server at 127.0.0.1:{port} as postgres is a connection "
                "pooler such as PgBouncer, which may give each statement another session."
            )
            assert caught.value.hint == (
                "Lead maintenance sessions past it, to the server itself: "
                "PGSNAP = {'MAINTENANCE': {'host': '…', 'port': '…'}}."
            )
        with server.connect() as client:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert client.execute(query).fetchone() == (0,)
        close_connections()


def test_past_a_pooler(live: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With overrides that lead past the pooler, the database behind it is restored."""
    override(monkeypatch, host=str(server.root), port=str(server.port))
    with pgbouncer(server, server.root) as port:
        point("default", PORT=port, PASSWORD="")

        take("seeded")
        write(server, live, "Ursula")
        restore("seeded")

        assert authors(server, live) == []
        close_connections()


def test_copied_data_directory(two: tuple[Server, Server]) -> None:
    """A copy of a server shows the same snapshot again; each is restored where it is."""
    _, second = two
    record = take("seeded", databases=["default"], spare=False).members[0].record
    with second.connect() as client:
        client.execute(
            pg.SQL("CREATE DATABASE {} TEMPLATE app ALLOW_CONNECTIONS false").format(
                pg.Identifier(record.database)
            )
        )
        client.execute(rewrite_comment(record))
    for server in two:
        write(server, "app", "Ursula")

    assert [each.aliases for each in list_snapshots()] == [("default",), ("other",)]
    restore("seeded", databases=["default"])
    assert [authors(server, "app") for server in two] == [[], ["Ursula"]]
    restore("seeded", databases=["other"])
    assert [authors(server, "app") for server in two] == [[], []]


@pytest.fixture(scope="module")
def standby(server: Server) -> Iterator[Server]:
    """A server that is in recovery, and stays so."""
    standby = Server(server.bin_dir)
    try:
        standby.start()
        make(standby, "app")
        standby.stop()
        (standby.data_dir / "standby.signal").touch()
        standby.give_away_all()
        standby.start()
        yield standby
    finally:
        standby.remove()


def test_standby_is_left_out(
    standby: Server, make_live: MakeLive, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby among the aliases is left out with a word; whoever names it is told why."""
    make_live()
    lead("other", standby)

    assert take("seeded").aliases == ("default",)
    assert (
        "The alias 'other' leads to a standby, which is read-only; it is left out." in caplog.text
    )
    restore("seeded")
    with pytest.raises(ConfigurationError) as caught:
        take("more", databases=["other"])

    assert caught.value.message == "The alias 'other' leads to a standby, which is read-only."


@pytest.mark.usefixtures("clean_server")
def test_only_a_standby(standby: Server) -> None:
    """A project that has nothing but a standby is told so."""
    del django_settings.DATABASES["other"]
    lead("default", standby)

    with pytest.raises(ConfigurationError, match="leads to a standby"):
        take()


def test_maintenance_database_is_made_by_take_only(docker: Server) -> None:
    """Where postgres is live, only what changes it makes a database to work from."""
    del django_settings.DATABASES["other"]
    assert list_snapshots() == ()
    diagnose()
    assert "pgsnap" not in oids(settle(docker))

    take("seeded")

    assert "pgsnap" in oids(settle(docker))
    assert len(list_snapshots()) == 1
