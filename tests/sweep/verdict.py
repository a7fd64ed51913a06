"""The verdict: what a struck command left is looked at, worked with, and cleared up."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from django.core.management import call_command

from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.snapshots.queries import Overview, overview
from tests.servers import Server
from tests.state import databases
from tests.sweep.world import (
    FROZEN,
    SEED,
    State,
    Values,
    live_name,
    read,
    wait_until_quiet,
)

CHECKPOINT = re.compile(r"checkpoint-[0-9a-f]{16}")


class BrokenPromiseError(Exception):
    """What was found contradicts what is promised."""


def problems(
    server: Server, aliases: Sequence[str], outcomes: Sequence[State], *, take_first: bool
) -> list[str]:
    """Return what is wrong with a world, to be asked in a fresh process, once.

    Args:
        server: where it is.
        aliases: of its live databases.
        outcomes: the states that it may be in.
        take_first: whether the next command is a take; else it is an undo or a restore.
    """
    try:
        _check_existence(server, aliases)
        possible = _check_state(server, aliases, outcomes)
        if take_first:
            _pgsnap("take", "next")
            possible = [_with(each, "next", each.live) for each in possible]
        possible = _check_undo(server, aliases, possible)
        _check_snapshots(server, aliases, possible)
    except BrokenPromiseError as error:
        return [str(error)]
    wait_until_quiet(server)
    found = [f"doctor still finds {finding}" for finding in diagnose(fix=True).problems]
    return [*found, *_unreferenced(server, aliases)]


def _check_existence(server: Server, aliases: Sequence[str]) -> None:
    there = {database.name for database in databases(server)}
    for alias in aliases:
        if live_name(alias) not in there:
            raise BrokenPromiseError(f"the live database of {alias} does not exist")


def _check_state(
    server: Server, aliases: Sequence[str], outcomes: Sequence[State]
) -> Sequence[State]:
    """Return those of the states that the world may be in, seen from outside."""
    # What the server was still at when its client died may happen between two looks. So there is
    # a second chance, when nothing is under way any more.
    for is_second in (False, True):
        if is_second:
            wait_until_quiet(server)
        live, seen = read(server, aliases), overview()
        possible = [each for each in outcomes if _looks_like(each, live, seen)]
        if possible:
            return possible
    raise BrokenPromiseError(f"in none of the states allowed: live {live}, {_described(seen)}")


def _check_undo(
    server: Server, aliases: Sequence[str], possible: Sequence[State]
) -> Sequence[State]:
    if not any(each.kept for each in possible):
        return possible
    _pgsnap("undo")
    found = read(server, aliases)
    left = [each for each in possible if found.items() >= each.kept[0].items()]
    if not left:
        raise BrokenPromiseError(f"undo leads to {found}")
    return left


def _check_snapshots(server: Server, aliases: Sequence[str], possible: Sequence[State]) -> None:
    for snapshot in overview().snapshots:
        name = _generic(snapshot.name)
        _pgsnap("restore", snapshot.name, *(f"--database={each}" for each in snapshot.aliases))
        found = {
            alias: value
            for alias, value in read(server, aliases).items()
            if alias in snapshot.aliases
        }
        possible = [each for each in possible if each.snapshots[name] == found]
        if not possible:
            raise BrokenPromiseError(f"restore of {snapshot.name} leads to {found}")
        if not snapshot.is_complete:
            _pgsnap("delete", snapshot.name, "--no-input")


def _looks_like(state: State, live: Values, seen: Overview) -> bool:
    snapshots = {_generic(each.name): set(each.aliases) for each in seen.snapshots}
    return (
        state.live == live
        and {name: set(parts) for name, parts in state.snapshots.items()} == snapshots
        and [set(each) for each in state.kept] == [set(each.aliases) for each in seen.undos]
    )


def _unreferenced(server: Server, aliases: Sequence[str]) -> Iterator[str]:
    """Say which databases are neither live, nor part of a snapshot or of the undo."""
    seen = overview()
    referenced = {live_name(alias) for alias in aliases} | {SEED}
    for group in (*seen.snapshots, *seen.undos):
        for member in group.members:
            referenced.add(member.database.name)
            if member.spare == "ready":
                referenced.add(f"pgsnap_spare_{member.record.identity}")
    for database in databases(server):
        if database.name not in referenced and not database.name.startswith(FROZEN):
            yield f"unreferenced: {database}"


def _with(state: State, name: str, taken: Values) -> State:
    return replace(state, snapshots={**state.snapshots, name: taken})


def _generic(name: str) -> str:
    return CHECKPOINT.sub("checkpoint-#", name)


def _described(seen: Overview) -> str:
    snapshots = [(each.name, each.aliases) for each in seen.snapshots]
    return f"snapshots {snapshots}, undos {[each.aliases for each in seen.undos]}"


def _pgsnap(*arguments: Any) -> None:
    call_command("pgsnap", *arguments, verbosity=0)
