"""The database that new ones are cloned from: whether anybody has written into it since.

What is in it is in every template. A look inside would keep others from cloning it meanwhile, so
the server's counters have to tell (manual, pg_stat_database): how many sessions it has had, and
how many rows were written in it, catalogs included. One alone would tell too much. Who only reads
has a session, and autovacuum, which notes statistics of shared catalogs in any database, writes
without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from psycopg import sql

from .. import written
from ..metadata import Record
from ..session import Session

_COUNTERS: Final = sql.SQL(
    "SELECT pg_stat_get_db_sessions(oid), {} FROM pg_database WHERE datname = %s"
).format(written.rows(sql.Identifier("oid")))


def cloned_from(template_database: str | None) -> str:
    """Return the name of that database, given the name in ``TEST["TEMPLATE"]``, if there is one."""
    return template_database or "template1"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the server has counted of that database.

    Attributes:
        sessions: How many sessions it has had.
        written: How many rows were ever written in it.
    """

    sessions: int = 0
    written: int = 0

    @classmethod
    def of(cls, session: Session, template_database: str | None) -> Self:
        """Return what is counted now.

        Args:
            session: A maintenance session.
            template_database: The name in ``TEST["TEMPLATE"]``, if there is one.
        """
        for sessions, rows in session.rows(_COUNTERS, [cloned_from(template_database)]):
            return cls(sessions=sessions, written=rows)
        return cls()

    @classmethod
    def of_template(cls, template: Record) -> Self:
        """Return what was counted before a template, or the first of its ancestors, was made."""
        return cls(sessions=template.ground_sessions, written=template.ground_written)

    def is_still_that_of(self, template: Record) -> bool:
        """Tell whether no client has written into it since a template was made.

        Nobody is on a database while it is cloned. Who wrote later came later, too.
        """
        then = self.of_template(template)
        return self.sessions == then.sessions or self.written == then.written
