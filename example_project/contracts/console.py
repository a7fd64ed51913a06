"""A rich console behind a management command's standard output."""

from typing import IO, Any, cast

from django.core.management.base import BaseCommand
from rich.console import Console

SILENT = 0


def console_of(command: BaseCommand, options: dict[str, Any]) -> Console:
    """Return a console that honours `--verbosity`, `--no-color` and `--force-color`.

    In a pipe it writes plain text, 80 columns wide.
    """
    command.stdout.ending = ""  # rich ends its lines itself
    return Console(
        file=cast("IO[str]", command.stdout),
        quiet=options["verbosity"] == SILENT,
        no_color=options["no_color"] or None,
        force_terminal=options["force_color"] or None,
        highlight=False,
    )
