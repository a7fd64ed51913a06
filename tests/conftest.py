"""Fixtures: a real server for the run, and a migrated database of its own for each test."""

import copy
import itertools
import json
import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hypothesis
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from packaging.specifiers import SpecifierSet
from psycopg import sql as pg
from psycopg.abc import Params
from psycopg.pq import ExecStatus
from pytest_django import DjangoDbBlocker

from django_pgsnap.clones.names import spare_name
from django_pgsnap.postgres import server as maintenance
from django_pgsnap.postgres.session import Session
from tests import ctrl_c
from tests.project import (
    Manage,
    aliases_put_back,
    build_server,
    child_environment,
    close_connections,
    forget_wrapper,
    point,
)
from tests.servers import SUPERUSER, Server, find_bin_dir, scram_verifier, version_of
from tests.settings import HANDED_ON_IN
from tests.state import Database, databases, remove_leftovers
from tests.suites.project import Project

NEWEST = "18"
CHOICE = os.environ.get("PGSNAP_TEST_SERVER", NEWEST)
# The whole of what the suite has a sample of, on whichever server is chosen.
IS_LONG_RUN = not os.environ.keys().isdisjoint({"PGSNAP_HISTORIES", "PGSNAP_HAMMER_OPERATIONS"})

TEMPLATE = "migrated"
# What stays from test to test; whoever adds a database drops it and takes it out again.
KEPT_DATABASES = {TEMPLATE}
ROLE_PASSWORD = "ordinary"

TERMINAL_VARIABLES = {"COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "PY_COLORS"}

# Has all tables and sequences belong to a role; those sequences that are a column's follow it.
GIVE_AWAY = """
    DO $$ DECLARE each regclass; BEGIN
        FOR each IN SELECT oid FROM pg_class c
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') AND NOT EXISTS (
                SELECT FROM pg_depend WHERE objid = c.oid AND refclassid = 'pg_class'::regclass
                AND deptype IN ('a', 'i'))
        LOOP EXECUTE format('ALTER TABLE %s OWNER TO %I', each, {}); END LOOP;
    END $$
"""

# How long the server may take for what it does when a run of tests has left, in seconds.
DROPPED_S = 30

LOG_BEFORE_TEST = pytest.StashKey[tuple[Server, int]]()

# A busy machine is no failure, and one live database serves all examples of a test.
hypothesis.settings.register_profile(
    "real servers",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("real servers")


class RunSql(Protocol):
    def __call__(
        self,
        query: str | pg.SQL | pg.Composed,
        params: Params | None = None,
        *,
        dbname: str = "postgres",
        user: str = SUPERUSER,
    ) -> list[tuple[Any, ...]]: ...


class ListDatabases(Protocol):
    def __call__(self) -> list[Database]: ...


class MakeRole(Protocol):
    def __call__(self, name: str = "ordinary", *, options: str = "CREATEDB") -> str: ...


class MakeLive(Protocol):
    def __call__(
        self, alias: str = "default", *, name: str | None = None, user: str = SUPERUSER
    ) -> str: ...


class SetAlias(Protocol):
    def __call__(self, alias: str, **values: Any) -> None: ...


class MakeDatabase(Protocol):
    def __call__(self, name: str = "live", *, owner: str = SUPERUSER) -> str: ...


class ServerAs(Protocol):
    def __call__(self, user: str = SUPERUSER, **values: Any) -> maintenance.Server: ...


class SessionAs(Protocol):
    def __call__(
        self, user: str = SUPERUSER, *, database: str = "postgres", **values: Any
    ) -> Session: ...


class Left(Protocol):
    def __call__(self) -> list[str]: ...


class Call(Protocol):
    def __call__(self, *arguments: str, **options: Any) -> "Printed": ...


class Printed(NamedTuple):
    """What a command printed in this process."""

    stdout: str
    stderr: str


# What these prove hangs on Python and on Django, so every pair of versions runs them
# (`-m versions`). All else is between the package and the server, and runs once on each server.
TESTS = Path(__file__).parent
VERSIONS = {
    *("test_apps.py", "test_checks.py"),
    *("connections/test_reconnect.py", "connections/test_restore_detection.py"),
    *("admin/test_model.py", "admin/test_session_transfer.py", "browser/test_accessibility.py"),
    "testing/test_migrate_signals.py",
}

# What these prove hangs on the server: catalogs, privileges, strategies, locks and statistics.
SERVERS = {
    *(
        f"postgres/test_{name}.py"
        for name in ("advisory_locks", "backends", "contents", "counters")
    ),
    *(f"postgres/test_{name}.py" for name in ("counters", "data_directory", "properties")),
    "postgres/test_server.py",
    *(f"clones/test_{name}.py" for name in ("catalog", "copying", "strategy", "swap", "spares")),
    *(f"snapshots/test_{name}.py" for name in ("ordinary_role", "purge", "status", "undo")),
    *("snapshots/test_properties_survive.py", "snapshots/test_server_crash.py"),
    "doctor/test_doctor.py",
}

# What these prove is the same on every server, so only the newest runs them: folders and files.
ONCE = {
    *("admin", "browser", "management", "test_documentation.py", "test_example_project.py"),
    *("test_checks.py", "test_git.py", "test_layers.py", "test_safety.py"),
    *("security/test_injection.py", "security/test_secrets.py", "snapshots/test_bad_input.py"),
    # Samples of long proofs, which have environments of their own for each server.
    *("hammer", "histories/test_histories.py", "test_sweep.py"),
    *(f"testing/test_{name}.py" for name in ("facts", "file_reads", "needless_misses", "plugin")),
    *(f"testing/test_{name}.py" for name in ("recording", "runner", "stale_reads")),
    *(f"testing/test_{name}.py" for name in ("stale_templates", "template_chains")),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'pg(versions): needs a server such as pg(">= 18")')
    config.addinivalue_line("markers", "versions: hangs on the versions of Python and Django")
    config.addinivalue_line("markers", "templates: runs only if asked for, with `-m templates`")
    config.addinivalue_line("markers", "servers: hangs on the version of PostgreSQL")
    ctrl_c.heed()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = []
    for item in items:
        file = str(item.path.relative_to(TESTS))
        if file in VERSIONS:
            item.add_marker("versions")
        if file in SERVERS:
            item.add_marker("servers")
        is_long = item.get_closest_marker("templates") and "templates" not in config.option.markexpr
        runs_once = file in ONCE or file.partition("/")[0] in ONCE
        if is_long or (runs_once and CHOICE != NEWEST and not IS_LONG_RUN):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionstart() -> None:
    """Where the chosen PostgreSQL is not installed there is nothing to run; on CI that is wrong."""
    try:
        find_bin_dir(CHOICE)
    except LookupError as error:
        pytest.exit(f"no tests run: {error}", returncode=int("CI" in os.environ))


def pytest_report_header() -> str:
    return f"postgresql: {version_of(find_bin_dir(CHOICE))}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    version = version_of(find_bin_dir(CHOICE))
    for marker in item.iter_markers("pg"):
        if version not in SpecifierSet(marker.args[0]):
            pytest.skip(f"needs PostgreSQL {marker.args[0]}, this is {version}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and LOG_BEFORE_TEST in item.stash:
        server, size_bytes = item.stash[LOG_BEFORE_TEST]
        report.sections.append(("PostgreSQL's log", server.read_log(size_bytes)))
    return report


@pytest.fixture(scope="session", autouse=True)
def _neutral_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing in the developer's environment leads libpq elsewhere or changes what is printed."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("caches"))
    for name in list(os.environ):
        if name in TERMINAL_VARIABLES or (name.startswith("PG") and not name.startswith("PGSNAP")):
            del os.environ[name]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this test run, where both aliases point; each xdist worker has its own."""
    server = Server(find_bin_dir(CHOICE))
    try:
        server.start()
        parameters = server.parameters()
        for alias in django_settings.DATABASES:
            point(
                alias,
                HOST=parameters["host"],
                PORT=parameters["port"],
                USER=parameters["user"],
                PASSWORD=parameters["password"],
            )
        yield server
        left = [database.name for database in databases(server) if database.name != TEMPLATE]
        assert not left, f"tests left databases behind: {left}"
    finally:
        server.remove()


@pytest.fixture(scope="session")
def template(server: Server, django_db_blocker: DjangoDbBlocker) -> str:
    """The name of a migrated database, shut, that the live databases are cloned from."""
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
        with aliases_put_back(), django_db_blocker.unblock():
            point("default", NAME=TEMPLATE, HOST=str(server.root))
            call_command("migrate", verbosity=0)
        connection.execute(f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")
    return TEMPLATE


@pytest.fixture
def clean_server(
    server: Server,
    django_db_blocker: DjangoDbBlocker,
    request: pytest.FixtureRequest,
) -> Iterator[Server]:
    """The server, open to Django; what a test leaves there, in Django too, is removed after it."""
    request.node.stash[LOG_BEFORE_TEST] = (server, server.log_size_bytes)
    with django_db_blocker.unblock(), aliases_put_back():
        yield server
    remove_leftovers(server, keep_databases=KEPT_DATABASES)


@pytest.fixture
def sql(clean_server: Server) -> RunSql:
    """Runs SQL as superuser, or as any *user*, on any database, and returns the rows."""

    def run(
        query: str | pg.SQL | pg.Composed,
        params: Params | None = None,
        *,
        dbname: str = "postgres",
        user: str = SUPERUSER,
    ) -> list[tuple[Any, ...]]:
        with clean_server.connect(dbname, user) as connection:
            cursor = connection.execute(query, params)
            # Rows may have no columns: cursor.description is None then, too.
            ended = cursor.pgresult
            return cursor.fetchall() if ended and ended.status == ExecStatus.TUPLES_OK else []

    return run


@pytest.fixture
def checkpointer(sql: RunSql) -> Iterator[int]:
    """The process that DROP DATABASE and copies of files wait for half-way, stopped."""
    ((pid,),) = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    os.kill(pid, signal.SIGSTOP)
    yield pid
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(name="databases")
def list_databases(clean_server: Server) -> ListDatabases:
    """Lists the databases on the server, without those that came with it and the template."""

    def run() -> list[Database]:
        return [database for database in databases(clean_server) if database.name != TEMPLATE]

    return run


@pytest.fixture
def role(sql: RunSql) -> MakeRole:
    """Makes a role that may log in (its password is `ROLE_PASSWORD`), by default with CREATEDB."""

    def make(name: str = "ordinary", *, options: str = "CREATEDB") -> str:
        command = "CREATE ROLE {} LOGIN PASSWORD {} " + options
        verifier = scram_verifier(ROLE_PASSWORD)
        sql(pg.SQL(command).format(pg.Identifier(name), pg.Literal(verifier)))
        return name

    return make


@pytest.fixture
def set_alias() -> Iterator[SetAlias]:
    """Changes an alias or adds one, of any engine, which needs no server; puts all back."""
    touched = set()

    def set_up(alias: str, **values: Any) -> None:
        aliases = django_settings.DATABASES
        aliases.setdefault(alias, copy.deepcopy(aliases["default"]))
        aliases[alias].update(values)
        forget_wrapper(alias)
        touched.add(alias)

    with aliases_put_back():
        yield set_up
        for alias in touched:
            forget_wrapper(alias)


@pytest.fixture
def make_database(sql: RunSql) -> MakeDatabase:
    """Makes an empty database, for what needs no Django."""

    def make(name: str = "live", *, owner: str = SUPERUSER) -> str:
        command = pg.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} STRATEGY FILE_COPY")
        sql(command.format(pg.Identifier(name), pg.Identifier(owner)))
        return name

    return make


@pytest.fixture
def server_as(clean_server: Server) -> ServerAs:
    """Gives the test server as the package sees it, as a role that comes in by the socket."""

    def make(user: str = SUPERUSER, **values: Any) -> maintenance.Server:
        given = {
            "host": str(clean_server.root),
            "port": str(clean_server.port),
            "user": user,
        }
        defaults: dict[str, Any] = {"role": "", "maintenance": "postgres", **given}
        fields = {**defaults, **values}
        password = clean_server.password if user == SUPERUSER else ROLE_PASSWORD
        return build_server(password=password, **fields)

    return make


@pytest.fixture
def session_as(server_as: ServerAs) -> Iterator[SessionAs]:
    """Opens sessions of the package's own, as any role, and closes them after the test."""
    with ExitStack() as stack:

        def open_one(
            user: str = SUPERUSER, *, database: str = "postgres", **values: Any
        ) -> Session:
            server = server_as(user, **values)
            return stack.enter_context(server.session_on(database, "test"))

        yield open_one


@pytest.fixture
def session(session_as: SessionAs) -> Session:
    """A maintenance session of the superuser."""
    return session_as()


@pytest.fixture
def make_live(
    sql: RunSql, clean_server: Server, template: str, monkeypatch: pytest.MonkeyPatch
) -> MakeLive:
    """Clones the template, owned by *user* with all that is in it, and points an alias at it."""
    counter = itertools.count(1)

    def make(alias: str = "default", *, name: str | None = None, user: str = SUPERUSER) -> str:
        name = name or f"live_{next(counter)}"
        password = clean_server.password if user == SUPERUSER else ROLE_PASSWORD
        sql(
            pg.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY FILE_COPY").format(
                *map(pg.Identifier, (name, template, user))
            )
        )
        if user != SUPERUSER:
            sql(pg.SQL(GIVE_AWAY).format(pg.Literal(user)), dbname=name)
        point(alias, NAME=name, USER=user, PASSWORD=password)
        monkeypatch.setenv(HANDED_ON_IN, child_environment()[HANDED_ON_IN])
        return name

    return make


@pytest.fixture
def live(make_live: MakeLive, request: pytest.FixtureRequest) -> str:
    """The name of the live database of a project that has one; an indirect parameter chooses it."""
    del django_settings.DATABASES["other"]
    return make_live(name=getattr(request, "param", None))


@pytest.fixture
def lives(make_live: MakeLive) -> dict[str, str]:
    """The names of the live databases of a project that has two, by alias."""
    return {alias: make_live(alias) for alias in django_settings.DATABASES}


@pytest.fixture(scope="session")
def second_server(server: Server) -> Iterator[Server]:
    """Another server of the same version, which has no databases of its own."""
    second = Server(server.bin_dir)
    try:
        second.start()
        yield second
    finally:
        second.remove()


@pytest.fixture
def two_servers(second_server: Server, clean_server: Server) -> Iterator[Server]:
    """The second server, cleaned after the test."""
    yield second_server
    remove_leftovers(second_server)


@pytest.fixture
def docker(two_servers: Server) -> Iterator[Server]:
    """A server like Docker's, where projects work on the database ``postgres``; it is made anew."""
    point("default", NAME="postgres", PORT=two_servers.port, PASSWORD=two_servers.password)
    yield two_servers
    close_connections()
    with two_servers.connect("template1") as connection:
        connection.execute("DROP DATABASE postgres (FORCE)")
        connection.execute("CREATE DATABASE postgres TEMPLATE template0 STRATEGY FILE_COPY")


@pytest.fixture
def live_pair(make_live: MakeLive, two_servers: Server) -> dict[str, str]:
    """The live databases of a project whose second one is on the second server."""
    parameters = two_servers.parameters()
    with two_servers.connect() as connection:
        connection.execute("CREATE DATABASE elsewhere")
    with two_servers.connect("elsewhere") as connection:
        connection.execute("CREATE TABLE testapp_author (id bigserial PRIMARY KEY, name text)")
    first = make_live("default")
    point(
        "other",
        NAME="elsewhere",
        PORT=parameters["port"],
        USER=SUPERUSER,
        PASSWORD=parameters["password"],
    )
    return {"default": first, "other": "elsewhere"}


@pytest.fixture
def live_owned(make_live: MakeLive, role: MakeRole) -> str:
    """The name of a live database that belongs to an ordinary role, as which Django connects."""
    del django_settings.DATABASES["other"]
    return make_live(user=role())


@pytest.fixture
def manage(clean_server: Server) -> Iterator[Manage]:
    """Runs Django's commands in real processes, on the settings that hold when it is called."""
    manage = Manage()
    yield manage
    manage.end()


@pytest.fixture
def call(clean_server: Server) -> Call:
    """Runs a Django command in this process and returns what it printed."""

    def run(*arguments: str, **options: Any) -> Printed:
        stdout, stderr = StringIO(), StringIO()
        call_command(*arguments, stdout=stdout, stderr=stderr, **options)
        return Printed(stdout.getvalue(), stderr.getvalue())

    return run


@pytest.fixture
def project(clean_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with a suite that is run in processes of its own."""
    project = Project(tmp_path, clean_server)
    yield project
    project.end()


@pytest.fixture(name="left")
def list_left(databases: ListDatabases, sql: RunSql) -> Left:
    """Lists what runs left beside templates and their spares, once the server is done with it."""

    def run() -> list[str]:
        deadline = time.monotonic() + DROPPED_S
        busy = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgsnap clearing up%'"
        while sql(busy):
            assert time.monotonic() < deadline, f"databases are not dropped after {DROPPED_S} s"
            time.sleep(0.01)
        templates = [each for each in databases() if each.name.startswith("pgsnap_template_")]
        kept = {each.name for each in templates}
        kept |= {spare_name(json.loads(each.comment or "")["identity"]) for each in templates}
        return [database.name for database in databases() if database.name not in kept]

    return run
