"""What the commands have in common in their arguments."""

import argparse

from django.core.management.base import CommandParser


def add_contracts_argument(parser: CommandParser, *, default: int) -> None:
    """Add `--contracts N`."""
    parser.add_argument(
        "--contracts",
        type=_positive,
        default=default,
        metavar="N",
        help=f"how many contracts to make; default: {default}",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
