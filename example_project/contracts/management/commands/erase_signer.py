"""Erase a person."""

from difflib import get_close_matches
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from contracts.console import console_of
from contracts.erasure import erase
from contracts.models import Signer


class Command(BaseCommand):
    """`manage.py erase_signer EMAIL`: there is no way back, except a snapshot."""

    help = "Deletes what may go of a signer, and redacts the rest."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")

    def handle(self, *_args: Any, email: str, **options: Any) -> None:
        console = console_of(self, options)
        erasure = erase(_find(email))
        for verb, rows in [("Deleted", erasure.deleted), ("Redacted", erasure.redacted)]:
            for model, number in rows.items():
                console.print(f"{verb:8} {number:6,} {model}")


def _find(email: str) -> Signer:
    signer = Signer.objects.filter(email__iexact=email, erased_at=None).first()
    if signer is None:
        known = Signer.objects.filter(erased_at=None).values_list("email", flat=True)
        nearest = ", ".join(get_close_matches(email, known)) or "none"
        raise CommandError(f"No signer has the address {email!r}; similar ones: {nearest}.")
    return signer
