"""Which templates of test databases are kept, and how the others are dropped."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg

from ..conf import test_config
from ..postgres.advisory_locks import release_lock, try_acquire_lock
from ..postgres.session import Session
from .catalog import Catalog, load_catalog
from .names import to_drop_name
from .records import TemplateRecord
from .strategy import drop_database
from .transitions import unpublish


def prune_templates(session: Session, source: str) -> list[str]:
    """Drop the templates of a live database that are too old, or more than shall be kept."""
    unwanted = find_superfluous_templates(load_catalog(session), source)
    return [record.database for record in unwanted if drop_template(session, record)]


def find_superfluous_templates(present: Catalog, source: str) -> list[TemplateRecord]:
    """Return the templates of a live database that are too old, or more than shall be kept."""
    found = sorted(list_templates(present, source), key=lambda record: record.used_at, reverse=True)
    kept: Counter[str] = Counter()
    unwanted = []
    for record in found:
        # Those made of a development snapshot have its name, and count by themselves.
        kept[record.name] += 1
        if kept[record.name] > test_config().keep or not is_fresh_template(record):
            unwanted.append(record)
    return unwanted


def drop_template(session: Session, record: TemplateRecord) -> bool:
    """Drop a template unless a run uses it, and tell whether it is gone."""
    name = record.database
    if not try_acquire_lock(session, name):
        return False
    try:
        session.execute(unpublish(record))
        session.execute(drop_database(to_drop_name(record.identity)))
    except (psycopg.errors.InvalidCatalogName, psycopg.errors.ObjectInUse):
        return False  # another run was quicker, or clones it at this moment
    finally:
        release_lock(session, name)
    return True


def list_templates(present: Catalog, source: str) -> list[TemplateRecord]:
    """Return what is known of the templates of a live database."""
    return [database.record for database in present.templates([source])]


def is_fresh_template(record: TemplateRecord) -> bool:
    """Tell whether a template is young enough to be used."""
    age = datetime.now(UTC) - record.taken_at
    return timedelta() <= age <= timedelta(seconds=test_config().max_age_s)
