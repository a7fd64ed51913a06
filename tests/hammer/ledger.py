"""What clients did, to which database, and when: against it each state is checked."""

import itertools
import time
from collections import defaultdict
from dataclasses import dataclass

PATIENCE_S = 60


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A transaction that a client tried.

    Attributes:
        token: what its row carries.
        oid: the database that took it; 0 where the client never learnt.
        began: when, by the monotonic clock.
        ended: when the client knew how it went.
    """

    token: int
    oid: int
    began: float
    ended: float


class Ledger:
    """All attempts of all clients.

    An attempt ends in one of three ways: acknowledged, so its row must be there; refused before it
    was to commit, so its row must never be seen; or lost while it committed, so both are right.
    """

    def __init__(self) -> None:
        """Begin with nothing written."""
        # Each step below is one operation on one container, which threads cannot get in between.
        self._tokens = itertools.count(1)
        self._under_way: dict[int, float] = {}
        self._acknowledged: dict[int, list[Attempt]] = defaultdict(list)
        self._refused: list[int] = []
        self._lost: list[int] = []

    def begin(self) -> int:
        """Note that an attempt begins, and return its token."""
        token = next(self._tokens)
        self._under_way[token] = time.monotonic()
        return token

    def acknowledge(self, token: int, oid: int) -> None:
        """Note that the server said it was committed."""
        began = self._under_way[token]
        attempt = Attempt(token=token, oid=oid, began=began, ended=time.monotonic())
        self._acknowledged[oid].append(attempt)
        del self._under_way[token]

    def refuse(self, token: int) -> None:
        """Note that it failed before the client asked for the commit."""
        self._refused.append(token)
        del self._under_way[token]

    def lose(self, token: int) -> None:
        """Note that it failed, and nobody knows whether it was committed."""
        self._lost.append(token)
        del self._under_way[token]

    def settle(self) -> None:
        """Wait until all that was under way when this was called has ended."""
        deadline = time.monotonic() + PATIENCE_S
        waiting = set(self._under_way.copy())
        while waiting := waiting.intersection(self._under_way.copy()):
            assert time.monotonic() < deadline, f"{len(waiting)} clients hang"
            time.sleep(0.001)

    def acknowledged(self, oid: int) -> list[Attempt]:
        """Return what a database took, by its oid."""
        return list(self._acknowledged[oid])

    def lost(self) -> set[int]:
        """Return the tokens of attempts that may have been committed or not."""
        return set(self._lost)

    def counts(self) -> dict[str, int]:
        """Return how many attempts ended how."""
        return {
            "acknowledged": sum(map(len, self._acknowledged.values())),
            "refused": len(self._refused),
            "lost": len(self._lost),
        }
