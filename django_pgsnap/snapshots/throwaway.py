"""Throwaway clones: a command works on a clone of a snapshot, and the live databases stay alone.

The clones are open, since a command comes by connections of its own. So one is known by its record,
and is in use as long as somebody holds the lock of its name. Whoever makes clones drops those that
nobody uses any more.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import django
import psycopg
from psycopg import sql

from ..clones.catalog import load_catalog
from ..clones.copying import copy_databases
from ..clones.names import new_identity
from ..clones.records import Record, RunRecord, encode_record
from ..clones.transitions import CopyJob, open_database
from ..postgres.advisory_locks import acquire_lock, release_lock, try_acquire_lock
from ..postgres.properties import apply_properties, read_properties
from ..postgres.server import Server, server_errors
from ..postgres.session import Session
from ..postgres.targets import aliases_sharing_database, live_database_names, meet_servers
from ..reporting import Reporter
from .context import ServerContext, choose_targets
from .operation import open_operation
from .queries import check_counted, find_snapshot_in
from .replace_live import match_with_live
from .restore import check_complete, plan_clone


@contextmanager
def open_throwaway(
    name: str | None,
    *,
    databases: Sequence[str] | None = None,
    keep: bool = False,
    reporter: Reporter | None = None,
) -> Iterator[dict[str, str]]:
    """Yield the names of clones of a snapshot's copies by alias; they are dropped unless kept.

    Every alias of a live database leads to its clone, also one that was not asked for.

    1. The copies are cloned, under names that say "unfinished". If it stops here, the next
       operation drops the clones.
    2. They get their names, and are opened. If it stops here, the next throwaway does.
    3. Whatever the caller did, they are dropped, with the sessions that are left on them.
    """
    about = choose_targets(databases)
    with server_errors(), ExitStack() as stack:
        holders: dict[Server, Session] = {}
        found: dict[str, str] = {}
        with open_operation(
            f"run {name or ''}", about, disturbs_live=False, reporter=reporter
        ) as contexts:
            snapshot = find_snapshot_in(contexts, name)
            check_counted(contexts, snapshot.outside)
            check_complete(snapshot, databases, "run")
            for context in contexts:
                holders[context.server] = stack.enter_context(context.server.session("run"))
                drop_abandoned_runs(holders[context.server])
            matched = match_with_live(contexts, snapshot.members)
            # Only its owner can drop a clone, or a superuser.
            me = sql.SQL("SELECT current_user")
            jobs = [
                plan_clone(each.context, each.member, owner=str(each.context.watcher.value(me)))
                for each in matched
            ]
            copy_databases(jobs, contexts[0].reporter, step=f"Cloning {snapshot.name}")
            for each, job in zip(matched, jobs, strict=True):
                session, alias = holders[each.server], each.target.alias
                found[alias] = _open(session, each.context, each.member.record, job, keep=keep)
                if not keep:
                    stack.callback(drop_run, session, found[alias])
        meet_servers({target.name for target in about})
        for alias, clone in list(found.items()):
            found |= dict.fromkeys(aliases_sharing_database([alias]), clone)
        yield found


def _open(
    session: Session, context: ServerContext, copy: Record, job: CopyJob, *, keep: bool
) -> str:
    unfinished, watcher = job.clone.name, context.watcher
    record = RunRecord(
        identity=new_identity(),
        set_id=new_identity(),
        members=1,
        name=copy.name,
        alias=copy.alias,
        source=copy.source,
        taken_at=context.read_clock(),
        size_bytes=copy.size_bytes,
        django=django.get_version(),
        postgresql=watcher.server_release,
        kept=keep,
    )
    name = record.database
    acquire_lock(session, name, context.wait_s)
    wanted, present = read_properties(watcher, job.clone.source, unfinished)
    wanted = replace(wanted, owner=present.owner)
    for each in apply_properties(watcher, wanted, present, unfinished, final_name=name):
        context.reporter.note(each)
    session.execute(open_database(unfinished, name, encode_record(record)))
    release_lock(context.workers[copy.source], unfinished)
    return name


def drop_abandoned_runs(session: Session) -> None:
    """Drop the clones whose command is gone, however it went, unless they shall stay."""
    spared = live_database_names()
    for database in load_catalog(session).runs():
        name, kept = database.name, database.record.kept
        if not kept and name not in spared and try_acquire_lock(session, name):
            drop_run(session, name)


def drop_run(session: Session, name: str) -> None:
    """Drop a clone whose lock is held, with the sessions that are left on it."""
    if session.broken:
        return  # the next run drops it
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    try:
        session.execute(drop.format(sql.Identifier(name)))
    except psycopg.errors.InsufficientPrivilege:
        # Somebody whom we may not end is on it; when they have left, the next run drops it.
        return
    release_lock(session, name)
