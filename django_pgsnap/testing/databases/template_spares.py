"""The spare of a template: a clone that stands ready, so that the next run only has to rename it.

The server makes it by itself when a run is over. Its name has the identity that the template was
published with, so that the spare of an earlier template is nobody's, and swept.
"""

from __future__ import annotations

from ...clones.background import BackgroundStatements
from ...clones.catalog import AnyDatabase, load_catalog
from ...clones.names import spare_name
from ...clones.records import TemplateRecord
from ...clones.spares import wants_spare
from ...conf import config
from ...postgres.advisory_locks import release_lock, wait_for_lock
from ...postgres.server import Server
from ...postgres.session import Session
from . import clones


def obtain_template_spare(session: Session, template: TemplateRecord) -> str | None:
    """Return the name of a template's spare, whose lock we hold then, None if there is none.

    One that is being made is waited for, which is never slower than cloning afresh.
    """
    name = spare_name(template.set_id)
    if not wait_for_lock(session, name, config().wait_s):
        return None
    spare = load_catalog(session).databases.get(name)
    if spare is not None and spare.trusted and spare.is_valid and spare.is_shut:
        return name
    release_lock(session, name)
    return None


def order_template_spare(server: Server, template: str) -> None:
    """Have the server make the spare of a template by itself, unless it is there or on its way.

    Only the template that a run used last has a spare; those of others are dropped.
    """
    with server.session("clearing up") as session:
        present = load_catalog(session)
        found = _record(present.databases.get(template))
        if found is None or not wants_spare(found):
            return
        name = spare_name(found.set_id)
        statements = BackgroundStatements(server, [session])
        for other in present.templates([found.source]):
            spare = spare_name(other.record.set_id)
            if spare != name and spare in present.databases:
                statements.drop(spare)
        if name not in present.databases:
            statements.make(clones.plan_clone(session, template, name))
        statements.send_all()


def _record(found: AnyDatabase | None) -> TemplateRecord | None:
    record = found.record if found is not None and found.trusted else None
    return record if isinstance(record, TemplateRecord) else None
