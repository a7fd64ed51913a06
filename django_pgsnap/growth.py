"""How far a copy is, seen by the files that appear in the server's data directory."""

from __future__ import annotations

from . import directories
from .session import Session


class Growth:
    """Watches the directories of databases under construction.

    Usually only a superuser may look; for others `done_bytes` is None. Where several databases
    are being made on the server, other people's count too, so it is an indication.
    """

    def __init__(self, session: Session) -> None:
        """Remember what is there before our copies begin."""
        self._session = session
        self._parents: list[str] = []
        self._before: set[str] = set()
        if directories.may_look(session):
            self._parents = directories.parents(session)
            self._before = set(directories.without_row(session, self._parents))

    def done_bytes(self) -> int | None:
        """Return how much has been copied, None where our role may not look."""
        if not self._parents:
            return None
        present = directories.without_row(self._session, self._parents)
        new = [path for path in present if path not in self._before]
        return directories.size_bytes(self._session, new)
