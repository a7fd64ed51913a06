"""Work: an operation in a thread of the server process, so that its page need not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from django.db import connections
from django.utils import translation
from django.utils.translation import gettext as _

from ..errors import InsideTransactionError, PgsnapError
from .progress import Progress, ProgressFile

# Does the work, tells what came of it, and returns why the visitor is to be signed out, if so.
Act = Callable[[ProgressFile], str]


class Job(Thread):
    """One operation at work. A process that is to stop waits for it to end."""

    def __init__(self, title: str, act: Act) -> None:
        """Start at once.

        Args:
            title: What it does, as a heading.
            act: What does it.
        """
        super().__init__(name="django_pgsnap", daemon=False)
        self._file = ProgressFile(title)
        self._act = act
        self._language = translation.get_language()
        self.start()

    @property
    def token(self) -> str:
        """What its progress is found by."""
        return self._file.token

    def run(self) -> None:
        """Do the work, and write down how it ended."""
        try:
            with translation.override(self._language):
                self._run()
        finally:
            connections.close_all()

    def result(self, patience_s: float) -> Progress | None:
        """Return how it ended, None if it takes longer than that many seconds."""
        self.join(patience_s)
        if self.is_alive():
            return None
        self._file.forget()
        return self._file.progress

    def _run(self) -> None:
        try:
            signed_out = self._act(self._file)
        except PgsnapError as error:
            self._file.tell("error", str(error))
            self._file.end(failed=True)
        except BaseException:
            self._file.tell("error", _("This failed unexpectedly. The server's log says why."))
            self._file.end(failed=True)
            raise
        else:
            self._file.end(signed_out=signed_out)


def stand_aside() -> None:
    """Let go of this thread's connections, which would be in the way of the work.

    Raises:
        InsideTransactionError: This thread is inside ``transaction.atomic``, and would wait for
            the work while the work waits for it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            raise InsideTransactionError(
                f"This request runs inside transaction.atomic on {connection.alias!r}, which a "
                "snapshot operation would have to wait for.",
                hint="Take the middleware or decorator away that opens it, for the admin's pages.",
            )
    connections.close_all()
