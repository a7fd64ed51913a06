"""The commands that are swept, and the states in which a struck command may leave the world."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from django.core.management import call_command

from django_pgsnap.snapshots.restore import checkpoint
from tests.servers import Server
from tests.sweep.world import State, Values, values, write

ONE = ("default",)
TWO = ("default", "other")

# What a checkpoint is called, whatever its identity.
CHECKPOINT = "checkpoint-#"


def unchanged(before: State) -> list[State]:
    """The command changes nothing that a user sees."""
    return []


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to be swept.

    Attributes:
        name: what reports call it.
        run: does it, given the server.
        outcomes: the states that it leads to one after the other, given the one before.
        aliases: of the live databases.
        had_spare: whether "base" has spares when it begins.
        spare: the setting SPARES while it runs, and afterwards.
        written: whether the live databases were written since "base" was restored.
        two_servers: whether each live database seems to be on a server of its own.
        between: states that it leads through between the commits on two servers; whoever kills
            it there finds one of them.
    """

    name: str
    run: Callable[[Server], object]
    outcomes: Callable[[State], list[State]]
    aliases: tuple[str, ...] = ONE
    had_spare: bool = True
    spare: bool = True
    written: bool = True
    two_servers: bool = False
    between: Callable[[State], list[State]] = unchanged


def pgsnap(*arguments: str) -> Callable[[Server], object]:
    """Return what runs the management command."""
    return lambda _: call_command("pgsnap", *arguments, verbosity=0)


def took(name: str) -> Callable[[State], list[State]]:
    """The live state becomes a snapshot of that name, in the place of one of the same name."""
    return lambda before: [replace(before, snapshots={**before.snapshots, name: before.live})]


def restored(before: State) -> list[State]:
    """The snapshot becomes live, and what was live the newest of the replaced states."""
    return [replace(before, live=before.snapshots["base"], kept=(before.live, *before.kept))]


def restored_again(before: State) -> list[State]:
    """An unused copy of the snapshot makes room for another, and is kept until that is seen."""
    return [*restored(before), before]


def undone(before: State) -> list[State]:
    """The newest of the replaced states and the live one trade places."""
    newest, *older = before.kept
    return [replace(before, live=newest, kept=(before.live, *older))]


def renamed(before: State) -> list[State]:
    """The snapshot has another name."""
    return [replace(before, snapshots={"renamed": before.snapshots["base"]})]


def deleted(before: State) -> list[State]:
    """The snapshot is gone."""
    return [replace(before, snapshots={})]


def purged(before: State) -> list[State]:
    """The snapshot and the replaced states are gone."""
    return [State(live=before.live, snapshots={}, kept=())]


def write_in_checkpoint(server: Server) -> None:
    """Take a checkpoint, write, and have it taken back."""
    with checkpoint():
        write(server, values("W", ONE))


def checkpointed(before: State) -> list[State]:
    """A snapshot appears, the block writes, and the snapshot becomes live again."""
    taken = replace(before, snapshots={**before.snapshots, CHECKPOINT: before.live})
    written = replace(taken, live=values("W", ONE))
    return [taken, written, replace(before, kept=(written.live, *before.kept))]


def half_taken(before: State) -> list[State]:
    """The snapshot has the part of the first server, and is known to be incomplete."""
    part = only(before.live, "default")
    return [replace(before, snapshots={**before.snapshots, "new": part})]


def half_restored(before: State) -> list[State]:
    """The first server is restored; undo brings its database back."""
    return [
        replace(
            before,
            live={**before.live, **only(before.snapshots["base"], "default")},
            kept=(only(before.live, "default"), *before.kept),
        )
    ]


def only(values_: Values, alias: str) -> Values:
    """Return the value of one alias."""
    return {alias: values_[alias]}


COMMANDS = {
    command.name: command
    for command in (
        Command(name="take", run=pgsnap("take", "new"), outcomes=took("new")),
        Command(
            name="take --replace", run=pgsnap("take", "base", "--replace"), outcomes=took("base")
        ),
        Command(name="restore, spare", run=pgsnap("restore", "base"), outcomes=restored),
        Command(
            name="restore, no spare",
            run=pgsnap("restore", "base"),
            outcomes=restored,
            had_spare=False,
            spare=False,
        ),
        Command(
            name="restore, unwritten",
            run=pgsnap("restore", "base"),
            outcomes=restored_again,
            written=False,
        ),
        Command(name="undo", run=pgsnap("undo"), outcomes=undone),
        Command(name="rename", run=pgsnap("rename", "base", "renamed"), outcomes=renamed),
        Command(name="delete", run=pgsnap("delete", "base", "--no-input"), outcomes=deleted),
        Command(name="prune", run=pgsnap("prune", "--keep", "0"), outcomes=deleted),
        Command(name="purge", run=pgsnap("purge", "--no-input"), outcomes=purged),
        Command(
            name="purge, two databases",
            run=pgsnap("purge", "--no-input"),
            outcomes=purged,
            aliases=TWO,
        ),
        Command(name="refill", run=pgsnap("refill"), outcomes=unchanged, had_spare=False),
        Command(name="checkpoint", run=write_in_checkpoint, outcomes=checkpointed),
        Command(
            name="take, two databases", run=pgsnap("take", "new"), outcomes=took("new"), aliases=TWO
        ),
        Command(
            name="restore, two databases",
            run=pgsnap("restore", "base"),
            outcomes=restored,
            aliases=TWO,
        ),
        Command(
            name="restore, two databases, no spare",
            run=pgsnap("restore", "base"),
            outcomes=restored,
            aliases=TWO,
            had_spare=False,
            spare=False,
        ),
        Command(
            name="take, two servers",
            run=pgsnap("take", "new"),
            outcomes=took("new"),
            aliases=TWO,
            two_servers=True,
            between=half_taken,
        ),
        Command(
            name="restore, two servers",
            run=pgsnap("restore", "base"),
            outcomes=restored,
            aliases=TWO,
            two_servers=True,
            between=half_restored,
        ),
        Command(name="doctor --fix", run=pgsnap("doctor", "--fix"), outcomes=unchanged),
    )
}
