"""Fill the database with believable data."""

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contracts.arguments import add_contracts_argument
from contracts.console import console_of
from contracts.models import AuditEvent, Company, Contract, Signature, Signer
from contracts.seeding import empty_database, seed_database

CONTRACTS_PER_LINE = 1000


class Command(BaseCommand):
    """`manage.py seed`: the same arguments make the same rows."""

    help = "Fills the database with companies, signers, contracts, signatures and audit events."

    def add_arguments(self, parser: CommandParser) -> None:
        add_contracts_argument(parser, default=2000)
        parser.add_argument("--seed", type=int, default=1, help="decides every value; default: 1")
        parser.add_argument("--flush", action="store_true", help="delete what is there first")

    def handle(self, *_args: Any, contracts: int, seed: int, flush: bool, **options: Any) -> None:
        console = console_of(self, options)
        if flush:
            empty_database()
        elif Company.objects.exists():
            raise CommandError(
                f"There are {Contract.objects.count()} contracts of {Company.objects.count()} "
                "companies already. Add --flush to delete them first."
            )
        show = _show_bar if console.is_terminal else _show_lines
        show(console, seed_database(contracts=contracts, seed=seed), contracts)
        console.print(
            f"Seeded {Company.objects.count():,} companies, {Signer.objects.count():,} signers, "
            f"{Contract.objects.count():,} contracts, {Signature.objects.count():,} signatures, "
            f"{AuditEvent.objects.count():,} audit events.",
            soft_wrap=not console.is_terminal,
        )


def _show_bar(console: Console, steps: Iterator[int], total: int) -> None:
    columns = (TextColumn("Contracts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        for done in steps:
            progress.update(task, completed=done)


def _show_lines(console: Console, steps: Iterator[int], total: int) -> None:
    for done in steps:
        if done % CONTRACTS_PER_LINE == 0 and 0 < done < total:
            console.print(f"{done:,} of {total:,} contracts")
