"""The command line of ``pgsnap``: its subcommands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from django.core.management.base import CommandParser

from ..clones.records import STRATEGIES


def add(parser: CommandParser) -> None:
    """Add all subcommands to the command's parser."""
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, (help_text, add_options) in _SUBCOMMANDS.items():
        subparser = subcommands.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
        )
        add_options(subparser)
        _add_base_options(subparser)


def _take(parser: CommandParser) -> None:
    parser.add_argument("name", nargs="?", help="name of the snapshot (default: snap1, snap2, …)")
    parser.add_argument("--note", default="", help="a remark to show in lists")
    parser.add_argument(
        "--replace", action="store_true", help="take the place of a snapshot of the same name"
    )
    parser.add_argument("--pin", action="store_true", help="keep it when others are pruned")
    parser.add_argument(
        "--no-spare",
        dest="spare",
        action="store_false",
        help="make no ready-made clone for the first restore",
    )
    parser.add_argument(
        "--strategy", choices=STRATEGIES, help="how the server copies (default: the quickest)"
    )
    _add_manners(parser)
    _add_databases(parser)
    _add_json(parser)


def _restore(parser: CommandParser) -> None:
    parser.add_argument("name", nargs="?", help="name of the snapshot (default: the newest)")
    parser.add_argument(
        "--no-undo",
        dest="undo",
        action="store_const",
        const=False,
        help="do not keep what is replaced",
    )
    parser.add_argument(
        "--migrate", action="store_true", help="run the migrations that the snapshot lacks"
    )
    _add_manners(parser)
    _add_databases(parser)
    _add_json(parser)


def _undo(parser: CommandParser) -> None:
    _add_manners(parser)
    _add_databases(parser)
    _add_json(parser)


def _list(parser: CommandParser) -> None:
    parser.add_argument(
        "--all",
        dest="everyone",
        action="store_true",
        help="those of other projects on the same servers too",
    )
    _add_databases(parser)
    _add_json(parser)


def _show(parser: CommandParser) -> None:
    parser.add_argument("name", help="name of the snapshot")
    _add_json(parser)


def _rename(parser: CommandParser) -> None:
    parser.add_argument("old", help="present name of the snapshot")
    parser.add_argument("new", help="its new name")
    _add_json(parser)


def _delete(parser: CommandParser) -> None:
    parser.add_argument("names", nargs="+", metavar="name", help="name of a snapshot")
    parser.add_argument(
        "--no-input",
        "--noinput",
        dest="interactive",
        action="store_false",
        help="do not ask before deleting",
    )
    _add_json(parser)


def _refill(parser: CommandParser) -> None:
    parser.add_argument(
        "name", nargs="?", help="name of the snapshot (default: the one last taken or restored)"
    )
    _add_databases(parser)
    _add_json(parser)


def _doctor(parser: CommandParser) -> None:
    parser.description = (
        "Say what is wrong with the snapshots and their servers, or in the way, each with its "
        "remedy. Errors and warnings that are left make the exit status 1; notes do not."
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="drop what interrupted commands left, and spares that no restore needs",
    )
    _add_databases(parser)
    _add_json(parser)


def _add_manners(parser: CommandParser) -> None:
    parser.add_argument(
        "--wait",
        dest="wait_s",
        type=_seconds,
        metavar="S",
        help="seconds to wait for busy sessions and other operations (default: 10)",
    )
    parser.add_argument("--force", action="store_true", help="end busy sessions too, at once")


def _add_databases(parser: CommandParser) -> None:
    parser.add_argument(
        "--database",
        dest="databases",
        action="append",
        metavar="ALIAS",
        help="only this alias of DATABASES; may be repeated",
    )


def _add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print facts as JSON")


def _add_base_options(parser: CommandParser) -> None:
    # Django's own options are welcome before the subcommand and after it. A default here would
    # override what was said before.
    group = parser.add_argument_group("general options")
    group.add_argument(
        "-v",
        "--verbosity",
        type=int,
        choices=range(4),
        default=argparse.SUPPRESS,
        help="0: errors only, 1: results (default), 2: steps too",
    )
    for option in ("--traceback", "--no-color", "--force-color"):
        group.add_argument(
            option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


_seconds.__name__ = "number of seconds"  # argparse says: invalid number of seconds value

_SUBCOMMANDS: Final[dict[str, tuple[str, Callable[[CommandParser], None]]]] = {
    "take": ("take a snapshot of the live databases", _take),
    "restore": ("bring the live databases back to a snapshot", _restore),
    "undo": ("swap back what the last restore replaced; again to redo", _undo),
    "list": ("list the snapshots", _list),
    "show": ("show all that is known of a snapshot", _show),
    "rename": ("give a snapshot another name", _rename),
    "pin": ("keep a snapshot when others are pruned", _show),
    "unpin": ("let a snapshot be pruned again", _show),
    "delete": ("delete snapshots", _delete),
    "refill": ("make the spare of a snapshot, in the foreground", _refill),
    "doctor": ("say what is wrong or in the way, with its remedy", _doctor),
}
