"""What the doctor mends by itself: it drops what nobody can need, and nothing else.

The diagnosis: all servers are looked at, what can be mended is, and they are looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg

from ..clones.names import spare_name
from ..clones.strategy import drop_database
from ..clones.templates import prune_templates
from ..conf import config
from ..errors import ConfigurationError, NotEnabledError, PgsnapError, ServerUnavailableError
from ..postgres.advisory_locks import try_acquire_lock
from ..postgres.server import Server, server_errors
from ..postgres.targets import Target, group_by_server, list_targets
from ..reporting import Reporter
from ..safety import check_enabled, check_server_address
from ..snapshots.context import open_operation
from .findings import Diagnosis, Finding, Scene, Usage, measure_usage
from .live_databases import find_live_problems
from .managed_databases import find_incomplete, find_managed_problems, needed_spares, surplus_spares
from .server_health import find_server_problems


def fix_findings(
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
    with open_operation("doctor --fix", group, wait_s=config().wait_s, disturbs_live=False) as (
        site,
    ):
        scene = Scene.look(server, site.watcher, group)
        doomed = [
            *(database.name for database in scene.leftovers()),
            *(spare_name(member.record.identity) for member in surplus_spares(scene, needed)),
        ]
        for name in doomed:
            if not try_acquire_lock(site.main, name):
                continue
            try:
                site.main.execute(drop_database(name))
            except psycopg.errors.ObjectInUse as error:
                reporter.warn(f"Not dropped: {name!r}, since {error.diag.message_detail}.")
        for source in scene.sources:
            prune_templates(site.main, source)


_SEVERITIES = ("error", "warning", "note")


def diagnose(
    *,
    databases: Sequence[str] | None = None,
    fix: bool = False,
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Say what is wrong or in the way, and what to do about it.

    It works where nothing else does: with a live database missing, a server down, rights lacking,
    or snapshots switched off; those are findings then.

    Args:
        databases: Aliases; None for all that the settings name.
        fix: Whether to drop what interrupted commands left, and surplus spares.
        reporter: Who hears what could not be mended.

    Returns:
        The findings; those that were mended are marked.

    Raises:
        ConfigurationError: One of the aliases cannot be used.
    """
    reporter = reporter or Reporter()
    try:
        groups = group_by_server(list_targets(databases))
    except ConfigurationError as error:
        if databases is not None:
            raise
        return Diagnosis(findings=(_of_error("settings", "", "DATABASES", error),), usage=())
    everything = databases is None
    before = _look(groups, everything=everything)
    if not fix or not any(finding.fixable for finding in before.findings):
        return before.diagnosis()
    _fix(groups, before.needed, reporter)
    return _look(groups, everything=everything).diagnosis(earlier=before.findings)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a look at all servers showed."""

    findings: tuple[Finding, ...]
    usage: tuple[Usage, ...]
    needed: frozenset[str]

    def diagnosis(self, earlier: Sequence[Finding] = ()) -> Diagnosis:
        """Return the findings by severity, and those of earlier that are mended by now."""
        left = {(finding.kind, finding.object) for finding in self.findings}
        mended = [
            replace(finding, fixed=True)
            for finding in earlier
            if finding.fixable and (finding.kind, finding.object) not in left
        ]
        ordered = sorted(
            [*mended, *self.findings], key=lambda each: _SEVERITIES.index(each.severity)
        )
        return Diagnosis(findings=tuple(ordered), usage=self.usage)


def _look(groups: Mapping[Server, Sequence[Target]], *, everything: bool) -> _Look:
    with server_errors(), ExitStack() as stack:
        found: list[Finding] = []
        scenes: list[Scene] = []
        for server, group in groups.items():
            try:
                session = stack.enter_context(server.session("doctor"))
            except ServerUnavailableError as error:
                found.append(_of_error("unavailable", str(server), _names(group), error))
            else:
                scenes.append(Scene.look(server, session, group))
        copies = [member for scene in scenes for member in scene.copies()]
        undos = [member for scene in scenes for member in scene.undos()]
        needed = needed_spares(copies, undos)
        for scene in scenes:
            found += [
                *_guard(scene),
                *find_live_problems(scene),
                *find_managed_problems(scene, needed),
            ]
            found += find_server_problems(scene)
        if everything and len(scenes) == len(groups):
            found += find_incomplete(scenes)
        return _Look(findings=tuple(found), usage=measure_usage(scenes), needed=needed)


def _fix(
    groups: Mapping[Server, Sequence[Target]], needed: frozenset[str], reporter: Reporter
) -> None:
    for server, group in groups.items():
        try:
            check_enabled(group)
            fix_findings(server, group, needed, reporter)
        except ServerUnavailableError:
            continue  # which is a finding
        except PgsnapError as error:
            reporter.warn(f"Nothing mended on the server at {server}: {error}")


def _guard(scene: Scene) -> Iterator[Finding]:
    try:
        check_enabled(scene.targets)
        check_server_address(scene.session, scene.targets)
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


def _names(group: Sequence[Target]) -> str:
    return ", ".join(target.name for target in group)
