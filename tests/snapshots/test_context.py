"""What every operation begins with: its sessions."""

import pytest

from django_pgsnap.errors import ServerUnavailableError
from django_pgsnap.snapshots.take import take
from tests.conftest import MakeLive, MakeRole, RunSql
from tests.servers import Server
from tests.watching import settle


def test_no_session_stays_where_another_is_refused(
    make_live: MakeLive, role: MakeRole, sql: RunSql, server: Server
) -> None:
    """Where the server lets in only some of an operation's sessions, those are closed again."""
    user = role()
    lives = [make_live(alias, user=user) for alias in ("default", "other")]
    sql("ALTER ROLE ordinary CONNECTION LIMIT 2")

    with pytest.raises(ServerUnavailableError, match='too many connections for role "ordinary"'):
        take("seeded")

    assert [database.name for database in settle(server)] == lives
