"""The spare of a template: a clone that stands ready, so that the next run only has to rename it.

The server makes it by itself when a run is over. Its name has the identity that the template was
published with, so that the spare of an earlier template is nobody's, and swept.
"""

from __future__ import annotations

from .. import catalog, locks, names
from ..catalog import Database
from ..metadata import Record
from ..server import Server
from ..session import Session
from ..spares import is_wanted
from . import clones


def take(session: Session, template: Record) -> str | None:
    """Return the name of a template's spare, whose lock we hold then, None if there is none.

    One that is being made is waited for, which is never slower than cloning afresh.
    """
    name = names.spare_name(template.set_id)
    locks.wait_for(session, name)
    spare = catalog.load(session).get(name)
    if spare is not None and spare.trusted and spare.is_valid and spare.is_shut:
        return name
    locks.release(session, name)
    return None


def order(server: Server, template: str) -> None:
    """Have the server make the spare of a template by itself, unless it is there or on its way."""
    with server.session("clearing up") as session:
        present = catalog.load(session)
        found = _record(present.get(template))
        if found is None or not is_wanted(found):
            return
        name = names.spare_name(found.set_id)
        if name not in present and locks.try_acquire(session, name):
            clone = clones.plan(session, template, name)
            session.fire(clone.statement)


def _record(found: Database | None) -> Record | None:
    return found.record if found is not None and found.trusted else None
