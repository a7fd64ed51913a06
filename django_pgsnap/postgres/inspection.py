"""Looking at databases before a copy or a swap: obstacles, rights, contents, sizes, and writes.

The server counts the rows that are inserted, updated and deleted in a database, catalogs included
(manual, pg_stat_database). A database that a swap put in place starts at zero, and a session's
counts are complete once its backend is gone. Where there is any doubt it counts as written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from ..errors import MissingRightError, ObstacleError
from ..messages import join_messages, message
from .session import Query, Session

# App and name of each migration.
Migrations = tuple[tuple[str, str], ...]

# A subscription's worker reconnects at once and keeps the database busy. A slot belongs to the
# database by oid: it would move to the undo, and vanish with it. A prepared transaction makes
# CREATE DATABASE … TEMPLATE fail. This is asked in each restore, and the functions take a new
# session half the time that the views of slots and prepared transactions take it.
_ATTACHED: Final = sql.SQL(
    "(SELECT 'subscription', subname::pg_catalog.text, pg_catalog.quote_ident(subname), subdbid"
    " FROM pg_catalog.pg_subscription"
    " UNION ALL SELECT 'slot', slot_name, pg_catalog.quote_literal(slot_name), datoid"
    " FROM pg_catalog.pg_get_replication_slots()"
    " UNION ALL SELECT 'prepared', gid, pg_catalog.quote_literal(gid), dbid"
    " FROM pg_catalog.pg_prepared_xact()) o (kind, name, quoted, oid)"
    " JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) o.oid"
)
_WORDS: Final = {
    "subscription": (
        message("the subscription {name!r} of {database!r}"),
        message("drop it (DROP SUBSCRIPTION {quoted}) in {database!r}"),
    ),
    "slot": (
        message("the logical replication slot {name!r} of {database!r}"),
        message("run SELECT pg_drop_replication_slot({quoted})"),
    ),
    "prepared": (
        message("the prepared transaction {name!r} of {database!r}"),
        message("run COMMIT PREPARED or ROLLBACK PREPARED {quoted} in {database!r}"),
    ),
}


def nothing_is_attached(database: str) -> Query:
    """Return the condition that nothing is attached to a database."""
    condition = "NOT EXISTS (SELECT FROM {} WHERE d.datname OPERATOR(pg_catalog.=) {})"
    return sql.SQL(condition).format(_ATTACHED, database)


def check_nothing_attached(session: Session, databases: Sequence[str]) -> None:
    """Refuse to go on where something is attached to one of these live databases."""
    query = sql.SQL(
        "SELECT kind, name, quoted, d.datname FROM {}"
        " WHERE d.datname OPERATOR(pg_catalog.=) ANY({}) ORDER BY kind, name"
    )
    found = session.rows(query.format(_ATTACHED, list(databases)))
    if not found:
        return
    causes, remedies = [], []
    for kind, name, quoted, database in found:
        what, remedy = _WORDS[kind]
        causes.append(message(what, name=name, database=database))
        remedies.append(message(remedy, quoted=quoted, database=database))
    raise ObstacleError(
        "A copy or a restore would break {causes}.",
        hint="First, {remedies}.",
        causes=join_messages(", ", causes),
        remedies=join_messages("; ", remedies),
    )


_COLLATION: Final = sql.SQL(
    "SELECT datname, pg_catalog.quote_ident(datname), datcollversion,"
    " pg_catalog.pg_database_collation_actual_version(oid)"
    " FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) ANY(%s)"
    " AND datcollversion IS NOT NULL AND NOT coalesce(datcollversion OPERATOR(pg_catalog.=)"
    " pg_catalog.pg_database_collation_actual_version(oid), false)"
)


def check_collation(session: Session, databases: Sequence[str]) -> None:
    """Refuse a source that the server refuses, since its collation is older than the system's."""
    for database, quoted, recorded, actual in session.rows(_COLLATION, [list(databases)]):
        raise ObstacleError(
            "The database {database!r} was built with collation version {recorded}, but the "
            "system now has {actual}; the server refuses to copy it.",
            hint="Rebuild its indexes where you can (REINDEX DATABASE), then run: ALTER "
            "DATABASE {quoted} REFRESH COLLATION VERSION;",
            database=database,
            recorded=recorded,
            actual=actual or message("none that can be told"),
            quoted=quoted,
        )


# CREATE DATABASE … TEMPLATE and RENAME want the owner's privileges (pg_has_role's USAGE), OWNER
# wants to be able to become the owner: SET since PostgreSQL 16, MEMBER before (manual, "Role
# Membership").
_RIGHTS: Final = sql.SQL(
    "SELECT d.datname, pg_catalog.quote_ident(me.rolname),"
    " pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.datdba)),"
    " me.rolsuper OR me.rolcreatedb, pg_catalog.pg_has_role(d.datdba, 'USAGE'),"
    " pg_catalog.pg_has_role(d.datdba, CASE WHEN %(has_set)s THEN 'SET' ELSE 'MEMBER' END)"
    " FROM pg_catalog.pg_database d, pg_catalog.pg_roles me"
    " WHERE d.datname OPERATOR(pg_catalog.=) ANY(%(names)s)"
    " AND me.rolname OPERATOR(pg_catalog.=) current_user"
)
_HAS_SET_SINCE: Final = 160000


def check_privileges(session: Session, databases: Sequence[str]) -> None:
    """Refuse early where the role lacks a right that a copy or a swap needs."""
    has_set = session.server_version >= _HAS_SET_SINCE
    parameters = {"names": list(databases), "has_set": has_set}
    for database, me, owner, may_create, may_act, may_become in session.rows(_RIGHTS, parameters):
        if not may_create:
            raise MissingRightError(
                "The role {me} may not create databases, so it cannot copy {database!r}.",
                hint="Let a superuser run: ALTER ROLE {me} CREATEDB;",
                me=me,
                database=database,
            )
        if not (may_act and may_become):
            grant = f"GRANT {owner} TO {me}"
            more = " WITH INHERIT TRUE, SET TRUE;" if has_set else f"; ALTER ROLE {me} INHERIT;"
            raise MissingRightError(
                "The role {me} neither owns the database {database!r} nor has all rights of "
                "its owner {owner}.",
                hint="Let a superuser run: {grant}{more}",
                me=me,
                database=database,
                owner=owner,
                grant=grant,
                more=more,
            )


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a snapshot records of a live database."""

    # Applied migrations as (app, name), sorted; None where they may not be read.
    migrations: Migrations | None
    unlogged: tuple[str, ...]
    relations: int = 0  # how many tables, indexes and sequences there are, which have a file each


def read_contents(session: Session) -> Contents:
    """Return what the database that the session is on holds."""
    return Contents(
        migrations=read_migrations(session),
        unlogged=tuple(session.column(_UNLOGGED, [list(session.schemas)])),
        relations=int(session.value(_RELATIONS)),
    )


def read_sequence_positions(session: Session) -> dict[int, tuple[int, bool]]:
    """Return where all sequences are, by oid: the last value, and whether that was given out.

    The server's error tells of one that our role may not read, or that was dropped meanwhile.
    """
    found = {}
    queries = [
        _POSITION.format(oid, sql.Identifier(schema, name))
        for oid, schema, name in session.rows(_LIST_SEQUENCES)
    ]
    for start in range(0, len(queries), _SEQUENCES_PER_QUERY):
        part = sql.SQL(" UNION ALL ").join(queries[start : start + _SEQUENCES_PER_QUERY])
        found.update({oid: (last, called) for oid, last, called in session.rows(part)})
    return found


def read_migrations(session: Session) -> Migrations | None:
    """Return the applied migrations as (app, name), sorted; none where our role may not read."""
    # What other roles have put there instead could run functions of theirs in our name: a view, or
    # a table with a policy.
    session.configure({"row_security": "off"})
    # Django finds the table by the search path, and so does this.
    schema = session.value(_MIGRATIONS, {"schemas": list(session.schemas)})
    if schema is None:
        return ()
    # Unlike COPY, SELECT would be planned, and that runs functions of an index' expressions.
    query = sql.SQL("COPY {} (app, name) TO STDOUT")
    try:
        rows = session.copy_texts(query.format(sql.Identifier(schema, "django_migrations")), 2)
    except psycopg.errors.InsufficientPrivilege:
        return None
    return tuple(sorted({(str(app), str(name)) for app, name in rows}))


_SEQUENCES_PER_QUERY: Final = 200
_POSITION: Final = sql.SQL("SELECT {}::pg_catalog.oid, last_value, is_called FROM {}")

_MIGRATIONS: Final = sql.SQL(
    "SELECT n.nspname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relname OPERATOR(pg_catalog.=) 'django_migrations'"
    " AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p'])"
    " AND n.nspname OPERATOR(pg_catalog.=) ANY(%(schemas)s) ORDER BY"
    " pg_catalog.array_position(%(schemas)s::pg_catalog.text[], n.nspname::pg_catalog.text)"
    " LIMIT 1"
)

_LIST_SEQUENCES: Final = sql.SQL(
    "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relkind OPERATOR(pg_catalog.=) 'S'"
    " AND c.relpersistence OPERATOR(pg_catalog.<>) 't' ORDER BY c.oid"
)
_RELATIONS: Final = sql.SQL(
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class"
    " WHERE relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'i', 't', 'm', 'S'])"
)
_UNLOGGED: Final = sql.SQL(
    "SELECT pg_catalog.concat(CASE WHEN NOT n.nspname OPERATOR(pg_catalog.=) ANY(%s)"
    " THEN pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.') END,"
    " pg_catalog.quote_ident(c.relname)) FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relpersistence OPERATOR(pg_catalog.=) 'u'"
    " AND c.relkind OPERATOR(pg_catalog.=) 'r' ORDER BY 1"
)


# Who may not connect may not see a size either (manual, "Database Object Management Functions").
_SIZES: Final = sql.SQL(
    "SELECT datname, CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')"
    " OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
    " THEN pg_catalog.pg_database_size(oid) END"
    " FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) ANY(%s)"
)


def measure_databases(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Return what databases occupy on disk, without those that are gone or may not be measured."""
    found = session.rows(_SIZES, [list(names)])
    return {name: int(size) for name, size in found if size is not None}


_ALL_ARE_COUNTED: Final = sql.SQL(
    "pg_catalog.current_setting('track_counts')::pg_catalog.bool AND NOT EXISTS ("
    "SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) c"
    " WHERE pg_catalog.starts_with(c, 'track_counts=')"
    " AND c OPERATOR(pg_catalog.<>) 'track_counts=on') AND NOT EXISTS ("
    "SELECT FROM pg_catalog.pg_parameter_acl"
    " WHERE parname OPERATOR(pg_catalog.=) 'track_counts')"
)
# A crash of the server throws all statistics away. The moment that pg_stat_wal tells is later then.
_COUNTERS: Final = sql.SQL(
    "SELECT datname, oid, CASE WHEN {} THEN pg_catalog.concat("
    "(SELECT extract(epoch FROM stats_reset) FROM pg_catalog.pg_stat_wal), '/',"
    " extract(epoch FROM pg_catalog.pg_stat_get_db_stat_reset_time(oid)))"
    " ELSE pg_catalog.gen_random_uuid()::pg_catalog.text END,"
    " pg_catalog.pg_stat_get_db_sessions(oid),"
    " pg_catalog.pg_stat_get_db_xact_commit(oid)"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_xact_rollback(oid),"
    " pg_catalog.pg_stat_get_db_tuples_inserted(oid)"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_tuples_updated(oid)"
    " OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_db_tuples_deleted(oid)"
    " FROM pg_catalog.pg_database"
    " WHERE datname OPERATOR(pg_catalog.=) ANY(%s::pg_catalog.name[])"
).format(_ALL_ARE_COUNTED)


@dataclass(frozen=True, kw_only=True)
class DatabaseCounters:
    """What the server has counted of a database that nobody is on."""

    name: str
    oid: int
    # Since when it counts. As long as it is the same, nothing was left out or forgotten.
    epoch: str
    sessions: int  # how many client sessions there were. No setting keeps one from being counted.
    # How many transactions ended. Comparing counters leaves it out: background workers have some.
    transactions: int = field(compare=False)
    rows: int  # how many were ever written, those of catalogs included

    @property
    def are_zero(self) -> bool:
        """Whether nobody was ever on it."""
        return not (self.sessions or self.transactions or self.rows)

    def continues(self, before: "DatabaseCounters") -> bool:
        """Tell whether it is the same database, and the server has not lost count of it since."""
        return (self.oid, self.epoch) == (before.oid, before.epoch)


UNKNOWN_COUNTERS: Final = DatabaseCounters(
    name="", oid=0, epoch="", sessions=-1, transactions=-1, rows=-1
)


def read_counters(session: Session, databases: Iterable[str]) -> dict[str, DatabaseCounters]:
    """Return what the server has counted of databases, those that are there."""
    found = session.values(DatabaseCounters, _COUNTERS, [list(databases)])
    return {each.name: each for each in found}


def read_activity(session: Session, database: str) -> DatabaseCounters:
    """Return what the server has counted of one database, or that nothing is known."""
    return read_counters(session, [database]).get(database, UNKNOWN_COUNTERS)
