"""The live databases: whether they are there, and whether one may copy and replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from psycopg import sql

from ..errors import PgsnapError
from ..postgres.inspection import check_collation, check_nothing_attached, check_privileges
from .findings import Finding, Scene


def find_live_problems(scene: Scene) -> Iterator[Finding]:
    """Say what stands in the way of taking and restoring."""
    yield from _missing(scene)
    yield from _half_dropped(scene)
    for name in scene.present:
        for kind, check in _CHECKS.items():
            yield from _refusal(scene, kind, name, check)
    yield from _sessions_of_others(scene)


def _missing(scene: Scene) -> Iterator[Finding]:
    for target in scene.targets:
        if target.name not in scene.catalog.databases:
            known = any(copy.record.source == target.name for copy in scene.copies())
            yield scene.finding(
                "live-missing",
                "error",
                target.name,
                f"The database of the alias {target.alias!r} does not exist.",
                "Restore a snapshot of it: ./manage.py pgsnap restore."
                if known
                else "Create it (createdb, then manage.py migrate).",
            )


def _half_dropped(scene: Scene) -> Iterator[Finding]:
    for name in scene.present:
        if not scene.catalog.databases[name].is_valid:
            quoted = sql.Identifier(name).as_string(None)
            yield scene.finding(
                "live-half-dropped",
                "error",
                name,
                "A DROP DATABASE of it was interrupted, so it cannot be used any more.",
                f"Finish it with DROP DATABASE {quoted}; then restore a snapshot of it.",
            )


def _refusal(
    scene: Scene, kind: str, name: str, check: Callable[[Scene, str], None]
) -> Iterator[Finding]:
    try:
        check(scene, name)
    except PgsnapError as error:
        yield scene.finding(kind, "error", name, error.message, error.hint)


_CHECKS: dict[str, Callable[[Scene, str], None]] = {
    "missing-right": lambda scene, name: check_privileges(scene.watcher, [name]),
    "obstacle": lambda scene, name: check_nothing_attached(scene.watcher, [name]),
    "collation": lambda scene, name: check_collation(scene.watcher, name),
}

_LACKING_PRIVILEGES = sql.SQL(
    "SELECT quote_ident(current_user), kind, role FROM pg_roles,"
    " (VALUES ('cannot-end-sessions', 'pg_signal_backend'),"
    " ('cannot-see-sessions', 'pg_read_all_stats')) AS needed(kind, role)"
    " WHERE rolname = current_user AND NOT rolsuper AND NOT pg_has_role(role, 'USAGE')"
)


def _sessions_of_others(scene: Scene) -> Iterator[Finding]:
    lacking = {
        "cannot-end-sessions": "It may not end the sessions of other roles, so a take or a "
        "restore fails while another role is connected.",
        "cannot-see-sessions": "It may not see what the sessions of other roles do, so it cannot "
        "tell which of them are idle.",
    }
    for me, kind, role in scene.watcher.rows(_LACKING_PRIVILEGES):
        remedy = f"If others use the database too, let a superuser run: GRANT {role} TO {me};"
        yield scene.finding(kind, "note", me, lacking[kind], remedy)
