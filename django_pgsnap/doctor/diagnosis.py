"""The doctor: looks at all servers, mends what it safely can, and looks again.

It drops what nobody can need, and nothing else. What may be wrong is with the live databases, with
databases of ours, or with their server.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, get_args

from psycopg import sql

from ..clones.catalog import AnyDatabase
from ..clones.for_tests import find_superfluous_templates, prune_templates
from ..clones.names import spare_name, unfinished_name
from ..clones.records import TemplateRecord
from ..clones.spares import drop_leftovers
from ..clones.strategy import is_wal_log_safe
from ..conf import config
from ..errors import (
    ConfigurationError,
    MissingRightError,
    NotEnabledError,
    PgsnapError,
    ServerUnavailableError,
)
from ..messages import format_size
from ..postgres.data_directory import find_orphans
from ..postgres.inspection import (
    check_collation,
    check_nothing_attached,
    check_privileges,
    measure_databases,
)
from ..postgres.server import Server, server_errors
from ..postgres.targets import Target, group_by_server, list_targets, merge_servers
from ..reporting import Reporter
from ..safety import check_enabled, check_server_allowed
from ..snapshots.context import Kind, ServerContext, describe_managed, find_snapshots
from ..snapshots.operation import open_operation
from .findings import Diagnosis, Finding, Severity, Usage

_LACKING: Final = sql.SQL(
    "SELECT quote_ident(current_user), kind, role FROM"
    " (VALUES ('cannot-end-sessions', 'pg_signal_backend'),"
    " ('cannot-see-sessions', 'pg_read_all_stats')) AS needed (kind, role)"
    " WHERE NOT pg_has_role(role, 'USAGE')"
)
# Roles are referred to from shared objects and from inside databases. Those that nothing but
# our databases refers to could be dropped, were it not for them.
_KEPT_ROLES: Final = sql.SQL(
    "SELECT quote_ident(r.rolname), array_agg(DISTINCT d.datname::text)"
    " FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid"
    " LEFT JOIN pg_database d ON d.oid = CASE WHEN s.dbid <> 0 THEN s.dbid"
    " WHEN s.classid = 'pg_database'::regclass THEN s.objid END"
    " WHERE s.refclassid = 'pg_authid'::regclass GROUP BY r.rolname"
    " HAVING bool_and(coalesce(d.datname = ANY(%s), false)) ORDER BY r.rolname"
)


def diagnose(
    *, databases: Sequence[str] | None = None, fix: bool = False, reporter: Reporter | None = None
) -> Diagnosis:
    """Say what is wrong or in the way, and what to do about it.

    It works where nothing else does: with a live database missing, a server down, privileges
    lacking, or snapshots switched off; those are findings then.

    Args:
        databases: Aliases; None for all that the settings name.
        fix: Whether to drop what interrupted commands left, and old templates of tests, and to
            shut copies that are open. Findings that were mended are marked.
        reporter: Hears what could not be mended.

    Raises:
        ConfigurationError: One of the aliases cannot be used.
    """
    is_named = databases is not None
    try:
        groups = group_by_server(merge_servers(list_targets(databases), are_named=is_named))
    except (ConfigurationError, ServerUnavailableError) as error:
        if is_named:
            raise
        finding = Finding("settings", "error", "DATABASES", error.message, error.hint)
        return Diagnosis(findings=(finding,), usage=())
    before = _examine(groups, everything=not is_named)
    if not fix or not any(finding.fixable for finding in before.findings):
        return before
    _fix_all(groups, reporter or Reporter())
    return _mark_fixed(before, _examine(groups, everything=not is_named))


def _examine(groups: Mapping[Server, Sequence[Target]], *, everything: bool) -> Diagnosis:
    with server_errors(), ExitStack() as stack:
        found: list[Finding] = []
        contexts: list[ServerContext] = []
        for server, group in groups.items():
            try:
                session = stack.enter_context(server.session("doctor"))
            except (MissingRightError, ServerUnavailableError) as error:
                names, where = ", ".join(target.name for target in group), str(server)
                why = error.message, error.hint
                found.append(Finding("unavailable", "error", names, *why, server=where))
            else:
                contexts.append(ServerContext.read(server, session, group))
        found += _find_problems(contexts)
        if everything and len(contexts) == len(groups):
            found += _find_incomplete(contexts)
        return Diagnosis(findings=_sorted(found), usage=_measure_usage(contexts))


def _measure_usage(contexts: Sequence[ServerContext]) -> tuple[Usage, ...]:
    if not contexts:
        return ()
    sizes: dict[str, list[int]] = {kind: [] for kind in ("live", *get_args(Kind))}
    for context in contexts:
        live = measure_databases(context.watcher, context.present)
        sizes["live"] += [live.get(name, 0) for name in context.present]
        for each in describe_managed(context):
            sizes[each.kind].append(each.size_bytes)
    return tuple(
        Usage(kind=kind, databases=len(found), size_bytes=sum(found))
        for kind, found in sizes.items()
    )


def _mark_fixed(before: Diagnosis, after: Diagnosis) -> Diagnosis:
    """Return what is there now, with the earlier findings that are mended."""
    fixed = [
        replace(finding, fixed=True)
        for finding in before.findings
        if finding.fixable and finding not in after.findings
    ]
    return replace(after, findings=_sorted([*fixed, *after.findings]))


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: get_args(Severity).index(each.severity)))


def _fix_all(groups: Mapping[Server, Sequence[Target]], reporter: Reporter) -> None:
    # No other operation is at work on the live databases meanwhile, and each database is dropped
    # only under its own lock: so nobody is making or about to use it.
    for server, group in groups.items():
        try:
            check_enabled(group)
            with open_operation("doctor --fix", group, disturbs_live=False) as (locked,):
                context = ServerContext.read(server, locked.watcher, group)
                drop_leftovers(locked.main, context.leftovers(), reporter)
                for source in context.sources:
                    prune_templates(locked.main, source)
        except (MissingRightError, ServerUnavailableError):
            continue  # which is a finding
        except PgsnapError as error:
            reporter.warn(f"Nothing mended on the server at {server}: {error}")


def _find_problems(contexts: Sequence[ServerContext]) -> Iterator[Finding]:
    for context in contexts:
        for find in (
            *(_switched_off, _missing, _refused, _sessions_of_others),
            *(_leftovers, _superfluous_templates, _abandoned, _open, _untrusted),
            *(_orphans, _upgrade, _kept_roles, _unsafe_wal_log, _too_large_for_spares),
        ):
            for finding in find(context):
                yield replace(finding, server=str(context.server))


def _find_incomplete(contexts: Sequence[ServerContext]) -> Iterator[Finding]:
    remedy = "Restore what is there with --database, or delete the snapshot."
    for each in find_snapshots(contexts):
        if each.completeness == "part lost":
            first, there = each.members[0], ", ".join(each.aliases)
            parts = f"{len(each.members)} of its {first.record.members}"
            cause = f"Only {parts} parts are there: {there}."
            server = str(first.server)
            yield Finding("incomplete", "warning", each.name, cause, remedy, server=server)


# The live databases


def _switched_off(context: ServerContext) -> Iterator[Finding]:
    try:
        check_enabled(context.targets)
        check_server_allowed(context.watcher, context.targets)
    except NotEnabledError as error:
        yield Finding("switched-off", "note", "PGSNAP['ENABLED']", error.message, error.hint)


def _missing(context: ServerContext) -> Iterator[Finding]:
    for target in context.targets:
        name, database = target.name, context.catalog.databases.get(target.name)
        if database is None:
            cause = f"The database of the alias {target.alias!r} does not exist."
            remedy = "Create it (createdb, then manage.py migrate)."
            if any(copy.record.source == name for copy in context.copies()):
                remedy = "Restore a snapshot of it: ./manage.py pgsnap restore."
            yield Finding("live-missing", "error", name, cause, remedy)
        elif not database.is_valid:
            cause = "A DROP DATABASE of it was interrupted, so it cannot be used any more."
            remedy = f"Finish it with DROP DATABASE {_quoted(name)}; then restore a snapshot of it."
            yield Finding("live-half-dropped", "error", name, cause, remedy)


def _refused(context: ServerContext) -> Iterator[Finding]:
    checks = {
        "missing-right": check_privileges,
        "obstacle": check_nothing_attached,
        "collation": check_collation,
    }
    for name in context.present:
        for kind, check in checks.items():
            try:
                check(context.watcher, [name])
            except PgsnapError as error:
                yield Finding(kind, "error", name, error.message, error.hint)


def _sessions_of_others(context: ServerContext) -> Iterator[Finding]:
    causes = {
        "cannot-end-sessions": "It may not end the sessions of other roles, so a take or a "
        "restore fails while another role is connected.",
        "cannot-see-sessions": "It may not see what the sessions of other roles do, so it cannot "
        "tell which of them are idle.",
    }
    for me, kind, role in context.watcher.rows(_LACKING):
        remedy = f"If others use the database too, let a superuser run: GRANT {role} TO {me};"
        yield Finding(kind, "note", me, causes[kind], remedy)


# Databases of ours, or that look like ours


def _leftovers(context: ServerContext) -> Iterator[Finding]:
    remedy = "Nothing: the next take or restore drops it, and doctor --fix does now."
    for database in context.leftovers():
        kind, cause = _describe_leftover(database)
        yield Finding(kind, "warning", database.name, cause, remedy, fixable=True)


def _describe_leftover(database: AnyDatabase) -> tuple[str, str]:
    if not database.is_valid:
        return "half-dropped", "A DROP DATABASE of it was interrupted."
    if database.name.startswith(spare_name("")):
        return "spare-without-copy", "It is the spare of a copy that is gone."
    if isinstance(database.record, TemplateRecord):
        return "template-without-snapshot", (
            f"It is a template for tests, made of the snapshot {database.record.name!r}, which is "
            "deleted. It holds that snapshot's data."
        )
    if database.name.startswith(unfinished_name("")):
        return "unfinished", "It is a clone that an interrupted command never published."
    return "not-dropped", "An operation no longer needs it, and was interrupted before the drop."


def _superfluous_templates(context: ServerContext) -> Iterator[Finding]:
    kind = "superfluous-template"
    remedy = "Nothing: the next test run that migrates drops it, and doctor --fix does now."
    for source in context.sources:
        cause = f"It is a template for tests on {source!r}, and too old or one too many."
        for record in find_superfluous_templates(context.catalog, source):
            yield Finding(kind, "note", record.database, cause, remedy, fixable=True)


def _abandoned(context: ServerContext) -> Iterator[Finding]:
    remedy = (
        "Nothing: the next pgsnap run drops it, and pgsnap purge does now, unless DATABASES names "
        "it."
    )
    for database in context.catalog.runs(context.sources):
        if not database.record.kept and not context.is_locked(database.name):
            cause = f"It is a clone of {database.record.name!r} for a pgsnap run that was killed."
            yield Finding("abandoned-clone", "warning", database.name, cause, remedy)


def _open(context: ServerContext) -> Iterator[Finding]:
    cause = "It is open to clients, who can change what it holds."
    for member in (*context.copies(), *context.undos()):
        name = member.database.name
        if not member.database.is_shut and not context.is_locked(name):
            remedy = f"ALTER DATABASE {_quoted(name)} ALLOW_CONNECTIONS false CONNECTION LIMIT 0;"
            yield Finding("open-copy", "warning", name, cause, remedy, fixable=True)


def _untrusted(context: ServerContext) -> Iterator[Finding]:
    for database in context.catalog.untrusted():
        name, owner = database.name, f"It belongs to the role {database.owner!r}"
        remedy = "Ask that role what it is."
        if context.is_locked(name):
            continue  # an operation of that role makes or drops it
        if context.catalog.is_of_another_project(database, context.sources):
            cause = f"{owner}, and the live database that it says it is of is gone. It is ignored."
            yield Finding("untrusted", "note", name, cause, remedy)
        else:
            cause = (
                f"{owner}, which is neither yours nor the live database's owner, and is called "
                "like one of ours. It is ignored."
            )
            remedy += (
                " If you know it to be what it says, give it to the live database's owner: "
                f"ALTER DATABASE {_quoted(name)} OWNER TO …;"
            )
            yield Finding("untrusted", "warning", name, cause, remedy)


# The server as a whole: what copies stand in the way of, and what a crash left on disk


def _orphans(context: ServerContext) -> Iterator[Finding]:
    orphans = find_orphans(context.watcher)
    if orphans is None:
        cause = "Your role may not look for files that a crashed server left of unfinished copies."
        remedy = "Run doctor as a superuser once after a crash of the server."
        yield Finding("orphaned-files-unknown", "note", "data directory", cause, remedy)
        return
    for orphan in orphans:
        cause = (
            f"It holds {format_size(orphan.size_bytes)} of no database, last changed "
            f"{orphan.modified}: CREATE DATABASE was filling it when the server crashed, or when "
            "it was stopped twice in a row."
        )
        remedy = (
            "SQL cannot remove it. On the server's machine, as the server's user: "
            f"rm -r '{orphan.path}'"
        )
        yield Finding("orphaned-files", "warning", orphan.path, cause, remedy)


def _upgrade(context: ServerContext) -> Iterator[Finding]:
    databases = context.catalog.databases
    if shut := [name for name in _managed(context) if databases[name].is_shut]:
        cause = f"pg_upgrade refuses databases that nobody may connect to: {len(shut)} here."
        remedy = (
            "Before an upgrade run ./manage.py pgsnap purge. Or open them (ALTER DATABASE "
            f"{_quoted(shut[0])} ALLOW_CONNECTIONS true; and so on), and run no pgsnap command "
            "until the upgrade is done: it would shut them again. Afterwards doctor --fix does."
        )
        yield Finding("pg-upgrade", "note", _listed(shut), cause, remedy)


def _kept_roles(context: ServerContext) -> Iterator[Finding]:
    remedy = "Before dropping it, delete those snapshots or take them anew."
    for role, databases in context.watcher.rows(_KEPT_ROLES, [_managed(context)]):
        cause = f"DROP ROLE would fail only for what it has in {_listed(sorted(databases))}."
        yield Finding("kept-role", "note", role, cause, remedy)


def _unsafe_wal_log(context: ServerContext) -> Iterator[Finding]:
    if not is_wal_log_safe(context.watcher):
        server = f"PostgreSQL {context.watcher.server_release}"
        cause = (
            "Its strategy WAL_LOG can corrupt the database that it copies. It is not used here, "
            "but by every other CREATE DATABASE."
        )
        remedy = "Upgrade to the latest minor release."
        yield Finding("wal-log-unsafe", "warning", server, cause, remedy)


def _too_large_for_spares(context: ServerContext) -> Iterator[Finding]:
    limit = config().spare_max_bytes
    largest = max(measure_databases(context.watcher, context.present).values(), default=0)
    if largest > limit:
        cause = (
            f"The largest live database has {format_size(largest)}, above the limit of "
            f"{format_size(limit)}, so restores copy it unless the file system shares blocks."
        )
        remedy = "Raise the limit if the disk has room for one more copy."
        yield Finding("no-spare", "note", "PGSNAP['SPARE_MAX_BYTES']", cause, remedy)


def _managed(context: ServerContext) -> list[str]:
    """Return the names of all shut databases of ours, other projects' too."""
    found = context.catalog
    ours = [*found.copies(), *found.undos(), *found.spares.values(), *found.templates()]
    return sorted({database.name for database in (*ours, *context.leftovers())})


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _listed(databases: list[str]) -> str:
    shown = ", ".join(databases[:3])
    return f"{shown} and {len(databases) - 3} more" if len(databases) > 3 else shown  # noqa: PLR2004
