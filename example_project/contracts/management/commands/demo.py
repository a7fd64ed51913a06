"""Play the story that the package was made for."""

import sys
from functools import partial
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from contracts.arguments import add_contracts_argument
from contracts.console import console_of
from contracts.models import Contract
from contracts.pg_dump import Comparison, NotComparableError, compare
from contracts.play import SNAPSHOT, Play, ProofFailedError
from contracts.tables import times_table
from django_pgsnap.errors import PgsnapError


class Command(BaseCommand):
    """`manage.py demo`: exit status 1 when a snapshot does not keep its promise."""

    help = "Seeds, takes a snapshot, erases a signer, restores, undoes, and proves each step."

    def add_arguments(self, parser: CommandParser) -> None:
        add_contracts_argument(parser, default=5000)
        parser.add_argument(
            *("--no-input", "--noinput"),
            action="store_false",
            dest="interactive",
            help="do not ask before replacing what is there",
        )

    def handle(self, *_args: Any, contracts: int, interactive: bool, **options: Any) -> None:
        console = console_of(self, options)
        can_ask = interactive and console.is_terminal and sys.stdin.isatty()
        if can_ask and not _may_replace():
            console.print("Demo cancelled.")
            return
        inherited = {key: options[key] for key in ("verbosity", "no_color", "force_color")}
        play = Play(console, partial(call_command, stdout=self.stdout, **inherited))
        try:
            play.perform(contracts)
        except (ProofFailedError, PgsnapError) as error:
            raise CommandError(str(error)) from error
        console.print("\n[bold]What it took.[/]")
        comparison, remark = _compare()
        console.print(times_table(play.steps, comparison), remark)


def _may_replace() -> bool:
    """Ask if there is something to lose."""
    if Contract._meta.db_table not in connection.introspection.table_names():  # noqa: SLF001
        return True
    contracts = Contract.objects.count()
    if not contracts:
        return True
    answer = input(
        f"Replace the {contracts:,} contracts in the database {connection.settings_dict['NAME']!r} "
        f"and the snapshot {SNAPSHOT!r}? [y/N] "
    )
    return answer.strip().lower() in {"y", "yes"}


def _compare() -> tuple[Comparison | None, str]:
    try:
        return compare(), "The usual way was measured just now, on the same data and server."
    except NotComparableError as reason:
        return None, f"No comparison with pg_dump and pg_restore: {reason}."
