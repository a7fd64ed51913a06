"""Purging: take away what is ours on the servers, as a whole or one kind of it."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..clones.catalog import Database
from ..clones.for_tests import drop_template, run_lock_key
from ..clones.records import Record, RunRecord, TemplateRecord
from ..clones.spares import cancel_spare, drop_leftovers, drop_unless_in_use
from ..clones.transitions import join_statements, unpublish
from ..errors import MissingRightError
from ..messages import Message, message
from ..postgres.advisory_locks import read_lock_holder, try_acquire_lock
from ..postgres.server import drop_maintenance_database, server_errors
from ..postgres.targets import group_by_server
from ..reporting import Reporter
from .context import (
    EVERYTHING,
    Kind,
    ManagedDatabase,
    ServerContext,
    choose_targets,
    describe_managed,
    find_snapshots,
    find_undos,
    list_published,
    list_test_databases,
    read_contexts,
)
from .manage import check_parts_outside
from .operation import open_operation
from .throwaway import drop_run
from .types import Snapshot, Undo


@server_errors()
def list_managed_databases(
    kinds: Collection[Kind] = EVERYTHING, *, everyone: bool = False
) -> list[ManagedDatabase]:
    """Return which databases of ours there are, or of our role in any project."""
    found: list[ManagedDatabase] = []
    for context in read_contexts("list", choose_targets(None), everyone=everyone):
        found += describe_managed(context, kinds)
    return found


def purge(
    kinds: Collection[Kind] = EVERYTHING,
    *,
    everyone: bool = False,
    shown: Collection[str] | None = None,
    reporter: Reporter | None = None,
) -> list[ManagedDatabase]:
    """Drop all databases of ours that are of these kinds, never a live one, and return which.

    Where somebody was shown what goes, by names, nothing goes that has come since, but leftovers.
    Snapshots and replaced states go as wholes: one that has a part on a server that the settings do
    not name stays, unless everyone's go. The spares of what goes, and leftovers, go in any case.

    1. One transaction per server makes the parts of sets ones that nobody needs; others go by
       themselves. If it stops after this, the next operation drops them.
    2. They are dropped, with the spares of those that are gone.
    3. If everything was to go, the small database that we work from goes, too.
    """
    about = choose_targets(None)
    gone: list[ManagedDatabase] = []
    with open_operation("purge", about, disturbs_live=False, reporter=reporter) as contexts:
        copies = find_snapshots(contexts) if "copy" in kinds and not everyone else []
        undos = find_undos(contexts) if "undo" in kinds and not everyone else []
        sets: list[Snapshot | Undo] = [*copies, *undos]
        kept = {each.set_id for each in sets if _is_new(each, shown) or _must_stay(each, contexts)}
        outside = group_by_server(member for each in sets for member in each.outside)
        for context in (replace(each, everyone=everyone) for each in contexts):
            more = [member.database for member in outside.get(context.server, ())]
            before = describe_managed(context, more=more)
            _purge_server(context, kinds, kept, more, shown)
            left = context.reloaded().catalog.databases
            gone += [each for each in before if each.name not in left]
    if set(kinds) >= EVERYTHING:
        for server in group_by_server(about):
            with server_errors():
                drop_maintenance_database(server)
    return gone


def _purge_server(
    context: ServerContext,
    kinds: Collection[Kind],
    kept: Collection[str],
    outside: Sequence[Database[Record]],
    shown: Collection[str] | None,
) -> None:
    session = context.main
    tests = list_test_databases(context) if "test" in kinds else ()
    meant = [name for name in tests if shown is None or name in shown]
    unused = [name for name in meant if _claim(context, run_lock_key(name), name)]
    ours = list_published(context, unused)
    # Parts outside of the settings are not shown, and go with the others all the same.
    found = [*(each for each in ours if shown is None or each.name in shown), *outside]
    unwanted = [
        each for each in found if each.record.kind in kinds and each.record.set_id not in kept
    ]
    _unpublish(context, [each.record for each in unwanted if not _drop_reusable(context, each)])
    owners = {each.owner for each in unwanted}
    drop_leftovers(session, context.reloaded().leftovers(owners), context.reporter)
    for name in unused:
        drop_unless_in_use(session, name, context.reporter)


def _is_new(whole: Snapshot | Undo, shown: Collection[str] | None) -> bool:
    return shown is not None and not any(each.database.name in shown for each in whole.members)


def _must_stay(whole: Snapshot | Undo, contexts: Sequence[ServerContext]) -> bool:
    """Tell whether a part of it is out of reach, or another role's to drop; if so, say so."""
    why: Message | None = None
    if parts := "; ".join(map(str, whole.unreachable)):
        why = message("a part of it is out of reach of these settings: {parts}", parts=parts)
    try:
        check_parts_outside(contexts, whole)
    except MissingRightError as error:
        why = error.message
    if why is None:
        return False
    is_undo = isinstance(whole, Undo)
    contexts[0].reporter.warn(
        message(
            "Not dropped: {what}. {why}. Purge with settings that name all its databases, or with "
            "--all-projects.",
            what=message(
                "a replaced state" if is_undo else "the snapshot {name!r}", name=whole.name
            ),
            why=why,
        )
    )
    return True


def _claim(context: ServerContext, lock: str, name: str) -> bool:
    if try_acquire_lock(context.main, lock):
        return True
    user = read_lock_holder(context.main, lock) or message("somebody who has just left")
    why = message("Not dropped: {name!r}, which is in use by {user}.", name=name, user=user)
    context.reporter.warn(why)
    return False


def _drop_reusable(context: ServerContext, database: Database[Record]) -> bool:
    """Drop a template or a throwaway clone unless it is in use, and tell whether it was one."""
    record, name = database.record, database.name
    if isinstance(record, RunRecord) and _claim(context, name, name):
        drop_run(context.main, name)
    if isinstance(record, TemplateRecord) and not drop_template(context.main, record):
        why = message("Not dropped: the template {name!r}, which a test run uses.", name=name)
        context.reporter.warn(why)
    return isinstance(record, (RunRecord, TemplateRecord))


def _unpublish(context: ServerContext, parts: Sequence[Record]) -> None:
    """Make parts of sets ones that nobody needs, but for sets that somebody is at work on."""
    session = context.main
    # We hold the locks of our own live databases; those of other projects have to be free.
    others = {record.source for record in parts} - set(context.sources)
    taken = {source for source in others if not try_acquire_lock(session, source)}
    busy = {record.set_id for record in parts if record.source in taken}
    free = [record for record in parts if record.set_id not in busy]
    for record in parts:
        if record in free:
            cancel_spare(context.watcher, record)
        else:
            name = record.database
            why = message("Not dropped: {name!r}, since an operation is at work on it.", name=name)
            context.reporter.warn(why)
    if free:
        session.execute(join_statements(map(unpublish, free)))
