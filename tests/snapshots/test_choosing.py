"""Which snapshot a name means, and why there may be none."""

from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Self

import pytest
from psycopg import sql as pg

from django_pgsnap.errors import ObstacleError, SnapshotNotFoundError
from django_pgsnap.snapshots.queries import choose_snapshot
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.servers import SUPERUSER, Server
from tests.watching import authors, settle, write


@pytest.mark.parametrize("name", ["seeded", None])
def test_copy_of_an_owner_that_was(
    name: str | None, live: str, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """When the live database changes hands its copies do not count; how to adopt them is said."""
    copy = take("seeded").members[0].database.name
    settle(server)
    write("Ursula")
    role("new owner")
    sql(pg.SQL('ALTER DATABASE {} OWNER TO "new owner"').format(pg.Identifier(copy)))

    with pytest.raises(SnapshotNotFoundError) as caught:
        restore(name)

    assert caught.value.message == (
        f"There is no snapshot 'seeded' of {live!r} that counts: the database {copy!r} says it is "
        f"one, but belongs to the role 'new owner', while the live database belongs to "
        f"{SUPERUSER!r}."
    )
    assert caught.value.hint == (
        f'If you know it to be yours, run: ALTER DATABASE "{copy}" OWNER TO "{SUPERUSER}";'
    )
    sql(caught.value.hint.partition("run: ")[2])
    restore(name)
    assert "Ursula" not in authors()


def test_one_name_and_several_owners(live: str) -> None:
    """Where two roles that count have a snapshot of one name, none of these is meant."""
    snapshot = take("seeded", spare=False)
    (member,) = snapshot.members
    given = replace(member.database, name="given", owner="another")
    record = replace(member.record, source="elsewhere")
    undisputed = replace(member, database=replace(member.database, record=record))
    other = replace(snapshot, members=(replace(member, database=given), undisputed))

    with pytest.raises(ObstacleError) as caught:
        choose_snapshot([snapshot, other], "seeded")

    claims = f"{member.database.name!r} of {SUPERUSER!r}, 'given' of 'another'"
    assert caught.value.message == f"Several roles have a snapshot 'seeded': {claims}."
    assert choose_snapshot([snapshot, snapshot], "seeded") is snapshot


def test_newest_though_the_clock_was_turned_back(
    live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which snapshot is the newest the server's clock says, whatever the client's does."""

    class TurnedBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=365)

    take("first", spare=False)
    monkeypatch.setattr("django_pgsnap.snapshots.context.datetime", TurnedBack)
    take("second", spare=False)

    assert restore().name == "second"


def test_strangers_snapshot_of_another_name(
    live: str, role: MakeRole, sql: RunSql, make_live: MakeLive
) -> None:
    """What belongs to a stranger is not mentioned when something else was looked for."""
    copy = take("seeded", spare=False).members[0].database.name
    role("stranger")
    sql(pg.SQL("ALTER DATABASE {} OWNER TO stranger").format(pg.Identifier(copy)))

    with pytest.raises(SnapshotNotFoundError) as caught:
        restore("another")

    assert (
        str(caught.value) == "There is no snapshot 'another'.\nTake one: ./manage.py pgsnap take."
    )
