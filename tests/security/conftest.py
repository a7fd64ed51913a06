"""The attacker, a colleague with the rights that every project's role has, and the attacked."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from django.conf import settings as django_settings
from psycopg import sql as pg

from tests.conftest import MakeRole, RunSql
from tests.servers import Server

MALLORY = "mallory"

SHUT = "ALLOW_CONNECTIONS false CONNECTION LIMIT 0"
OPEN = ""

# Before this version CREATEROLE is a way to every role that is no superuser.
CREATEROLE_IS_LIMITED = 16


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """A colleague whose role has what the README asks for, and CREATEROLE where that is not all.

    Attributes:
        sql: Runs SQL.
        session: Hers, from which she makes databases.
        owners: Roles that can own her databases: her own, one that she made the victim a member
            of, and one of whose members an administrator has made both.
    """

    sql: RunSql
    session: psycopg.Connection
    owners: tuple[str, ...] = ("bait", MALLORY, "team")

    def forge(
        self, name: str, *, owner: str = "", options: str = SHUT, comment: str | None = None
    ) -> str:
        """Make a database, usually shut and of a role that the victim is a member of."""
        make = "CREATE DATABASE {} TEMPLATE template0 STRATEGY FILE_COPY OWNER {} " + options
        owned = pg.Identifier(owner or self.owners[0])
        self.session.execute(pg.SQL(make).format(pg.Identifier(name), owned))
        if comment is not None:
            said = pg.SQL("COMMENT ON DATABASE {} IS {}")
            self.session.execute(said.format(pg.Identifier(name), pg.Literal(comment)))
        return name


@pytest.fixture(params=["superuser", "ordinary"])
def victim_live(request: pytest.FixtureRequest) -> str:
    """The name of a live database, in a project that connects as superuser, or as its owner."""
    return str(request.getfixturevalue("live" if request.param == "superuser" else "live_owned"))


@pytest.fixture
def attacker(victim_live: str, sql: RunSql, role: MakeRole, server: Server) -> Iterator[Attacker]:
    """The attacker of a project that connects as superuser, or as its live database's owner.

    She works as far as she comes towards the role as which the project connects.
    """
    role(MALLORY, options="CREATEDB" + " CREATEROLE" * (major(server) >= CREATEROLE_IS_LIMITED))
    them = {"victim": pg.Identifier(victim())}
    sql("CREATE ROLE team")
    sql(pg.SQL("GRANT team TO mallory, {victim}").format(**them))
    with server.connect(user=MALLORY) as session:
        if major(server) < CREATEROLE_IS_LIMITED:
            # As the administrator of a group she decides who is a member.
            sql("CREATE ROLE bait")
            sql("GRANT bait TO mallory WITH ADMIN OPTION")
        else:
            session.execute("CREATE ROLE bait")
            session.execute("GRANT bait TO mallory WITH SET TRUE")
        session.execute(pg.SQL("GRANT bait TO {victim}").format(**them))
        yield Attacker(sql=sql, session=session)


def victim() -> str:
    """Return the role as which the project connects."""
    return str(django_settings.DATABASES["default"]["USER"])


def major(server: Server) -> int:
    """Return the server's major version."""
    return int(server.version.partition(".")[0])
