"""The place of a test database on the server, which one after the other takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from psycopg import sql

from .. import locks, names, stages
from ..session import Query, Session

_OID: Final = sql.SQL("SELECT oid FROM pg_database WHERE datname = %s")
_SET_UP: Final = sql.SQL(
    "SELECT datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A name, with what whoever has it is set up with.

    Attributes:
        name: The test database's name.
        connection_limit: How many clients it takes, -1 for any number.
        comment: Its comment, by which it is known as a test database of ours.
    """

    name: str
    connection_limit: int
    comment: str | None

    @classmethod
    def of(cls, session: Session, name: str) -> Self:
        """Return the place that a database has."""
        connection_limit, comment = session.rows(_SET_UP, [name])[0]
        return cls(name=name, connection_limit=connection_limit, comment=comment)

    def give_to(self, session: Session, incoming: str) -> str | None:
        """Let a shut clone take the place, whose lock the session holds.

        Returns:
            The name of the database that had it, which is shut now and whose lock the session
            holds; None if there was none.
        """
        outgoing = names.doomed_name(names.new_identity())
        statements: list[Query] = []
        is_there = bool(session.rows(_OID, [self.name]))
        if is_there:
            locks.try_acquire(session, outgoing)
            statements += [stages.rename(self.name, outgoing), stages.shut(outgoing, None)]
        statements.append(
            stages.become_live(
                incoming,
                self.name,
                connection_limit=self.connection_limit,
                is_template=False,
                user_comment=self.comment,
            )
        )
        session.execute(stages.together(statements))
        locks.release(session, incoming)
        return outgoing if is_there else None
