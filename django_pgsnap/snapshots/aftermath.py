"""What an operation sends off when it is done, for the server to finish by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from .. import catalog, names, spares, targets
from ..catalog import Catalog
from ..errors import PgsnapError
from ..report import Reporter
from ..spares import Errands
from .model import Member
from .site import Site

# Each errand beyond the operation's own sessions takes a connection of the server. What is left
# over the next operation sends off.
_EXTRA_ERRANDS: Final = 4


def send_off(
    site: Site,
    *,
    current: Sequence[Member],
    drops: Sequence[str],
    spare: bool,
    reporter: Reporter,
) -> None:
    """Have spares made of the current copies, and have dropped what nobody needs.

    Leftovers of interrupted operations go along with it. The operation's sessions are used up,
    and with them its locks are given back. The operation itself is done by now, so whatever goes
    wrong here is only reported.

    Args:
        site: The server's part of the operation.
        current: The copies that were taken or restored; of these there shall be spares.
        drops: Databases that the operation has made superfluous.
        spare: Whether this operation is to make spares.
        reporter: Who hears what went wrong.
    """
    try:
        _send_off(site, current if spare else (), drops)
    except (PgsnapError, psycopg.Error) as error:
        reporter.warn(
            "Done, but the server could not be told to make the spare or to drop what is left "
            f"over: {str(error).strip()} The next operation makes up for it."
        )


def _send_off(site: Site, current: Sequence[Member], drops: Sequence[str]) -> None:
    now = catalog.load(site.watcher)
    wanted = [member for member in current if spares.is_wanted(member.record)]
    superfluous = [
        *drops,
        *(_surplus(now, site.sources, wanted) if wanted else ()),
        *(left.name for left in now.leftovers(site.sources, targets.live_names())),
    ]
    sessions = [site.watcher, *site.workers.values()]
    most = len(sessions) + _EXTRA_ERRANDS
    errands = Errands(site.server, sessions)
    for member in wanted:
        if now.spare(member.record.identity) is None:
            errands.make_spare(member.database, member.record)
    for name in list(dict.fromkeys(superfluous))[: most - len(wanted)]:
        errands.drop(name)
    errands.leave()


def _surplus(present: Catalog, sources: Sequence[str], kept: Sequence[Member]) -> list[str]:
    """Return the spares of copies of these live databases other than those kept."""
    needed = {names.spare_name(member.record.identity) for member in kept}
    # Anyone may call a database like a spare of ours; what the catalog gives is one.
    owned = {
        spare.name
        for copy in present.copies(sources)
        if (record := copy.record) is not None
        and (spare := present.spare(record.identity)) is not None
    }
    return sorted(owned - needed)
