"""What `manage.py demo` plays: build, take, erase, compare, restore, undo, and prove it all."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from django.db.models import Count
from django.template.defaultfilters import filesizeformat
from rich.console import Console

from django_pgsnap.comparison.diff import diff
from django_pgsnap.management.output import Output
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take

from .digests import TableDigest, changed_tables, digest_everything
from .models import Signer
from .tables import Step

SNAPSHOT = "seeded"


class ProofFailedError(Exception):
    """The database is not in the state that it should be in."""


class Play:
    """One performance.

    Attributes:
        steps: What has been played so far.
    """

    def __init__(self, console: Console, run: Callable[..., str]) -> None:
        """Show it on *console*; *run* runs another command, as `call_command` does."""
        self.steps: list[Step] = []
        self._console = console
        self._run = run

    def perform(self, contracts: int) -> None:
        """Play it from beginning to end, which leaves the seeded data in the database.

        Raises:
            ProofFailedError: A step did not do what it says.
        """
        self._build(contracts)
        seeded = digest_everything()
        self._take()
        self._erase()
        erased = digest_everything()
        self._show_loss()
        self._restore()
        self._prove(seeded, "every row and file is back")
        self._undo("Look at the erased state once more: undo the restore.")
        self._prove(erased, "this is what the erasure left")
        self._undo("And back again: undo the undo.")
        self._prove(seeded, "every row and file is back")

    def _build(self, contracts: int) -> None:
        self._say("Build up a realistic database.")
        with self._step("migrate"):
            self._run("migrate", interactive=False, verbosity=0)
        with self._step(f"seed --flush --contracts {contracts}"):
            self._run("seed", flush=True, contracts=contracts)

    def _take(self) -> None:
        self._say("Take a snapshot of it.")
        with self._step(f"pgsnap take {SNAPSHOT} --replace"):
            snapshot = take(SNAPSHOT, replace=True)
        self._console.print(f"A copy of {filesizeformat(snapshot.size_bytes)}.")

    def _erase(self) -> None:
        self._say("Run the code under development: it destroys data.")
        signer = Signer.objects.alias(busy=Count("signatures")).order_by("-busy", "pk")[0]
        self._console.print(f"The signer is   {signer}", soft_wrap=True, markup=False)
        with self._step(f"erase_signer {signer.email}"):
            self._run("erase_signer", signer.email)
        signer.refresh_from_db()
        self._console.print(f"The signer is   {signer}", soft_wrap=True, markup=False)

    def _show_loss(self) -> None:
        self._say("See what it did.")
        with self._step(f"pgsnap diff {SNAPSHOT} --rows 1"):
            found = diff(SNAPSHOT, rows=1)
        if found.is_empty:
            raise ProofFailedError("The erasure changed nothing.")
        out = Output(self._console.file, colour=not self._console.no_color)
        out.width, out.quiet = self._console.width, self._console.quiet
        out.print_diff(found)

    def _restore(self) -> None:
        self._say("Restore the snapshot.")
        with self._step(f"pgsnap restore {SNAPSHOT}"):
            restore(SNAPSHOT)

    def _undo(self, reason: str) -> None:
        self._say(reason)
        with self._step("pgsnap undo"):
            undo()

    def _prove(self, expected: Mapping[str, TableDigest], claim: str) -> None:
        found = digest_everything()
        if changed := changed_tables(expected, found):
            raise ProofFailedError(f"Not true that {claim}: {', '.join(changed)} differ.")
        rows = sum(table.rows for table in found.values())
        self._console.print(
            f"[green]Proved:[/] {claim} ({rows:,} rows and files, the MD5 of each table)."
        )

    def _say(self, line: str) -> None:
        self._console.print(f"\n[bold]{line}[/]")

    @contextmanager
    def _step(self, command: str) -> Iterator[None]:
        self._console.print(f"[cyan]$ ./manage.py {command}[/]", soft_wrap=True)
        began = time.perf_counter()
        yield
        self.steps.append(Step(command=command, seconds=time.perf_counter() - began))
