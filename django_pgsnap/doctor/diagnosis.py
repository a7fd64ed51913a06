"""The doctor: looks at all servers, mends what it safely can, and looks again.

It drops what nobody can need, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from ..clones.spares import drop_leftovers
from ..clones.test_databases import prune_templates
from ..conf import config
from ..errors import (
    ConfigurationError,
    MissingRightError,
    NotEnabledError,
    PgsnapError,
    ServerUnavailableError,
)
from ..postgres.server import Server, server_errors
from ..postgres.targets import Target, group_by_server, list_targets, merge_servers
from ..reporting import Reporter
from ..safety import check_enabled, check_server_allowed
from ..snapshots.operation import open_operation
from .findings import Diagnosis, Finding, Scene, measure_usage
from .live_databases import find_live_problems
from .managed_databases import find_incomplete, find_managed_problems
from .server_health import find_server_problems

_SEVERITIES = ("error", "warning", "note")


def diagnose(
    *,
    databases: Sequence[str] | None = None,
    fix: bool = False,
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Say what is wrong or in the way, and what to do about it.

    It works where nothing else does: with a live database missing, a server down, privileges
    lacking, or snapshots switched off; those are findings then.

    Args:
        databases: Aliases; None for all that the settings name.
        fix: Whether to drop what interrupted commands left, and old templates of tests.
        reporter: Hears what could not be mended.

    Returns:
        The findings; those that were mended are marked.

    Raises:
        ConfigurationError: One of the aliases cannot be used.
    """
    try:
        groups = group_by_server(
            merge_servers(list_targets(databases), are_named=databases is not None)
        )
    except (ConfigurationError, ServerUnavailableError) as error:
        if databases is not None:
            raise
        return Diagnosis(findings=(_of_error("settings", "", "DATABASES", error),), usage=())
    everything = databases is None
    before = _examine(groups, everything=everything)
    if not fix or not any(finding.fixable for finding in before.findings):
        return before
    _fix_all(groups, reporter or Reporter())
    return _mark_fixed(before, _examine(groups, everything=everything))


def fix_findings(server: Server, group: Sequence[Target], reporter: Reporter) -> None:
    """Drop leftovers, half-dropped databases and old templates of one server.

    No other operation is at work on the live databases meanwhile, and each database is dropped
    only under its own lock: so nobody is making or about to use it.

    Raises:
        OperationRunningError: Another operation is at work.
        NotEnabledError: The server is at a public address.
        ServerError: The server refused.
    """
    with open_operation("doctor --fix", group, wait_s=config().wait_s, disturbs_live=False) as (
        context,
    ):
        scene = Scene.read(server, context.watcher, group)
        drop_leftovers(context.main, scene.leftovers(), reporter)
        for source in scene.sources:
            prune_templates(context.main, source)


def _examine(groups: Mapping[Server, Sequence[Target]], *, everything: bool) -> Diagnosis:
    with server_errors(), ExitStack() as stack:
        found: list[Finding] = []
        scenes: list[Scene] = []
        for server, group in groups.items():
            try:
                session = stack.enter_context(server.session("doctor"))
            except (MissingRightError, ServerUnavailableError) as error:
                names = ", ".join(target.name for target in group)
                found.append(_of_error("unavailable", str(server), names, error))
            else:
                scenes.append(Scene.read(server, session, group))
        for scene in scenes:
            found += _find_switched_off(scene)
            found += find_live_problems(scene)
            found += find_managed_problems(scene)
            found += find_server_problems(scene)
        if everything and len(scenes) == len(groups):
            found += find_incomplete(scenes)
        return Diagnosis(findings=_sorted(found), usage=measure_usage(scenes))


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
    for server, group in groups.items():
        try:
            check_enabled(group)
            fix_findings(server, group, reporter)
        except ServerUnavailableError:
            continue  # which is a finding
        except PgsnapError as error:
            reporter.warn(f"Nothing mended on the server at {server}: {error}")


def _find_switched_off(scene: Scene) -> Iterator[Finding]:
    try:
        check_enabled(scene.targets)
        check_server_allowed(scene.watcher, scene.targets)
    except NotEnabledError as error:
        yield scene.finding("switched-off", "note", "PGSNAP['ENABLED']", error.message, error.hint)


def _of_error(kind: str, server: str, object_: str, error: PgsnapError) -> Finding:
    return Finding(
        kind=kind,
        severity="error",
        server=server,
        object=object_,
        cause=error.message,
        remedy=error.hint,
    )
