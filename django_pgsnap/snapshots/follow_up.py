"""What an operation sends off when it is done, for the server to finish by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from ..clones.catalog import Catalog, load_catalog
from ..clones.names import spare_name
from ..clones.spares import BackgroundStatements, wants_spare
from ..errors import PgsnapError
from ..postgres.targets import live_database_names
from ..reporting import Reporter
from .context import ServerContext
from .types import CopyMember

# Each each beyond the operation's own sessions takes a connection of the server. What is left
# over the next operation sends off.
_EXTRA_SESSIONS: Final = 4


def start_follow_up(
    context: ServerContext,
    *,
    current: Sequence[CopyMember],
    drops: Sequence[str],
    spare: bool,
    reporter: Reporter,
) -> None:
    """Have spares made of the current copies, and have dropped what nobody needs.

    Leftovers of interrupted operations go along with it. The operation's sessions are used up,
    and with them its locks are given back. The operation itself is done by now, so whatever goes
    wrong here is only reported.

    Args:
        context: The server's part of the operation.
        current: The copies that were taken or restored; of these there shall be spares.
        drops: Databases that the operation has made superfluous.
        spare: Whether this operation is to make spares.
        reporter: Who hears what went wrong.
    """
    try:
        _start_follow_up(context, current if spare else (), drops)
    except (PgsnapError, psycopg.Error) as error:
        reporter.warn(
            "Done, but the server could not be told to make the spare or to drop what is left "
            f"over: {str(error).strip()} The next operation makes up for it."
        )


def _start_follow_up(
    context: ServerContext, current: Sequence[CopyMember], drops: Sequence[str]
) -> None:
    now = load_catalog(context.watcher)
    wanted = [member for member in current if wants_spare(member.record)]
    superfluous = [
        *drops,
        *(_surplus(now, context.sources, wanted) if wanted else ()),
        *(left.name for left in now.leftovers(context.sources, live_database_names())),
    ]
    sessions = [context.watcher, *context.workers.values()]
    most = len(sessions) + _EXTRA_SESSIONS
    background = BackgroundStatements(context.server, sessions)
    for member in wanted:
        if now.spare(member.record.identity) is None:
            background.make_spare(member.database, member.record)
    for name in list(dict.fromkeys(superfluous))[: most - len(wanted)]:
        background.drop(name)
    background.leave()


def _surplus(present: Catalog, sources: Sequence[str], kept: Sequence[CopyMember]) -> list[str]:
    """Return the spares of copies of these live databases other than those kept."""
    needed = {spare_name(member.record.identity) for member in kept}
    # Anyone may call a database like a spare of ours; what the catalog gives is one.
    owned = {
        spare.name
        for copy in present.copies(sources)
        if (record := copy.record) is not None
        and (spare := present.spare(record.identity)) is not None
    }
    return sorted(owned - needed)
