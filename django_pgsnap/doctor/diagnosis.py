"""The doctor: looks at all servers, mends what it safely can, and looks again.

It drops what nobody can need, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from ..clones.spares import drop_leftovers
from ..clones.test_databases import prune_templates
from ..conf import config
from ..errors import ConfigurationError, MissingRightError, PgsnapError, ServerUnavailableError
from ..postgres.inspection import measure_databases
from ..postgres.server import Server, server_errors
from ..postgres.targets import Target, group_by_server, list_targets, merge_servers
from ..reporting import Reporter
from ..safety import check_enabled
from ..snapshots.context import Kind, ServerContext, describe_managed
from ..snapshots.operation import open_operation
from .findings import Diagnosis, Finding, Usage
from .problems import find_incomplete, find_problems

_SEVERITIES = ("error", "warning", "note")
_USAGE: Final[dict[Kind, str]] = {
    "copy": "copies",
    "spare": "spares",
    "undo": "undos",
    "template": "templates",
    "run": "runs",
    "test": "tests",
    "leftover": "leftovers",
}


def diagnose(
    *, databases: Sequence[str] | None = None, fix: bool = False, reporter: Reporter | None = None
) -> Diagnosis:
    """Say what is wrong or in the way, and what to do about it.

    It works where nothing else does: with a live database missing, a server down, privileges
    lacking, or snapshots switched off; those are findings then.

    Args:
        databases: Aliases; None for all that the settings name.
        fix: Whether to drop what interrupted commands left, and old templates of tests. Findings
            that were mended are marked.
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
        found += find_problems(contexts)
        if everything and len(contexts) == len(groups):
            found += find_incomplete(contexts)
        return Diagnosis(findings=_sorted(found), usage=_measure_usage(contexts))


def _measure_usage(contexts: Sequence[ServerContext]) -> tuple[Usage, ...]:
    if not contexts:
        return ()
    sizes: dict[str, list[int]] = {"live": [], **{name: [] for name in _USAGE.values()}}
    for context in contexts:
        live = measure_databases(context.watcher, context.present)
        sizes["live"] += [live.get(name, 0) for name in context.present]
        for each in describe_managed(context):
            sizes[_USAGE[each.kind]].append(each.size_bytes)
    return tuple(
        Usage(kind=kind, databases=len(found), size_bytes=sum(found))
        for kind, found in sizes.items()
    )


def _mark_fixed(before: Diagnosis, after: Diagnosis) -> Diagnosis:
    """Return what is there now, with the earlier findings that are mended."""
    left = {(finding.kind, finding.object) for finding in after.findings}
    fixed = [
        replace(finding, fixed=True)
        for finding in before.findings
        if finding.fixable and (finding.kind, finding.object) not in left
    ]
    return replace(after, findings=_sorted([*fixed, *after.findings]))


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: _SEVERITIES.index(each.severity)))


def _fix_all(groups: Mapping[Server, Sequence[Target]], reporter: Reporter) -> None:
    # No other operation is at work on the live databases meanwhile, and each database is dropped
    # only under its own lock: so nobody is making or about to use it.
    begin = partial(open_operation, wait_s=config().wait_s, disturbs_live=False)
    for server, group in groups.items():
        try:
            check_enabled(group)
            with begin("doctor --fix", group) as (locked,):
                context = ServerContext.read(server, locked.watcher, group)
                drop_leftovers(locked.main, context.leftovers(), reporter)
                for source in context.sources:
                    prune_templates(locked.main, source)
        except ServerUnavailableError:
            continue  # which is a finding
        except PgsnapError as error:
            reporter.warn(f"Nothing mended on the server at {server}: {error}")
