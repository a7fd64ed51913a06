"""How an operation tells whoever runs it what it is doing."""

import logging
from typing import Any

from .messages import printable

logger = logging.getLogger("django_pgsnap")


class Reporter:
    """Hears what an operation does, while it does it.

    This one logs, which suits a program. The command line and the admin show it instead. Messages
    may quote what other roles wrote, so whoever shows them elsewhere makes them `printable`.

    To raise ends the operation, and nothing has changed then. So steps, waits and how far copying
    is are only told until it changes anything. Notes, warnings and the end come after that, too.
    """

    def step(self, message: str) -> None:
        """Hear that a step begins which may take more than a moment."""
        logger.debug(printable(message))

    def wait(self, message: str) -> None:
        """Hear for whom it waits; nothing goes on until they are done."""
        self.step(message)

    def still_waiting(self) -> None:
        """Hear again and again, up to 1,000 times a second, that nothing goes on yet."""

    def copied(self, done_bytes: int | None, total_bytes: int) -> None:
        """Hear how far copying or comparing is; ``done_bytes`` is None where nobody may look."""

    def note(self, message: str) -> None:
        """Hear a fact about what was done."""
        logger.info(printable(message))

    def warn(self, message: str) -> None:
        """Hear that something worked, but not all the way."""
        logger.warning(printable(message))

    def finished(self, overview: Any) -> None:
        """Hear what there is when an operation has ended, as `overview` would return it."""
