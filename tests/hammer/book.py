"""What each snapshot and each live database must hold, worked out from the clients' ledger."""

import time
from dataclasses import dataclass, field

from tests.hammer.ledger import Ledger

Tokens = frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is known of a snapshot: rows that must be in it, and all rows that may.

    Once it was restored both are the same, apart from rows whose fate no client learnt.
    """

    at_least: Tokens
    at_most: Tokens


@dataclass(kw_only=True)
class Book:
    """Follows the operations, and checks each state that it is shown.

    A database has an oid that stays through all renames. It holds what it was made from, and what
    clients committed there. Rows whose fate no client learnt may be there or not.

    Attributes:
        ledger: What the clients did.
        live: The oid of the live database.
        replaced: The oids of databases that an undo may bring back; one, if clients wrote.
        made_from: By oid, what a database held when it was made.
        snapshots: By name, what is known of each.
        checked: How many states were checked.
        rows: How many rows were seen in them.
    """

    ledger: Ledger
    live: int
    replaced: set[int] = field(default_factory=set)
    made_from: dict[int, Tokens] = field(default_factory=dict)
    snapshots: dict[str, Contents] = field(default_factory=dict)
    checked: int = 0
    rows: int = 0

    def took(self, name: str, began: float, ended: float) -> None:
        """Note a take of the live database between two moments."""
        self.ledger.settle()
        base = self.made_from[self.live]
        done = self.ledger.acknowledged(self.live)
        self.snapshots[name] = Contents(
            at_least=base.union(each.token for each in done if each.ended < began),
            at_most=base.union(each.token for each in done if each.began < ended),
        )

    def restored(self, name: str, oid: int, tokens: Tokens) -> None:
        """Check the rows of a database that a restore made live, and note what it was made from."""
        self.ledger.settle()
        lost = self.ledger.lost()
        assert oid not in self.made_from, "a restore brought a database that was live before"
        own = {each.token for each in self.ledger.acknowledged(oid)}
        base = tokens - own
        known = self.snapshots[name]
        assert not (known.at_least - lost) - base, f"{name} lost rows"
        assert not (base - lost) - known.at_most, f"{name} has rows that were never in it"
        # What no client knows the fate of may have been in the snapshot, or been written since.
        base -= lost
        self.made_from[oid] = base
        self.snapshots[name] = Contents(at_least=base, at_most=base)
        # A live database that nobody wrote is dropped, and the older undo kept.
        if self.ledger.acknowledged(self.live):
            self.replaced.clear()
        self.replaced.add(self.live)
        self.live = oid

    def undone(self, oid: int) -> None:
        """Note that an undo made the database live that the last restore or undo replaced."""
        assert oid in self.replaced, "an undo brought another database than was replaced"
        self.replaced = {self.live}
        self.live = oid

    def check(self, began: float, oid: int, tokens: Tokens) -> None:
        """Check the rows of the live database, as a reader saw them after a moment."""
        ended = time.monotonic()
        self.ledger.settle()
        assert oid == self.live, "another database is live"
        lost = self.ledger.lost()
        base = self.made_from[oid]
        own = self.ledger.acknowledged(oid)
        must = base.union(each.token for each in own if each.ended < began)
        may = base.union((each.token for each in own if each.began < ended), lost)
        assert not must - tokens, f"{len(must - tokens)} committed rows are gone"
        assert not tokens - may, f"{len(tokens - may)} rows are there that no client committed"
        self.checked += 1
        self.rows += len(tokens)
