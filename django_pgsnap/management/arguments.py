"""The command line of ``pgsnap``: its subcommands and their options.

A new subcommand is an entry in ``SUBCOMMANDS``, and a method of the command that is called like it.
"""

import math
import re
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from ..clones.records import STRATEGIES


class Argument:
    """An argument of subcommands, as argparse wants it."""

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.flags = flags
        self.settings = settings
        self.destination = settings.get("dest") or flags[0].lstrip("-").replace("-", "_")


class Subcommand:
    """What a subcommand does, which arguments of its own it takes, and its other names."""

    def __init__(
        self, summary: str, *arguments: Argument, more: str = "", aliases: Sequence[str] = ()
    ) -> None:
        self.summary = summary
        self.description = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
        self.arguments = arguments
        self.aliases = aliases


_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(.*)", re.DOTALL)


def _quantity(what: str, units: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return what converts a number with its unit, and says what was expected where it cannot."""

    def convert(text: str) -> Any:
        parts = _QUANTITY.fullmatch(text)
        try:
            if parts is not None and math.isfinite(number := float(parts[1])):
                return number * units[parts[2].lower()]
        except (LookupError, OverflowError):
            pass
        raise ArgumentTypeError(f"{text!r} is not {what}")

    return convert


_seconds = _quantity("a number of seconds", {"": 1})
_age = _quantity(
    "an age such as 12h, 7d or 2w",
    {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)},
)
_size = _quantity(
    "a size such as 500MB or 10GB",
    {f"{unit}{b}": 1024**power for power, unit in enumerate("kmgt", 1) for b in ("", "b")},
)


def _number_from(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if text.isascii() and text.isdigit() and int(text) >= least:  # no sign, no space
            return int(text)
        raise ArgumentTypeError(f"{text!r} is not a number from {least} up")

    return convert


_count, _ordinal = _number_from(0), _number_from(1)


def _flag(*flags: str, **settings: Any) -> Argument:
    return Argument(*flags, action="store_true", **settings)


SHELLS: Final = ("bash", "zsh", "fish")

_NAME: Final = Argument("name", help="name of the snapshot")
_DATABASE: Final = Argument(
    "--database",
    dest="databases",
    action="append",
    metavar="ALIAS",
    help="only this alias of DATABASES; may be repeated",
)
_WHEN_BUSY: Final = (
    Argument(
        "--wait",
        dest="wait_s",
        type=_seconds,
        metavar="S",
        help="seconds to wait for busy sessions and other operations (default: the setting WAIT_S)",
    ),
    _flag("--force", help="end busy sessions too, at once"),
    _DATABASE,
)
_NO_INPUT: Final = Argument(
    *("-y", "--no-input", "--noinput"), dest="interactive", action="store_false", help="do not ask"
)

# What all subcommands take. Django's own options are welcome before the subcommand and after it: a
# default here would override what was said before.
GENERAL: Final = (
    _flag("--json", dest="as_json", help="print facts as JSON"),
    Argument(
        *("-v", "--verbosity"),
        type=int,
        choices=range(4),
        default=SUPPRESS,
        help="0: warnings only, 1: results (default), 2: steps too",
    ),
    *(
        _flag(each, default=SUPPRESS, help=SUPPRESS)
        for each in ("--traceback", "--no-color", "--force-color", "--skip-checks")
    ),
    *(Argument(each, default=SUPPRESS, help=SUPPRESS) for each in ("--settings", "--pythonpath")),
)

SUBCOMMANDS: Final = {
    "take": Subcommand(
        "take a snapshot of the databases",
        Argument("name", nargs="?", help="its name (default: snap1, snap2, ...)"),
        Argument("--note", default="", help="a note to show in lists"),
        _flag("--replace", help="replace the snapshot of that name, if there is one"),
        _flag("--pin", help="protect it from pruning and deletion"),
        Argument(
            "--no-spare",
            dest="spare",
            action="store_false",
            help="make no spare, so that the first restore has to copy",
        ),
        Argument(
            "--strategy", choices=STRATEGIES, help="how the server copies (default: the fastest)"
        ),
        *_WHEN_BUSY,
        aliases=("save",),
    ),
    "restore": Subcommand(
        "bring the databases back to a snapshot",
        Argument("name", nargs="?", help="name of the snapshot (default: the newest)"),
        Argument(
            "--no-undo",
            dest="undo",
            action="store_const",
            const=False,
            help="drop what is live now, so that this cannot be undone",
        ),
        _flag("--migrate", help="then run the migrations that the snapshot lacks"),
        _flag("--dry-run", help="only say what would happen: who is connected, what is copied"),
        *_WHEN_BUSY,
    ),
    "undo": Subcommand(
        "bring back what the last restore replaced",
        Argument(
            "number",
            nargs="?",
            type=_ordinal,
            metavar="N",
            help="which of the replaced states, counted from the newest (default: 1)",
        ),
        _flag("--list", dest="only_list", help="list the replaced states, and change nothing"),
        _flag("--drop", help="drop all replaced states instead, and give their disk space back"),
        *_WHEN_BUSY,
        more="The state that it replaces is kept in turn, so a second undo leads back.",
    ),
    "diff": Subcommand(
        "show what changed since a snapshot, by model and row",
        Argument("name", nargs="?", help="the older state (default: the newest snapshot)"),
        Argument(
            "other", nargs="?", help="the newer state (default: the databases as they are now)"
        ),
        Argument(
            "--undo",
            nargs="?",
            type=_ordinal,
            const=1,
            default=0,
            metavar="N",
            help="compare with what the last restore replaced, or the Nth last, not a snapshot",
        ),
        Argument(
            "--model",
            dest="models",
            action="append",
            metavar="APP.MODEL",
            help="only this model, or table; may be repeated",
        ),
        Argument("--rows", type=_count, default=0, metavar="N", help="show N rows of each model"),
        _flag("--exit-code", help="exit with 1 where anything differs, as git does"),
        _DATABASE,
        more="With --json each change is an object on a line of its own.",
    ),
    "run": Subcommand(
        "try a command on a clone of a snapshot: pgsnap run NAME -- migrate",
        Argument("name", nargs="?", help="the snapshot (default: the newest)"),
        _flag("--live", help="run it on the live databases, then ask whether to keep what it did"),
        _flag("--keep", help="keep the clone when the command is done"),
        _flag("--diff", help="show what the command changed"),
        _NO_INPUT,
        _DATABASE,
        more="The clone is dropped afterwards: the live databases stay as they are. With --live it "
        "runs on the live databases, and you are asked whether to keep what it did or to go back. "
        "The exit status is the command's.",
    ),
    "status": Subcommand(
        "say what is live, and what undo would bring back",
        _DATABASE,
        more="It says which snapshot the live databases come from, since when, whether they were "
        "written since, and what there is beside.",
    ),
    "list": Subcommand(
        "list the snapshots",
        _flag("--all", dest="everyone", help="those of other projects on these servers too"),
        _DATABASE,
        aliases=("ls",),
    ),
    "show": Subcommand("show all that is known of a snapshot", _NAME),
    "rename": Subcommand(
        "give a snapshot another name",
        Argument("old", help="present name of the snapshot"),
        Argument("new", help="its new name"),
    ),
    "annotate": Subcommand(
        "change the note of a snapshot",
        _NAME,
        Argument("text", metavar="note", help="the new note; '' for none"),
    ),
    "pin": Subcommand("protect a snapshot from pruning and deletion", _NAME),
    "unpin": Subcommand("allow a snapshot to be pruned and deleted again", _NAME),
    "delete": Subcommand(
        "delete snapshots",
        Argument(
            "names", nargs="*", metavar="name", help="name of a snapshot, or 'snap*' for several"
        ),
        _flag("--all", dest="everything", help="all snapshots of this project"),
        _flag("--force", help="pinned ones, too"),
        _NO_INPUT,
        aliases=("rm",),
    ),
    "prune": Subcommand(
        "delete snapshots that are too many, too old or too large",
        Argument("--keep", type=_count, metavar="N", help="keep the N newest in any case"),
        Argument(
            "--older-than", type=_age, metavar="AGE", help="delete those older than 12h, 7d, 2w"
        ),
        Argument(
            "--max-size",
            dest="max_bytes",
            type=_size,
            metavar="SIZE",
            help="delete the oldest until the others occupy no more than 500MB, 10GB",
        ),
        _flag("--templates", help="all test templates of these databases, instead of snapshots"),
        _flag("--dry-run", help="only say which would go"),
        more="Pinned ones stay, and the oldest go first. With --older-than or --max-size, these "
        "say which go, and --keep protects the newest. With --keep alone, all but the newest go.",
    ),
    "purge": Subcommand(
        "take away everything that pgsnap has made",
        _flag("--all-projects", dest="everyone", help="what your role has for other projects, too"),
        _NO_INPUT,
        more="These are all snapshots, spares, replaced states, test templates, test databases and "
        "clones of pgsnap run of this project. The live databases stay.",
    ),
    "completion": Subcommand(
        "print what makes a shell complete subcommands, options and names",
        Argument("shell", choices=SHELLS, help="the shell"),
        more="Put it where the shell reads it at its start.",
    ),
    "refill": Subcommand(
        "make the spare of a snapshot, the clone that makes a restore fast",
        Argument("name", nargs="?", help="the snapshot (default: the one last taken or restored)"),
        _DATABASE,
        more="Usually the server does that after a take or restore. This waits until it is there.",
    ),
    "doctor": Subcommand(
        "say what is wrong or in the way, and what to do about it",
        _flag("--fix", help="drop what interrupted commands left behind"),
        _DATABASE,
        more="The exit status is 1 while an error or a warning is left.",
    ),
}
