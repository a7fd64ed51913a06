"""What every operation begins and ends with: sessions, locks, and a look at the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .. import catalog, guard, locks, reconnect, targets
from ..errors import (
    ConfigurationError,
    DatabaseBusyError,
    ObstacleError,
    ServerError,
)
from ..eviction import Evictor
from ..report import Reporter
from ..server import Server
from ..session import Session
from ..supervise import begin
from ..targets import Target
from .site import Site


def chosen(aliases: Sequence[str] | None) -> list[Target]:
    """Return the targets of an operation, if it is allowed here at all.

    Raises:
        ConfigurationError: An alias cannot be used.
        NotEnabledError: The settings switch snapshots off.
    """
    found = targets.targets(aliases)
    if aliases is None:
        found = guard.of_tests(found)
    guard.check_settings(found)
    return found


@contextmanager
def operation(
    purpose: str,
    about: Sequence[Target],
    *,
    wait_s: float,
    disturbs_live: bool = True,
    reporter: Reporter | None = None,
) -> Iterator[list[Site]]:
    """Hold the locks of live databases, and what the work on them needs.

    All sessions are opened before anything is locked: clients that have to wait later on would
    fill the server's connection slots. Locks are taken in the order of names, so that two
    operations never wait for each other.

    Args:
        purpose: What others are told that it is about.
        about: The live databases.
        wait_s: How long to wait for another operation, in seconds.
        disturbs_live: Whether sessions on the live databases will be ended, Django's own too.
        reporter: Who hears for which other operation it waits.

    Raises:
        InsideTransactionError: It disturbs, and this thread is inside ``transaction.atomic``.
        NotEnabledError: A server is at a public address.
        OperationRunningError: Another operation is at work on one of the databases.
        ServerUnavailableError: A server cannot be reached.
    """
    with server_errors(), ExitStack() as stack:
        if disturbs_live:
            aliases = reconnect.aliases_of(target.alias for target in about)
            reconnect.check_not_in_atomic(aliases)
            reconnect.let_go(aliases)
            stack.callback(reconnect.mend_pools, aliases)
        opened = [
            _open(stack, purpose, server, group, wait_s)
            for server, group in targets.by_server(about).items()
        ]
        _lock(opened, wait_s, reporter)
        with _lock_errors(opened):
            sites = [sessions.site() for sessions in opened]
            for site in sites:
                _check_ours(site)
            yield sites


@contextmanager
def look(purpose: str, server: Server, group: Sequence[Target]) -> Iterator[Session]:
    """Yield a session to look at some live databases on a server, without their locks.

    Raises:
        NotEnabledError: The server is at a public address.
        ServerUnavailableError: It cannot be reached.
    """
    with server_errors(), server.session(purpose) as session:
        guard.check_address(session, group)
        yield session


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The sessions of an operation on one server."""

    server: Server
    targets: tuple[Target, ...]
    watcher: Session
    workers: dict[str, Session]

    def lock_holders(self) -> list[locks.Holder]:
        """Return who else holds locks on our databases' catalog entries."""
        ours = [worker.pid for worker in self.workers.values()]
        present = catalog.load(self.watcher)
        names = [target.name for target in self.targets]
        databases = [each.name for each in (*present.copies(names), *present.undos(names))]
        return locks.catalog_holders(self.watcher, [*names, *databases], ours)

    def site(self) -> Site:
        return Site(
            server=self.server,
            targets=self.targets,
            watcher=self.watcher,
            workers=self.workers,
            catalog=catalog.load(self.watcher),
        )


def _open(
    stack: ExitStack, purpose: str, server: Server, group: Sequence[Target], wait_s: float
) -> _Opened:
    """Open the sessions on one server at the same time; that is much of what a restore takes."""

    def session() -> Session:
        return server.session(purpose, lock_timeout_s=wait_s)

    others = [begin(session) for _ in group]
    for each in others:
        stack.callback(each.add_done_callback, _close)
    watcher = stack.enter_context(session())
    guard.check_address(watcher, group)
    workers = {target.alias: each.result() for target, each in zip(group, others, strict=True)}
    return _Opened(server=server, targets=tuple(group), watcher=watcher, workers=workers)


def _close(opening: Future[Session]) -> None:
    if not opening.exception():
        opening.result().close()


def _lock(opened: Sequence[_Opened], wait_s: float, reporter: Reporter | None) -> None:
    wanted = [
        (target.name, str(sessions.server), sessions.workers[target.alias])
        for sessions in opened
        for target in sessions.targets
    ]
    for name, _, worker in sorted(wanted, key=lambda each: each[:2]):
        locks.acquire(worker, name, wait_s, reporter)


@contextmanager
def _lock_errors(opened: Sequence[_Opened]) -> Iterator[None]:
    """Name who holds what we waited for in vain."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, locks.HeldTooLongError) as error:
        holders = "".join(f"\n  {holder}" for each in opened for holder in each.lock_holders())
        raise DatabaseBusyError(
            "Another session is copying one of the databases, or has not committed an ALTER "
            f"DATABASE, COMMENT or GRANT of it:{holders or ' it has just ended.'}",
            hint="Commit or end it (SELECT pg_terminate_backend(pid)), or wait longer with --wait.",
        ) from error


def _check_ours(site: Site) -> None:
    """Refuse where it is not clear which databases are ours to rename and drop.

    Raises:
        ConfigurationError: ``DATABASES`` names a copy, a spare or an undo.
        ObstacleError: The live database is gone, and several roles claim to have copies of it.
    """
    present = site.catalog
    named = targets.live_names()
    for database in (
        *present.copies(site.sources),
        *present.undos(site.sources),
        *present.spares(),
    ):
        if database.name in named:
            raise ConfigurationError(
                f"DATABASES names {database.name!r}, which holds a snapshot, a spare or an undo.",
                hint="Take that alias out: snapshots are there to be renamed and dropped.",
            )
    for source in site.sources:
        if disputed := present.disputed(source):
            claims = ", ".join(f"{each.name!r} of {each.owner!r}" for each in disputed)
            raise ObstacleError(
                f"The database {source!r} is gone, and several roles have what looks like copies "
                f"of it: {claims}.",
                hint=f"Say whose count: CREATE DATABASE {sql.Identifier(source).as_string(None)} "
                "OWNER …; then try again.",
            )


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what the server says, and nobody expected, into an error of ours."""
    try:
        yield
    except psycopg.Error as error:
        # What libpq says by itself goes over several lines.
        cause = error.diag.message_primary or " ".join(str(error).split()).rstrip(".")
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        raise ServerError(
            f"The server refused, or the connection was lost: {cause}{code}. Each live database "
            "is as it was, or as it shall be.",
            hint=error.diag.message_hint or "See the server's log, and what pgsnap list shows.",
        ) from error


def report_ended(evictors: Iterable[Evictor], reporter: Reporter) -> None:
    """Tell how many sessions were ended."""
    count = sum(len(evictor.ended) for evictor in {id(each): each for each in evictors}.values())
    if count:
        reporter.note(f"Ended {count} session{'s' if count > 1 else ''} on the live database.")
