"""Looking: which snapshots there are, which one a name means, and which operations are at work.

An operation holds the lock of each live database that it is about, in a session whose name says
what it does. So everybody can see it, and nothing is left of it when it is gone.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from psycopg import sql

from ..clones.catalog import AnyDatabase
from ..clones.names import nearest_names
from ..clones.records import CopyRecord, Record, UndoRecord
from ..errors import NothingToUndoError, ObstacleError, PgsnapError, SnapshotNotFoundError
from ..messages import Message, format_ago, format_size, message
from ..postgres.advisory_locks import LockHolder, lock_key
from ..postgres.properties import Properties, mask_setting, read_properties
from ..postgres.server import Server, server_errors
from ..postgres.targets import Target, group_by_server
from .context import (
    ManagedDatabase,
    ServerContext,
    choose_targets,
    describe_beside,
    describe_managed,
    find_snapshots,
    find_undos,
    read_contexts,
)
from .types import AnyMember, Snapshot, Undo, describe_replaced_state

# As many as can be looked over in a line.
_NAMES_SHOWN: Final = 10
# As in: pgsnap take seeded (ada@workstation:4711). The server cuts it after 63 bytes.
_APPLICATION: Final = re.compile(r"pgsnap (?P<purpose>.*?) *(?:\((?P<who>[^()]*)\)?)?")


@dataclass(frozen=True, kw_only=True)
class RunningOperation:
    purpose: str  # what it does: ``take seeded``
    who: str  # user, machine and process that do it; may be cut short
    aliases: tuple[str, ...]
    seconds: float | None  # since when its present step runs; None where our role may not see that


def find_running_operations(
    known: Sequence[Target], holders: Mapping[int, LockHolder]
) -> list[RunningOperation]:
    """Return the operations that hold the lock of one of these live databases."""
    groups: dict[str, list[tuple[Target, LockHolder]]] = {}
    for target in known:
        if holder := holders.get(lock_key(target.name)):
            groups.setdefault(holder.application, []).append((target, holder))
    return [_describe_operation(group) for group in groups.values()]


def _describe_operation(group: Sequence[tuple[Target, LockHolder]]) -> RunningOperation:
    _, first = group[0]
    # Whoever is not one of ours holds our lock all the same.
    match = _APPLICATION.fullmatch(first.application)
    waited = [holder.seconds for _, holder in group if holder.seconds is not None]
    return RunningOperation(
        purpose=match["purpose"] if match else first.application,
        who=(match["who"] if match else None) or first.user,
        aliases=tuple(target.alias for target, _ in group),
        seconds=max(waited, default=None),
    )


def read_carried_properties(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return what each copy carries for a live database that is gone, in the order of members.

    Connection limit and comment are in the copies' records.
    """
    found: dict[str, Properties] = {}
    try:
        for server, here in group_by_server(snapshot.members).items():
            names = [member.database.name for member in here]
            with server_errors(), server.session("show") as session:
                found |= dict(zip(names, read_properties(session, *names), strict=True))
    except KeyError as error:
        raise SnapshotNotFoundError(
            "The snapshot {name!r} has just been deleted.",
            hint="See which ones there are.",
            name=snapshot.name,
        ) from error
    return [_describe_carried(found[member.database.name]) for member in snapshot.members]


def _describe_carried(carried: Properties) -> dict[str, Any]:
    """Return owner and labels, who may do what, and settings with custom ones' values masked."""
    privileges = {
        (each.grantee or "PUBLIC", each.privilege + " WITH GRANT OPTION" * each.grantable)
        for each in carried.privileges
    }
    return {
        "owner": carried.owner,
        "privileges": [
            f"{grantee}: {', '.join(privilege for _, privilege in granted)}"
            for grantee, granted in groupby(sorted(privileges), itemgetter(0))
        ],
        "settings": sorted(
            f"{f'{role}: ' if role else ''}{name} = {mask_setting(name, value)}"
            for (role, name), value in carried.settings.items()
        ),
        "labels": sorted(f"{provider}: {label}" for provider, label in carried.labels.items()),
    }


def find_snapshot_in(contexts: Sequence[ServerContext], wanted: str | Snapshot | None) -> Snapshot:
    """Return the snapshot of this name, or the newest, among those of live databases.

    One that was found before is found again whatever its name is now, and no other of that name.
    """
    found = find_snapshots(contexts)
    try:
        if isinstance(wanted, Snapshot):
            return _find_again(found, wanted)
        return choose_snapshot(found, wanted)
    except SnapshotNotFoundError:
        for context in contexts:
            for database, why in _find_uncounted(context):
                record = database.record
                if isinstance(record, CopyRecord) and _is_meant(record, wanted):
                    raise why from None
        raise


def _find_again(found: Sequence[Snapshot], wanted: Snapshot) -> Snapshot:
    for each in found:
        if each.set_id == wanted.set_id:
            return each
    raise SnapshotNotFoundError(
        "The snapshot {name!r} has just been deleted.",
        hint="See which ones there are.",
        name=wanted.name,
    )


def _is_meant(record: CopyRecord, wanted: str | Snapshot | None) -> bool:
    if isinstance(wanted, Snapshot):
        return record.set_id == wanted.set_id
    return wanted in (None, record.name)


def check_counted(contexts: Sequence[ServerContext], parts: Sequence[AnyMember] | None) -> None:
    """Refuse parts that belong to roles that do not count; for None, any replaced state's."""
    for database, why in (each for context in contexts for each in _find_uncounted(context)):
        if parts is None:
            is_meant = isinstance(database.record, UndoRecord)
        else:
            is_meant = any(database.name == each.database.name for each in parts)
        if is_meant:
            raise why


_UNCOUNTED: Final[dict[type[Record], tuple[type[PgsnapError], Message]]] = {
    CopyRecord: (
        SnapshotNotFoundError,
        message(
            "There is no snapshot {name!r} of {source!r} that counts: the database {copy!r} says "
            "it is one, but belongs to the role {role!r}, {why}."
        ),
    ),
    UndoRecord: (
        NothingToUndoError,
        message(
            "There is a replaced state of {source!r} that does not count: the database {copy!r} "
            "says it is one, but belongs to the role {role!r}, {why}."
        ),
    ),
}


def _find_uncounted(context: ServerContext) -> Iterator[tuple[AnyDatabase, PgsnapError]]:
    """Yield parts of snapshots and replaced states that do not count by their owner, and why."""
    for database in context.catalog.untrusted():
        record = database.record
        if not isinstance(record, CopyRecord | UndoRecord) or record.source not in context.sources:
            continue
        live = context.catalog.databases.get(record.source)
        if live is None:
            why = message("and the live database is gone, whose owner would count")
            statement, names = "CREATE DATABASE {} OWNER {};", (record.source, database.owner)
        else:
            why = message("while the live database belongs to {owner!r}", owner=live.owner)
            statement, names = "ALTER DATABASE {} OWNER TO {};", (database.name, live.owner)
        adopt = sql.SQL(statement).format(*map(sql.Identifier, names)).as_string(None)
        kind, text = _UNCOUNTED[type(record)]
        cause = message(
            text,
            name=record.name,
            source=record.source,
            copy=database.name,
            role=database.owner,
            why=why,
        )
        hint = message("If you know it to be yours, run: {adopt}", adopt=adopt)
        yield database, kind(cause, hint=hint)


def choose_snapshot(found: Sequence[Snapshot], name: str | None) -> Snapshot:
    """Return the snapshot that a name means among these, newest first, if one role has it."""
    # Two of one name and owner exist only where a replacement across servers was interrupted. The
    # newest without a lost part is meant then. What is outside of the settings is not lost.
    matching = [snapshot for snapshot in found if name is None or snapshot.name == name]
    if matching:
        whole = [snapshot for snapshot in matching if snapshot.completeness != "part lost"]
        chosen = (whole or matching)[0]
        _check_one_owner([each for each in found if each.name == chosen.name])
        return chosen
    if not found:
        wanted = "There is no snapshot yet." if name is None else "There is no snapshot {name!r}."
        raise SnapshotNotFoundError(wanted, hint="Take one: ./manage.py pgsnap take.", name=name)
    similar = nearest_names(name or "", [snapshot.name for snapshot in found])
    raise SnapshotNotFoundError(
        "There is no snapshot {name!r}.",
        hint="Did you mean {similar}?" if similar else _name_some(found),
        name=name,
        similar=" or ".join(map(repr, similar)),
    )


@server_errors()
def select_snapshots(*patterns: str) -> list[Snapshot]:
    """Return the snapshots that names and patterns such as ``snap*`` mean, each once."""
    contexts = list(read_contexts("list", choose_targets(None)))
    found = find_snapshots(contexts)
    selected: dict[str, Snapshot] = {}
    for pattern in patterns:
        # No name has these characters.
        if not set(pattern) & set("*?["):
            matching = [find_snapshot_in(contexts, pattern)]
        else:
            matching = [each for each in found if fnmatchcase(each.name, pattern)]
        if not matching:
            raise SnapshotNotFoundError(
                "There is no snapshot like {pattern!r}.",
                hint=_name_some(found) if found else "There are no snapshots.",
                pattern=pattern,
            )
        selected |= {each.set_id: each for each in matching}
    return list(selected.values())


def _name_some(found: Sequence[Snapshot]) -> Message:
    names = ", ".join(snapshot.name for snapshot in found[:_NAMES_SHOWN])
    more = len(found) - _NAMES_SHOWN
    if more > 0:
        return message("There are: {names} and {count} more.", names=names, count=more)
    return message("There are: {names}.", names=names)


def _check_one_owner(same_name: Sequence[Snapshot]) -> None:
    """Refuse snapshots of one name whose copies of one live database have several owners."""
    members = [member for snapshot in same_name for member in snapshot.members]
    owners: defaultdict[tuple[Server, str], set[str]] = defaultdict(set)
    for each in members:
        owners[each.server, each.record.source].add(each.database.owner)
    claims = [
        f"{each.database.name!r} of {each.database.owner!r}"
        for each in members
        if len(owners[each.server, each.record.source]) > 1
    ]
    if claims:
        raise ObstacleError(
            "Several roles have a snapshot {name!r}: {claims}.",
            hint="Drop the one that you do not want (DROP DATABASE …), or give both to one "
            "role (ALTER DATABASE … OWNER TO …).",
            name=members[0].record.name,
            claims=", ".join(claims),
        )


@dataclass(frozen=True, kw_only=True)
class Overview:
    snapshots: tuple[Snapshot, ...]  # newest first
    undos: tuple[Undo, ...]  # what restores replaced, newest first; usually one or none
    # What all of them occupy together, as far as the file system does not share blocks between
    # them.
    occupied_bytes: int
    underway: tuple[RunningOperation, ...] = ()
    # Of databases that look like snapshots of these live ones and belong to a role that does not
    # count: why, and how to adopt them.
    not_counted: tuple[str, ...] = ()
    # What else there is: templates and clones for commands; test databases where one has asked for
    # an overview, and not at the end of an operation.
    beside: tuple[ManagedDatabase, ...] = ()


def describe_operation(each: RunningOperation) -> Message:
    return message(
        "At work on {aliases}: {purpose} ({who})."
        if each.seconds is None
        else "At work on {aliases} for {seconds:.0f} s: {purpose} ({who}).",
        aliases=", ".join(each.aliases),
        purpose=each.purpose,
        who=each.who,
        seconds=each.seconds or 0.0,
    )


def describe_next_undo(overview: Overview | None) -> Iterator[str]:
    """Yield what undo would bring back, if anything; nothing where that could not be seen."""
    if overview is None:
        return
    undos = overview.undos
    if not undos:
        yield "There is nothing to undo."
        return
    state, until = describe_replaced_state(undos[0]), format_ago(undos[0].taken_at)
    yield f"Undo would bring back: {state}, live until {until}."
    if len(undos) > 1:
        yield f"Older states: {len(undos) - 1}, see ./manage.py pgsnap undo --list."


def describe_occupied(overview: Overview | None) -> Iterator[Message]:
    """Yield what everything occupies together, if that is known and anything."""
    if overview and overview.occupied_bytes:
        size = format_size(overview.occupied_bytes)
        yield message("All copies together occupy {size}.", size=size)


@server_errors()
def overview(*, databases: Sequence[str] | None = None, everyone: bool = False) -> Overview:
    """Return what snapshots and undos there are, those of other projects too for everyone."""
    return look_over(read_contexts("list", choose_targets(databases), everyone=everyone))


def look_over(
    contexts: Iterable[ServerContext], look: Callable[[ServerContext], None] = lambda _: None
) -> Overview:
    """Return the same of servers that are open one after the other, after a look at each."""
    seen: list[ServerContext] = []
    tests: list[ManagedDatabase] = []
    for context in contexts:
        look(context)
        seen.append(context)
        tests += describe_managed(context, {"test"})
    return sum_up(seen, tests)


def sum_up(contexts: Sequence[ServerContext], tests: Sequence[ManagedDatabase] = ()) -> Overview:
    """Return what snapshots and undos there are on these servers; see `overview`."""
    beside = [each for context in contexts for each in describe_beside(context)] + list(tests)
    snapshots = find_snapshots(contexts)
    undos = find_undos(contexts)
    members = [each for whole in (*snapshots, *undos) for each in whole.members]
    spared = [each for each in members if each.spare != "none"]
    return Overview(
        snapshots=tuple(snapshots),
        undos=tuple(undos),
        occupied_bytes=sum(each.record.size_bytes for each in (*members, *spared))
        + sum(each.size_bytes for each in beside),
        underway=tuple(
            operation
            for context in contexts
            for operation in find_running_operations(context.targets, context.holders)
        ),
        not_counted=tuple(str(why) for each in contexts for _, why in _find_uncounted(each)),
        beside=tuple(beside),
    )


@server_errors()
def list_snapshots(
    *, databases: Sequence[str] | None = None, everyone: bool = False
) -> tuple[Snapshot, ...]:
    """Return the snapshots that there are, newest first; arguments as for `overview`."""
    found = read_contexts("list", choose_targets(databases), everyone=everyone)
    return tuple(find_snapshots(list(found)))


@server_errors()
def get(name: str | None = None, *, databases: Sequence[str] | None = None) -> Snapshot:
    """Return the snapshot of this name, or the newest one."""
    return find_snapshot_in(list(read_contexts("list", choose_targets(databases))), name)
