"""The swap: another database takes the live one's name, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from . import metadata, names, stages, written
from .catalog import Database
from .errors import ChangedMeanwhileError, MissingRightError
from .eviction import Evictor, Patience
from .metadata import Record
from .properties import Properties
from .session import Query, Session
from .supervise import run_together

_LOOK_S: Final = 0.005

# What the checks at the end of the message raise; "PG" is no class of the server's own codes.
_CHANGED: Final = "PG001"
_WRITTEN: Final = "PG002"
_SET_UP: Final = "PG003"


class WrittenMeanwhileError(Exception):
    """A live database that seemed unwritten was written just before the swap."""


class SetUpMeanwhileError(Exception):
    """Somebody changed a live database's properties after they were read."""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What is to happen to one live database.

    Attributes:
        live_name: Its name.
        live: The database that has the name now, None where there is none.
        incoming: The shut database that takes the name.
        properties: What the incoming one is opened with; the rest of them it has already.
        undo: What the outgoing one becomes; None to have it dropped later.
        doomed_identity: Identity under which it then waits to be dropped.
        retire: Older undos that are needed no longer.
        republish: Undos that such a retirement is taken back for.
        recomment: An older undo that is kept, and gets to know its new successor.
    """

    live_name: str
    live: Database | None
    incoming: Database
    properties: Properties
    undo: Record | None
    doomed_identity: str
    retire: Sequence[Record] = ()
    republish: Sequence[Record] = ()
    recomment: Record | None = None

    @property
    def outgoing_name(self) -> str:
        """What the database that is live now will be called."""
        return self.undo.database if self.undo else names.doomed_name(self.doomed_identity)

    @property
    def drops(self) -> list[str]:
        """Names of the databases that wait to be dropped afterwards."""
        doomed = [names.doomed_name(record.identity) for record in self.retire]
        return doomed if self.undo or not self.live else [*doomed, self.outgoing_name]

    def reversed(self) -> Swap | None:
        """Return the swap that takes this one back, None where there was no live database.

        What takes part in it must not have been dropped yet.
        """
        if self.live is None:
            return None
        return Swap(
            live_name=self.live_name,
            live=replace(self.incoming, name=self.live_name),
            incoming=replace(self.live, name=self.outgoing_name),
            properties=replace(self.properties, digest=None),
            undo=None,
            doomed_identity=names.new_identity(),
            republish=self.retire,
        )

    def statements(self) -> list[Query]:
        """Return the swap's statements; they mean something only together."""
        statements = [stages.retire(record) for record in self.retire]
        if self.live:
            comment = metadata.encode(self.undo) if self.undo else None
            statements += [
                stages.rename(self.live_name, self.outgoing_name),
                *self._check_of_properties(),
                stages.shut(self.outgoing_name, comment),
            ]
        statements.append(
            stages.become_live(
                self.incoming.name,
                self.live_name,
                connection_limit=self.properties.connection_limit,
                is_template=self.properties.is_template,
                user_comment=self.properties.comment,
            )
        )
        statements += [
            stages.publish(names.doomed_name(record.identity), record) for record in self.republish
        ]
        if self.recomment:
            statements.append(stages.recomment(self.recomment))
        return [*statements, *self._checks()]

    def _check_of_properties(self) -> list[Query]:
        # The rename has waited for whoever had not committed a GRANT, an ALTER DATABASE or such,
        # and from here on nobody can.
        if self.properties.digest is None:
            return []
        unchanged = self.properties.is_still_that_of(self.outgoing_name)
        return [_raise_unless(unchanged, _SET_UP)]

    def _checks(self) -> list[Query]:
        # Names are checked after the renames: by then they are locked, so nobody can have slipped
        # another database under one of them.
        expected = [(self.live_name, self.incoming.oid)]
        if self.live:
            expected.append((self.outgoing_name, self.live.oid))
        checks = [
            _raise_unless(
                sql.SQL("EXISTS (SELECT FROM pg_database WHERE datname = {} AND oid = {})").format(
                    sql.Literal(name), sql.Literal(oid)
                ),
                _CHANGED,
            )
            for name, oid in expected
        ]
        # A client may have come and written between our last look and the lock.
        if self.live and not self.undo and self.recomment:
            checks.append(_raise_unless(written.untouched(self.live.oid), _WRITTEN))
        return checks


def perform(
    session: Session,
    swaps: Sequence[Swap],
    evictor: Evictor,
    look: Callable[[], None] | None = None,
) -> None:
    """Carry out all swaps of one server in one transaction, sent as one message.

    1. The caller has a last look at what is to be replaced.
    2. The message goes out. It needs nothing more from us: if we die, it happens all the same.
    3. If the server finds a session that came meanwhile, nothing has happened. It is ended, or
       waited for, and we begin again.

    Args:
        session: The maintenance session to send it from.
        swaps: What is to happen.
        evictor: Has emptied the live databases, and keeps them so, from a session of its own.
        look: Called each time that nobody is left on them, right before the message goes out.

    Raises:
        DatabaseBusyError: Sessions stayed on a live database. Nothing has changed.
        ChangedMeanwhileError: Somebody else renamed one of the databases. Nothing has changed.
        WrittenMeanwhileError: A live database has to be kept after all. Nothing has changed.
        SetUpMeanwhileError: An incoming database lacks a property by now. Nothing has changed.
        MissingRightError: The role may not rename a database. Nothing has changed.
    """
    message = stages.together(statement for swap in swaps for statement in swap.statements())
    while True:
        if look is not None:
            look()
        try:
            _send(session, message, evictor, is_one=len(swaps) == 1)
        except psycopg.errors.ObjectInUse as error:
            if evictor.overdue:
                raise evictor.busy(evictor.pass_once()) from error
            evictor.empty()
        except psycopg.Error as error:
            raise _explained(error, swaps) from error
        else:
            return


def _send(session: Session, message: Query, evictor: Evictor, *, is_one: bool) -> None:
    """Send the message, and keep the live databases empty until the server has done with it.

    Raises:
        ObjectInUse: Somebody is on a live database, and stays.
        Error: Whatever else the server says.
    """
    patience = Patience()
    gave_way = False

    def keep_empty() -> None:
        nonlocal gave_way
        present = evictor.pass_once()
        # One database keeps nobody from another.
        gave_way = gave_way or (not is_one and patience.is_over(present))
        if gave_way:
            session.cancel()

    (error,) = run_together([(session, message)], meanwhile=keep_empty, every_s=lambda: _LOOK_S)
    if gave_way and isinstance(error, psycopg.errors.QueryCanceled):
        raise psycopg.errors.ObjectInUse from error
    if error is not None:
        raise error


def _raise_unless(condition: Query, code: str) -> Query:
    block = sql.SQL("BEGIN IF NOT ({}) THEN RAISE SQLSTATE {}; END IF; END").format(
        condition, sql.Literal(code)
    )
    return sql.SQL("DO {}").format(sql.Literal(block.as_string(None)))


def _is_overtaken(error: BaseException) -> bool:
    """Tell whether somebody else's change was committed while the rename waited for it."""
    # An internal error, which the server does not translate.
    return isinstance(error, psycopg.errors.InternalError_) and "tuple concurrently" in str(error)


def _explained(error: BaseException, swaps: Sequence[Swap]) -> BaseException:
    databases = ", ".join(repr(swap.live_name) for swap in swaps)
    code = getattr(error, "sqlstate", None)
    if code == _WRITTEN:
        return WrittenMeanwhileError()
    if code == _SET_UP or _is_overtaken(error):
        return SetUpMeanwhileError()
    if code in (_CHANGED, "3D000", "42P04"):
        return ChangedMeanwhileError(
            f"Somebody renamed, made or dropped a database while {databases} was to be replaced. "
            "Nothing has changed.",
            hint="Look at the server's databases (psql -l), then try again.",
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return MissingRightError(
            f"The role may not replace {databases}: {error.diag.message_primary}. "
            "Nothing has changed.",
            hint="It must own the database (ALTER DATABASE … OWNER TO …) and be allowed to make "
            "some (ALTER ROLE … CREATEDB).",
        )
    return error
