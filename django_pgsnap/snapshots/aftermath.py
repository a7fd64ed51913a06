"""What an operation sends off when it is done, for the server to finish by itself."""

from __future__ import annotations

from collections.abc import Sequence

from .. import catalog, names, spares, targets
from ..catalog import Catalog
from ..spares import Errands
from .model import Member
from .operation import Site


def send_off(site: Site, *, current: Sequence[Member], drops: Sequence[str], spare: bool) -> None:
    """Have spares made of the current copies, and have dropped what nobody needs.

    Leftovers of interrupted operations go along with it. The operation's sessions are used up,
    and with them its locks are given back.

    Args:
        site: The server's part of the operation.
        current: The copies that were taken or restored; of these there shall be spares.
        drops: Databases that the operation has made superfluous.
        spare: Whether this operation is to make spares.
    """
    now = catalog.load(site.watcher)
    wanted = [member for member in current if spare and spares.is_wanted(member.record)]
    superfluous = [
        *drops,
        *(_surplus(now, site.sources, wanted) if wanted else ()),
        *(left.name for left in now.leftovers(site.sources, targets.live_names())),
    ]
    errands = Errands(site.server, [site.watcher, *site.workers.values()])
    for member in wanted:
        if now.spare(member.record.identity) is None:
            errands.make_spare(member.database, member.record)
    for name in dict.fromkeys(superfluous):
        errands.drop(name)
    errands.close()


def _surplus(present: Catalog, sources: Sequence[str], kept: Sequence[Member]) -> list[str]:
    """Return the spares of copies of these live databases other than those kept."""
    needed = {names.spare_name(member.record.identity) for member in kept}
    owned = {
        names.spare_name(record.identity)
        for copy in present.copies(sources)
        if (record := copy.record) is not None
    }
    return sorted(name for name in owned - needed if name in present)
