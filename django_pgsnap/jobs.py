"""A clone to make, and with what: the sessions and the manners that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from .cloning import Clone
from .eviction import Evictor
from .server import Server
from .session import Session


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clone to make.

    Attributes:
        clone: What to make from what.
        size_bytes: How large the source is.
        session: The session that makes it, and holds the lock of its name.
        watcher: Another session on the same server, to look at it meanwhile.
        server: That server.
        evictor: Keeps the source empty; None where the source is shut anyway.
    """

    clone: Clone
    size_bytes: int
    session: Session
    watcher: Session
    server: Server
    evictor: Evictor | None
