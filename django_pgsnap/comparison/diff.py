"""Diff: what changed from one state of the live databases to another."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import psycopg

from ..clones.names import nearest_names
from ..conf import diff_mask
from ..errors import ConfigurationError, DatabaseBusyError, MissingRightError, NothingToUndoError
from ..messages import Message, message
from ..postgres.server import server_errors
from ..postgres.session import DIFF_PURPOSE
from ..reporting import Reporter
from ..snapshots.queries import get, overview
from ..snapshots.types import AnyMember, Snapshot, Undo
from .compare import Comparison
from .sides import Side, open_copy
from .types import Diff, RowChange


class _Pair(NamedTuple):
    """One database on both sides: an older copy, and a newer copy or an open database."""

    before: AnyMember
    after: str
    is_open: bool


def diff(
    name: str | None = None,
    other: str | None = None,
    *,
    undo: int = 0,
    clones: Mapping[str, str] | None = None,
    databases: Sequence[str] | None = None,
    models: Sequence[str] = (),
    rows: int = 0,
    on_row: Callable[[RowChange], None] | None = None,
    reporter: Reporter | None = None,
) -> Diff:
    """Return what changed since a snapshot, or from one snapshot to another.

    Each database is read as of one moment, by sessions that only read. A restore or another
    operation that needs one of the databases ends them.

    Args:
        name: The older state: a snapshot's name; None for the newest snapshot.
        other: The newer state: another snapshot's name; None for the live databases.
        undo: Which replaced state is the older one, rather than a snapshot: 1 for what the last
            restore or undo replaced, 2 for the one before; 0 for none.
        clones: Names of open databases to compare with in place of the live ones, by alias.
        databases: Aliases; None for all that the settings name.
        models: Labels of models (``contracts.Signer``) or names of tables; empty for all.
        rows: How many row changes of each table to keep in the result.
        on_row: Called with each row change as it is found; there may be very many.
        reporter: Hears which database is compared, and how far that is; None to log it.

    Raises:
        PgsnapError: Subclasses say what stood in the way. Nothing is changed by looking.
    """
    before, after = _choose_states(name, other, undo, databases)
    comparison = Comparison(
        models=frozenset(models),
        rows=rows,
        mask=diff_mask(),
        on_row=on_row,
        reporter=reporter or Reporter(),
    )
    pairs, notes = _pairs(before, after, clones or {})
    with server_errors():
        for pair in pairs:
            _compare(pair, comparison)
    _check_known(models, comparison.known)
    return Diff(
        before=_label(before),
        after="clone" if clones else _label(after),
        schema=tuple(comparison.schema),
        migrations_applied=tuple(sorted(comparison.applied)),
        migrations_missing=tuple(sorted(comparison.missing)),
        tables=tuple(comparison.tables),
        notes=(*notes, *comparison.notes),
    )


def _choose_states(
    name: str | None, other: str | None, undo: int, databases: Sequence[str] | None
) -> tuple[Snapshot | Undo, Snapshot | None]:
    if undo and (name is not None or other is not None):
        raise ConfigurationError(
            "A replaced state is compared with the live databases only.",
            hint="Leave the names of snapshots out.",
        )
    if not undo:
        after = None if other is None else get(other, databases=databases)
        return get(name, databases=databases), after
    found = overview(databases=databases)
    if not 0 < undo <= len(found.undos):
        raise NothingToUndoError(
            "There is no replaced state {number} to compare with: {count} are kept.",
            hint="See ./manage.py pgsnap undo --list.",
            number=undo,
            count=len(found.undos),
        )
    return found.undos[undo - 1], None


def _label(state: Snapshot | Undo | None) -> str:
    if state is None:
        return "live"
    return "undo" if isinstance(state, Undo) else state.name


def _check_known(models: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that no table has, which would look as if nothing had changed."""
    name = next((each for each in models if each not in known), None)
    if name is None:
        return
    similar = " or ".join(map(repr, nearest_names(name, known)))
    raise ConfigurationError(
        "There is no model or table {name!r} in what was compared.",
        hint="Did you mean {similar}?" if similar else "Name models as in contracts.Signer.",
        name=name,
        similar=similar,
    )


def _pairs(
    before: Snapshot | Undo, after: Snapshot | None, clones: Mapping[str, str]
) -> tuple[list[_Pair], list[Message]]:
    """Return the databases that both states have, and say which are left out."""
    copies = {} if after is None else {(m.server, m.record.source): m for m in after.members}
    pairs = []
    for member in before.members:
        source = member.record.source
        if after is None:
            pairs.append(_Pair(member, clones.get(member.alias, source), is_open=True))
        elif copy := copies.get((member.server, source)):
            pairs.append(_Pair(member, copy.database.name, is_open=False))
    compared = {pair.before.alias for pair in pairs}
    members = (*before.members, *(after.members if after else ()))
    alone = sorted({member.alias for member in members} - compared)
    notes = [
        message("The database of {alias!r} is in one of both only.", alias=alias) for alias in alone
    ]
    for state in (before, after):
        if state is not None and state.completeness == "part lost":
            name, here = _label(state), ", ".join(state.aliases)
            notes.append(
                message("Of {name!r} only the part of {here} is there.", name=name, here=here)
            )
    return pairs, notes


def _compare(pair: _Pair, comparison: Comparison) -> None:
    source = pair.before.record.source
    try:
        with _sides(pair) as (before, after):
            comparison.compare(pair.before.alias, before, after)
    except (psycopg.errors.AdminShutdown, psycopg.errors.IdleInTransactionSessionTimeout) as error:
        raise DatabaseBusyError(
            "Another operation needed {source!r} or its copy, so the comparison was ended.",
            hint="Nothing has changed; compare again when that operation is done.",
            source=source,
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingRightError(
            "Our role may not read all rows of {source!r}: {cause}.",
            hint="Compare as a superuser, or grant SELECT and BYPASSRLS to the role. "
            "./manage.py pgsnap diff --model compares only what it may read.",
            source=source,
            cause=error.diag.message_primary,
        ) from error


@contextmanager
def _sides(pair: _Pair) -> Iterator[tuple[Side, Side]]:
    server = pair.before.server
    with ExitStack() as stack:
        older, known = stack.enter_context(open_copy(server, pair.before.database.name))
        before = replace(Side.begin(older, known.key), sums=known.sums)
        if not pair.is_open:
            newer, _ = stack.enter_context(open_copy(server, pair.after))
            yield before, Side.begin(newer, known.key)
            return
        newer = stack.enter_context(server.session_on(pair.after, DIFF_PURPOSE))

        @cache
        def open_twin() -> Side:
            twin = stack.enter_context(server.session_on(pair.after, DIFF_PURPOSE))
            return Side.begin(twin, known.key, like=newer)

        yield before, replace(Side.begin(newer, known.key), twin=open_twin)
