"""Shared catalogs have no encoding: what others wrote there in theirs is in nobody's way."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import ServerError
from django_pgsnap.snapshots.manage import delete
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import Call, RunSql
from tests.servers import Server
from tests.watching import authors, settle, write

LATIN1 = "TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"


@pytest.fixture
def _latin1(live: str, server: Server, sql: RunSql) -> Iterator[None]:
    """Databases of others with names, comments, roles and settings that are no UTF-8."""
    sql(f"CREATE DATABASE latin1 {LATIN1}")
    with server.connect("latin1", client_encoding="LATIN1") as client:
        client.execute('CREATE ROLE "rôle" LOGIN CREATEDB')
        client.execute(f'CREATE DATABASE "dé" OWNER "rôle" {LATIN1}')
        client.execute("COMMENT ON DATABASE latin1 IS 'é'")
        client.execute("ALTER DATABASE latin1 SET app.name = 'é'")
        client.execute(f"COMMENT ON DATABASE {live} IS 'é'")
        client.execute(f"ALTER DATABASE {live} SET app.name = 'é'")
        client.execute(f'GRANT CONNECT ON DATABASE {live} TO "rôle"')
    yield
    with server.connect("latin1", client_encoding="LATIN1") as client:
        client.execute('DROP DATABASE "dé"')
        client.execute('DROP OWNED BY "rôle"')
        client.execute('DROP ROLE "rôle"')
    sql(f"COMMENT ON DATABASE {live} IS NULL; COMMENT ON DATABASE latin1 IS NULL")


@pytest.mark.usefixtures("_latin1")
def test_every_verb(live: str, server: Server, call: Call) -> None:
    """Every verb works beside databases of another encoding, and with what they wrote on ours."""
    write("Ursula")

    take("seeded")
    write("Stanisław")
    restore("seeded")
    assert authors() == ["Ursula"]
    undo()
    assert authors() == ["Stanisław", "Ursula"]
    assert [each.name for each in list_snapshots()] == ["seeded"]
    diagnose(fix=True)
    for words in (["list", "--all"], ["show", "seeded"], ["doctor"], ["status"]):
        call("pgsnap", *words)
    delete("seeded")


def test_note_that_the_server_cannot_hold(
    live: str, server: Server, sql: RunSql, settings: Settings
) -> None:
    """What a LATIN1 server cannot hold is named with the remedy, and leaves nothing behind."""
    sql(f"CREATE DATABASE latin1 {LATIN1}")
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"dbname": "latin1"}}
    before = settle(server)

    with pytest.raises(ServerError) as caught:
        take("seeded", note="\N{SNOWMAN}")

    assert caught.value.message.startswith(
        "The encoding of the maintenance database cannot hold it: character with byte sequence"
    )
    assert caught.value.hint == (
        "Leave such characters out of the note, or name a database in UTF8 in "
        "PGSNAP['MAINTENANCE'], as {'dbname': '…'}."
    )
    assert settle(server) == before
    assert take("seeded", note="é", spare=False).note == "é"
    assert list_snapshots()[0].note == "é"
    delete("seeded")
