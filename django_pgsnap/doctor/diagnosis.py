"""The diagnosis: all servers are looked at, what can be mended is, and they are looked at again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from .. import guard, targets
from ..errors import ConfigurationError, NotEnabledError, PgsnapError, ServerUnavailableError
from ..report import Reporter
from ..server import Server
from ..snapshots.operation import server_errors
from ..targets import Target
from . import cluster, live, ours
from .finding import Diagnosis, Finding, Usage
from .fixing import fix as fix_server
from .scene import Scene
from .usage import usage

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
        groups = targets.by_server(targets.targets(databases))
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
        needed = ours.needed_spares(copies, undos)
        for scene in scenes:
            found += [*_guard(scene), *live.findings(scene), *ours.findings(scene, needed)]
            found += cluster.findings(scene)
        if everything and len(scenes) == len(groups):
            found += ours.incomplete(scenes)
        return _Look(findings=tuple(found), usage=usage(scenes), needed=needed)


def _fix(
    groups: Mapping[Server, Sequence[Target]], needed: frozenset[str], reporter: Reporter
) -> None:
    for server, group in groups.items():
        try:
            guard.check_settings(group)
            fix_server(server, group, needed, reporter)
        except ServerUnavailableError:
            continue  # which is a finding
        except PgsnapError as error:
            reporter.warn(f"Nothing mended on the server at {server}: {error}")


def _guard(scene: Scene) -> Iterator[Finding]:
    try:
        guard.check_settings(scene.targets)
        guard.check_address(scene.session, scene.targets)
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
