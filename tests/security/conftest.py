"""The attacker, a colleague with the rights that every project's role has, and the attacked."""

from dataclasses import dataclass
from typing import Self

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
        owners: Roles that can own her databases: her own, one that she made the victim a member
            of, and one of whose members an administrator has made both.
    """

    sql: RunSql
    owners: tuple[str, ...]

    @classmethod
    def of(cls, sql: RunSql, role: MakeRole, server: Server) -> Self:
        """Let her work as far as she comes towards the role as which the project connects."""
        role(MALLORY, options="CREATEDB" + " CREATEROLE" * (major(server) >= CREATEROLE_IS_LIMITED))
        them = {"victim": pg.Identifier(victim())}
        sql("CREATE ROLE team")
        sql(pg.SQL("GRANT team TO mallory, {victim}").format(**them))
        if major(server) < CREATEROLE_IS_LIMITED:
            # As the administrator of a group she decides who is a member.
            sql("CREATE ROLE bait")
            sql("GRANT bait TO mallory WITH ADMIN OPTION")
        else:
            sql("CREATE ROLE bait", user=MALLORY)
            sql("GRANT bait TO mallory WITH SET TRUE", user=MALLORY)
        sql(pg.SQL("GRANT bait TO {victim}").format(**them), user=MALLORY)
        return cls(sql=sql, owners=("bait", MALLORY, "team"))

    def forge(
        self, name: str, *, owner: str = "", options: str = SHUT, comment: str | None = None
    ) -> str:
        """Make a database, usually shut and of a role that the victim is a member of."""
        command = pg.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} " + options)
        owned = pg.Identifier(owner or self.owners[0])
        self.sql(command.format(pg.Identifier(name), owned), user=MALLORY)
        if comment is not None:
            said = pg.SQL("COMMENT ON DATABASE {} IS {}")
            self.sql(said.format(pg.Identifier(name), pg.Literal(comment)), user=MALLORY)
        return name


@pytest.fixture(params=["superuser", "ordinary"])
def victim_live(request: pytest.FixtureRequest) -> str:
    """The name of a live database, in a project that connects as superuser, or as its owner."""
    return str(request.getfixturevalue("live" if request.param == "superuser" else "live_owned"))


@pytest.fixture
def attacker(victim_live: str, sql: RunSql, role: MakeRole, server: Server) -> Attacker:
    """The attacker of a project that connects as superuser, or as its live database's owner."""
    return Attacker.of(sql, role, server)


def victim() -> str:
    """Return the role as which the project connects."""
    return str(django_settings.DATABASES["default"]["USER"])


def major(server: Server) -> int:
    """Return the server's major version."""
    return int(server.version.partition(".")[0])
