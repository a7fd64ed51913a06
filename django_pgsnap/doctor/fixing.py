"""What the doctor mends by itself: it drops what nobody can need, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from .. import cloning, locks, names
from ..conf import config
from ..report import Reporter
from ..server import Server
from ..snapshots import operation
from ..targets import Target
from ..testbed import templates
from . import ours
from .scene import Scene


def fix(
    server: Server, group: Sequence[Target], needed: frozenset[str], reporter: Reporter
) -> None:
    """Drop leftovers, half-dropped databases, surplus spares and old templates of one server.

    No other operation is at work on the live databases meanwhile, and each database is dropped
    only under its own lock: so nobody is making or about to use it.

    Raises:
        OperationRunningError: Another operation is at work.
        NotEnabledError: The server is at a public address.
        ServerError: The server refused.
    """
    with operation.operation(
        "doctor --fix", group, wait_s=config().wait_s, disturbs_live=False
    ) as (site,):
        scene = Scene.look(server, site.watcher, group)
        doomed = [
            *(database.name for database in scene.leftovers()),
            *(
                names.spare_name(member.record.identity)
                for member in ours.surplus_spares(scene, needed)
            ),
        ]
        for name in doomed:
            if not locks.try_acquire(site.main, name):
                continue
            try:
                site.main.execute(cloning.drop(name))
            except psycopg.errors.ObjectInUse as error:
                reporter.warn(f"Not dropped: {name!r}, since {error.diag.message_detail}.")
        for source in scene.sources:
            templates.prune(site.main, source)
