"""The world of a history: live databases on one or two servers, and a look at all that is there."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from django.conf import settings
from psycopg import sql

from django_pgsnap import PgsnapError
from django_pgsnap.clones.records import CopyRecord, Record, decode_record
from django_pgsnap.snapshots.queries import overview
from tests.conftest import TEMPLATE
from tests.histories.model import Copies, Parts, State, Value
from tests.project import close_connections
from tests.servers import Server
from tests.state import databases
from tests.sweep.forks import in_child

ROLE: Final = "keeper"
# Our role is a member of it.
OTHER_OWNER: Final = "heir"
SEED: Final = "seed"
PATIENCE_S: Final = 30

# Alias by alias, the live database that each settings file names.
SETTINGS: Final[dict[str, dict[str, str]]] = {
    "both": {"default": "a", "other": "b"},
    "first": {"default": "a"},
    "opposite": {"default": "b", "other": "a"},
}

_SEED: Final = """
    CREATE TABLE work (value text);
    CREATE SEQUENCE numbers;
    CREATE TABLE django_migrations
        (id serial, app text DEFAULT 'app', name text DEFAULT '0001', applied timestamptz);
    INSERT INTO django_migrations DEFAULT VALUES;
"""
_FIRST_ROW: Final = "INSERT INTO work VALUES ('{name}')"
# Refuses once a setting of our role says so; only a superuser may make it.
_TRIGGER: Final = """
    CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('histories.refuse', true) = 'yes' THEN RAISE 'refused'; END IF;
    END $$;
    CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse();
"""
_CONTENT: Final = """
    SELECT concat_ws(' | ',
        (SELECT string_agg(value, ',' ORDER BY value) FROM work),
        (SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'work'),
        (SELECT (last_value, is_called)::text FROM numbers),
        (SELECT count(*) FROM pg_largeobject_metadata))
"""
_IS_THERE: Final = "SELECT FROM pg_stat_activity WHERE pid = %s"
# The session of a checkpoint stays as long as its block.
_AT_WORK: Final = """
    SELECT FROM pg_stat_activity WHERE starts_with(application_name, 'pgsnap ')
        AND NOT starts_with(application_name, 'pgsnap checkpoint (')
"""

OBSTACLES: Final = {
    "connection limit": (
        "ALTER DATABASE {live} CONNECTION LIMIT 0",
        "ALTER DATABASE {live} CONNECTION LIMIT -1",
    ),
    "no connections allowed": (
        "ALTER DATABASE {live} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {live} ALLOW_CONNECTIONS true",
    ),
    "library that is not there": (
        "ALTER DATABASE {live} SET session_preload_libraries = 'gone'",
        # What was live keeps it, and our role may not take it away there.
        """DO $$ DECLARE other text; BEGIN
            FOR other IN SELECT datname FROM pg_db_role_setting JOIN pg_database d
                ON d.oid = setdatabase LOOP
                BEGIN
                    EXECUTE format('ALTER DATABASE %I RESET session_preload_libraries', other);
                EXCEPTION WHEN undefined_object OR invalid_catalog_name THEN
                    NULL; -- it is being dropped
                END;
            END LOOP; END $$""",
    ),
    "login trigger": (
        "ALTER ROLE keeper SET histories.refuse = 'yes'",
        "ALTER ROLE keeper RESET histories.refuse",
    ),
    "no right to connect": (
        "REVOKE CONNECT ON DATABASE {live} FROM PUBLIC, keeper",
        "GRANT CONNECT ON DATABASE {live} TO PUBLIC",
    ),
    "no slot left": (
        "ALTER ROLE keeper CONNECTION LIMIT 3",
        "ALTER ROLE keeper CONNECTION LIMIT -1",
    ),
    "client at work": ("", ""),
    "client at work without counters": ("", ""),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is, by content.

    Attributes:
        live: what is live, by live database.
        snapshots: by set id.
        undos: what is kept of what was replaced, newest first.
    """

    live: dict[str, Value]
    snapshots: dict[str, Copies]
    undos: list[dict[str, Value]]


class World:
    """Makes live databases anew for each history, and looks at what became of them.

    Attributes:
        histories: How many have begun.
    """

    def __init__(self, *servers: Server) -> None:
        """Prepare servers that nobody else uses meanwhile."""
        self._servers = servers
        self._stack = ExitStack()
        self._sessions = [self._stack.enter_context(server.connect()) for server in servers]
        self._aliases: dict[str, dict[str, Any]] = dict(settings.DATABASES)
        self._contents: dict[tuple[int, int], Value] = {}
        self._place: dict[str, int] = {}
        self._probes = 0
        self.histories = 0
        for server, session in zip(servers, self._sessions, strict=True):
            session.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB")
            session.execute(f"CREATE ROLE {OTHER_OWNER} ROLE {ROLE}")
            session.execute(f"CREATE DATABASE {SEED} OWNER {ROLE}")
            with server.connect(SEED, ROLE) as inside:
                inside.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
                inside.execute(_SEED)
            if session.info.server_version >= 170000:
                with server.connect(SEED) as inside:
                    inside.execute(_TRIGGER)

    def close(self) -> None:
        """Leave the servers."""
        self._stack.close()

    def begin(self, names: Sequence[str], *, two_servers: bool) -> Parts:
        """Make these live databases, and return what they hold."""
        self.histories += 1
        close_connections()
        self.wait_until_quiet()
        self._drop_all()
        self._contents.clear()
        self._place = {name: int(two_servers and name == "b") for name in names}
        for name, place in self._place.items():
            self._sessions[place].execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy").format(
                    *map(sql.Identifier, (name, SEED, ROLE))
                )
            )
        return {name: State(value=self.write(name, _FIRST_ROW.format(name=name))) for name in names}

    def use(self, chosen: Mapping[str, str]) -> None:
        """Have Django's aliases name these live databases, as another settings file would."""
        close_connections()
        settings.DATABASES.clear()
        for alias, name in chosen.items():
            server = self._servers[self._place[name]]
            values = {"NAME": name, "HOST": str(server.root), "PORT": server.port, "USER": ROLE}
            # Django's connections hold on to these very dicts.
            self._aliases[alias].update(values)
            settings.DATABASES[alias] = self._aliases[alias]

    def write(self, name: str, statement: str, *, counted: bool = True) -> Value:
        """Do something as a client, and return what the live database holds then."""
        place = self._place[name]
        with self._connect(place, name, counted=counted) as client:
            client.execute(statement)
            value = self._read(client)
            pid = client.info.backend_pid
        self._wait_until_none(_IS_THERE, [pid], place)
        self._contents[place, self._oid(name)] = value
        return value

    def hand_over(self, name: str) -> None:
        """Give a live database to another owner."""
        command = sql.SQL("ALTER DATABASE {} OWNER TO {}")
        self._sessions[self._place[name]].execute(
            command.format(sql.Identifier(name), sql.Identifier(OTHER_OWNER))
        )

    def kill(self, command: Callable[[], object], after_ms: int) -> None:
        """Run a command in a process of its own, and kill that unless it ends before."""

        def attempt() -> None:
            with suppress(PgsnapError):
                command()

        close_connections()
        ended = in_child(attempt, after_ms / 1000)
        assert not ended.error or "did not end within" in ended.error, ended.error
        self.wait_until_quiet()

    @contextmanager
    def obstacle(self, kind: str | None, name: str) -> Iterator[None]:
        """Put something in our way to a live database, which may have another oid afterwards."""
        if kind is None:
            yield
            return
        if kind.startswith("client at work"):
            counted = kind == "client at work"
            with self._connect(self._place[name], name, counted=counted) as client:
                client.execute("BEGIN; SELECT pg_current_xact_id()")
                yield
                pid = client.info.backend_pid
                client.execute("ROLLBACK")
            self._wait_until_none(_IS_THERE, [pid], self._place[name])
            return
        session = self._sessions[self._place[name]]
        first, last = (text.replace("{live}", name) for text in OBSTACLES[kind])
        session.execute(first)
        try:
            yield
        finally:
            session.execute(last)

    def look(self, *, afresh: bool = False) -> Seen:
        """Return what there is, by content.

        Args:
            afresh: whether to read what was read before, too: nobody may have changed it since.
        """
        known = dict(self._contents)
        if afresh:
            self._contents.clear()
        copies: dict[str, dict[str, Record]] = {}
        values: dict[str, dict[str, Value]] = {}
        live: dict[str, Value] = {}
        for place, session in enumerate(self._sessions):
            for oid, name, comment in session.execute(
                "SELECT oid::int, datname, shobj_description(oid, 'pg_database') FROM pg_database"
                " WHERE datconnlimit <> -2"
            ).fetchall():
                record = decode_record(comment)
                if self._place.get(name) == place:
                    live[name] = self._content(place, oid, name)
                elif record is not None and record.database == name:
                    copies.setdefault(record.set_id, {})[record.source] = record
                    value = self._content(place, oid, name)
                    values.setdefault(record.set_id, {})[record.source] = value
        assert all(known.get(key, value) == value for key, value in self._contents.items())
        return Seen(
            live=live,
            snapshots={
                set_id: _as_copies(list(records.values()), values[set_id])
                for set_id, records in copies.items()
                if next(iter(records.values())).kind == "copy"
            },
            undos=[values.get(undo.set_id, {}) for undo in overview().undos],
        )

    def wait_until_quiet(self) -> None:
        """Wait until the servers have finished all that they were sent off to do."""
        for place in range(len(self._sessions)):
            self._wait_until_none(_AT_WORK, [], place)

    def _content(self, place: int, oid: int, name: str) -> Value:
        """Return what a database holds. Nobody connects to it for that: a clone of it is read."""
        if (place, oid) not in self._contents:
            self._probes += 1
            probe = f"probe_{self._probes}"
            self._sessions[place].execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(probe), sql.Identifier(name)
                )
            )
            with self._connect(place, probe) as inside:
                self._contents[place, oid] = self._read(inside)
            self._sessions[place].execute(f"DROP DATABASE {probe} WITH (FORCE)")
        return self._contents[place, oid]

    @staticmethod
    def _read(inside: psycopg.Connection) -> Value:
        row = inside.execute(_CONTENT).fetchone()
        assert row
        return str(row[0])

    def _connect(self, place: int, name: str, *, counted: bool = True) -> psycopg.Connection:
        options = "" if counted else "-c track_counts=off"
        return self._servers[place].connect(name, options=options)

    def _oid(self, name: str) -> int:
        query = "SELECT oid::int FROM pg_database WHERE datname = %s"
        row = self._sessions[self._place[name]].execute(query, [name]).fetchone()
        assert row
        return int(row[0])

    def _wait_until_none(self, query: LiteralString, values: Sequence[object], place: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._sessions[place].execute(query, values).fetchone():
            assert time.monotonic() < deadline, f"sessions stay for {PATIENCE_S} s"
            time.sleep(0.002)

    def _drop_all(self) -> None:
        for server, session in zip(self._servers, self._sessions, strict=True):
            for database in databases(server):
                if database.name not in (SEED, TEMPLATE):
                    name = sql.Identifier(database.name)
                    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _as_copies(records: Sequence[Record], values: Mapping[str, Value]) -> Copies:
    """Return a snapshot; where its parts differ in what they share, as something that none is."""
    shared = {
        (each.name, each.note, each.pinned, each.members)
        for each in records
        if isinstance(each, CopyRecord)
    }
    ((name, note, pinned, members), *others) = sorted(shared)
    is_whole = not others and members == len(records)
    return Copies(
        name=name if is_whole else f"{name}, split",
        note=note,
        pinned=pinned,
        parts={source: State(value=value) for source, value in values.items()},
    )
