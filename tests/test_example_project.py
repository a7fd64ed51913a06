"""The example project, as a person runs it: its commands in processes of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from django.db import connections, models
from django.test.utils import isolate_apps
from psycopg import sql as pg
from pytest_django import Settings

from django_pgsnap.signals import post_restore, post_take, pre_restore, pre_take
from tests.conftest import CHOICE, KEPT_DATABASES, RunSql
from tests.project import ROOT
from tests.servers import Server

TIMEOUT_S = 120
DATABASE = "esign"
EMBEDDED_VERSION = "18"

Run = Callable[..., subprocess.CompletedProcess[str]]
Query = Callable[..., list[tuple[Any, ...]]]
Made = Callable[..., tuple[str, Path]]

PERSONAL = """
    SELECT count(*) FROM (
        SELECT t::text AS line FROM contracts_signer t
        UNION ALL SELECT t::text FROM contracts_signature t
        UNION ALL SELECT t::text FROM contracts_auditevent t
    ) AS rows WHERE strpos(line, %s) > 0
"""

DIGEST = """
    SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM contracts_auditevent t
"""

# A restore that restores nothing.
BROKEN_DEMO = """
import sys
import django
django.setup()
from contracts import play
from django.core.management import execute_from_command_line
play.restore = lambda name: None
execute_from_command_line(["manage.py", "demo", "--contracts", "20", "--verbosity", "0"])
"""


def run_in(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "DJANGO_SETTINGS_MODULE", "PYTHONSAFEPATH"}
    }
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def run_on(
    server: Server, database: str, media: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    given = server.parameters()
    url = f"postgres://{given['user']}:{given['password']}@{given['host']}:{given['port']}"
    return run_in(
        ROOT / "example_project",
        *command,
        DATABASE_URL=f"{url}/{database}",
        DJANGO_SETTINGS_MODULE="esign.settings",
        MEDIA_ROOT=str(media),
        PATH=f"{server.bin_dir}:{os.environ['PATH']}",
    )


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Makes a database of the example by some commands, once, with the files that belong to it."""
    known: dict[tuple[str, ...], tuple[str, Path]] = {}

    def make(*commands: str) -> tuple[str, Path]:
        if commands not in known:
            name, media = f"made_{len(known)}", tmp_path_factory.mktemp("media")
            with server.connect() as connection:
                connection.execute(pg.SQL("CREATE DATABASE {}").format(pg.Identifier(name)))
            KEPT_DATABASES.add(name)
            known[commands] = name, media
            for command in commands:
                done = run_on(server, name, media, "manage.py", *command.split())
                assert done.returncode == 0, done.stderr
        return known[commands]

    yield make
    for name, _ in known.values():
        with server.connect() as connection:
            connection.execute(pg.SQL("DROP DATABASE {}").format(pg.Identifier(name)))
        KEPT_DATABASES.remove(name)


@pytest.fixture
def start(sql: RunSql, clean_server: Server, made: Made, tmp_path: Path) -> Callable[..., Run]:
    """Gives a test a database that some commands have made, and what runs Python on it."""

    def start_from(*commands: str) -> Run:
        name, media = made("migrate --verbosity 0", *commands)
        sql(
            pg.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                pg.Identifier(DATABASE), pg.Identifier(name)
            )
        )
        shutil.copytree(media, tmp_path / "media")
        return partial(run_on, clean_server, DATABASE, tmp_path / "media")

    return start_from


@pytest.fixture
def python(start: Callable[..., Run]) -> Run:
    """Runs Python in the example's folder, on an empty, migrated database of the test's server."""
    return start()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.pdf")}


@pytest.fixture
def example(python: Run) -> Run:
    """Runs the example's commands."""
    return partial(python, "manage.py")


@pytest.fixture
def seeded(start: Callable[..., Run]) -> Run:
    """Runs the example's commands where there are three contracts, always the same."""
    return partial(start("seed --contracts 3"), "manage.py")


@pytest.fixture
def esign(sql: RunSql) -> Query:
    """Runs SQL in the example's database."""
    return lambda query, *params: sql(query, params, dbname=DATABASE)


@pytest.fixture
def copy_of_example() -> Iterator[Path]:
    """The folder of a copy of the example, which has an embedded server of its own.

    It is not in pytest's own folder: whenever another run of pytest begins, that one shuts it to
    all users but root, and the server's user with them.
    """
    if CHOICE != EMBEDDED_VERSION:
        pytest.skip(f"runs on PostgreSQL {EMBEDDED_VERSION} of its own, whatever the others run on")
    with TemporaryDirectory(prefix="pgsnap-example-") as directory:
        folder = Path(directory, "example_project")
        shutil.copytree(
            ROOT / "example_project",
            folder,
            ignore=shutil.ignore_patterns(".postgres", "media", "media-kept", "__pycache__"),
        )
        yield folder
        run_in(folder, "manage.py", "embedded_server", "stop")


@pytest.fixture
def embedded(copy_of_example: Path) -> Run:
    """Runs commands of that copy."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in(copy_of_example, "manage.py", *arguments)

    return run


@pytest.fixture
def data(copy_of_example: Path, embedded: Run) -> Path:
    """The files of that server, which has been started."""
    assert embedded("migrate", "--verbosity", "0").stderr == ""
    return copy_of_example / ".postgres" / EMBEDDED_VERSION


def test_seed_is_reproducible(example: Run, esign: Query) -> None:
    """The same arguments make the same rows, ids included, and another seed makes others."""
    first = example("seed", "--contracts", "30", "--seed", "7")
    digest = esign(DIGEST)

    again = example("seed", "--contracts", "30", "--seed", "7", "--flush")
    assert (again.stdout, esign(DIGEST)) == (first.stdout, digest)

    example("seed", "--contracts", "30", "--seed", "8", "--flush")
    assert esign(DIGEST) != digest


def test_seed_in_a_pipe_prints_plain_lines(example: Run) -> None:
    """No progress bar where nobody watches."""
    result = example("seed", "--contracts", "1001")

    assert result.stdout.splitlines()[0] == "1,000 of 1,001 contracts"
    assert result.stdout.splitlines()[1].startswith("Seeded 26 companies, 260 signers, 1,001 ")
    assert "\x1b" not in result.stdout


def test_seed_does_not_mix_with_what_is_there(seeded: Run) -> None:
    """Rows that are there are kept unless the user says that they may go."""
    result = seeded("seed", "--contracts", "3")

    assert result.returncode == 1
    assert result.stderr == (
        "CommandError: There are 3 contracts of 1 companies already. "
        "Add --flush to delete them first.\n"
    )


@pytest.mark.usefixtures("seeded")
def test_audit_trail_is_append_only(esign: Query) -> None:
    """PostgreSQL itself refuses to change events, and a redaction may change the payload only."""
    for statement in (
        "UPDATE contracts_auditevent SET kind = 'x'",
        "DELETE FROM contracts_auditevent",
        "SET contracts.redacting = on; UPDATE contracts_auditevent SET kind = 'x'",
        "SET contracts.redacting = on; DELETE FROM contracts_auditevent",
    ):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
            esign(statement)


def test_erase_signer_leaves_nothing_personal(example: Run, esign: Query) -> None:
    """Name and address are in no table afterwards, and no contract or event is gone."""
    example("seed", "--contracts", "60")
    [(name, email)] = esign("SELECT name, email FROM contracts_signer ORDER BY id LIMIT 1")
    [before] = esign("SELECT count(*) FROM contracts_auditevent")
    [(contracts,)] = esign("SELECT md5(string_agg(t::text, '')) FROM contracts_contract t")
    assert esign(PERSONAL, email) != [(0,)]

    result = example("erase_signer", email)

    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("Redacted      1 signer\n")
    assert esign(PERSONAL, email) == [(0,)]
    assert esign(PERSONAL, name) == [(0,)]
    assert esign("SELECT count(*) FROM contracts_auditevent") == [before]
    assert esign("SELECT md5(string_agg(t::text, '')) FROM contracts_contract t") == [(contracts,)]


def test_its_own_tests_pass(example: Run) -> None:
    """The example tests its erasure by what it changes in the database."""
    result = example("test", "--verbosity", "0")

    assert result.returncode == 0, result.stderr
    assert "Ran 1 test" in result.stderr


def test_files_follow_the_database(example: Run, esign: Query, tmp_path: Path) -> None:
    """What an erasure deleted comes back by a restore, is gone after undo, and back by the redo."""
    example("seed", "--contracts", "30")
    seeded = contents(tmp_path / "media")
    example("pgsnap", "take", "seeded")
    [(email,)] = esign(
        "SELECT email FROM contracts_signer s JOIN contracts_signature g ON g.signer_id = s.id"
        " JOIN contracts_document d USING (contract_id) ORDER BY s.id LIMIT 1"
    )
    example("erase_signer", email)
    erased = contents(tmp_path / "media")
    assert erased.items() < seeded.items()

    states = []
    for words in (["restore", "seeded"], ["undo"], ["undo"]):
        assert example("pgsnap", *words).returncode == 0
        states.append(contents(tmp_path / "media"))

    assert states == [seeded, erased, seeded]


@isolate_apps("tests.testapp")
def test_files_that_stay(
    lives: dict[str, str], tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another database names stays, and what was never kept: an upload that is under way."""

    class Upload(models.Model):  # noqa: DJ008  # nobody looks at it
        file = models.FileField(null=True)

        class Meta:
            app_label = "testapp"

    monkeypatch.syspath_prepend(ROOT / "example_project/contracts")
    media = import_module("media")
    for signal in (pre_take, post_take, pre_restore):
        signal.disconnect(media.keep_files)
    post_restore.disconnect(media.put_files_back)
    monkeypatch.setattr(media, "apps", Upload._meta.apps)
    settings.MEDIA_ROOT, settings.KEPT_MEDIA_ROOT = tmp_path / "media", tmp_path / "kept"
    settings.MEDIA_ROOT.mkdir()
    for alias in lives:
        with connections[alias].schema_editor() as editor:
            editor.create_model(Upload)
        Upload._base_manager.using(alias).bulk_create([Upload(file=f"{alias}.pdf"), Upload()])
    for name in (*lives, "replaced"):
        (settings.MEDIA_ROOT / f"{name}.pdf").touch()
    media.keep_files()
    (settings.MEDIA_ROOT / "upload.pdf").touch()
    (settings.MEDIA_ROOT / "other.pdf").unlink()

    for alias in lives:
        media.put_files_back(using=alias)

    assert contents(settings.MEDIA_ROOT).keys() == {"default.pdf", "other.pdf", "upload.pdf"}
    assert "replaced.pdf" in contents(settings.KEPT_MEDIA_ROOT)


def test_erased_signer_can_be_attested(seeded: Run, esign: Query) -> None:
    """Who brings the address finds the signer by the first 14 bytes of its SHA-256."""
    [(email,)] = esign("SELECT email FROM contracts_signer ORDER BY id LIMIT 1")

    seeded("erase_signer", email)

    attested = (
        "SELECT count(*) FROM contracts_signer WHERE email = left(encode(sha256(%s), 'hex'), 28)"
    )
    assert esign(attested, email.encode()) == [(1,)]


def test_erase_signer_names_the_nearest_addresses(seeded: Run, esign: Query) -> None:
    """A misspelt address is answered with what may have been meant."""
    [(email,)] = esign("SELECT email FROM contracts_signer ORDER BY id LIMIT 1")

    result = seeded("erase_signer", f"x{email}")

    assert result.returncode == 1
    start = f"CommandError: No signer has the address 'x{email}'; similar ones: {email}"
    assert result.stderr.startswith(start)


def test_demo_proves_every_step_and_can_be_repeated(example: Run, server: Server) -> None:
    """The story ends well, twice, and has pg_dump beside it where the server brought one."""
    beside = "pg_dump -Fc" if (server.bin_dir / "pg_dump").exists() else "No comparison with"
    for _ in range(2):
        result = example("demo", "--contracts", "20")

        assert result.returncode == 0, result.stderr
        assert result.stdout.count("Proved: ") == 3
        assert beside in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 100


def test_demo_fails_when_a_proof_fails(python: Run) -> None:
    """A restore that restores nothing does not go unnoticed."""
    result = python("-c", BROKEN_DEMO)

    assert result.returncode == 1
    assert result.stderr == (
        "CommandError: Not true that every row and file is back: contracts_auditevent, "
        "contracts_document, contracts_signature, contracts_signer, files in MEDIA_ROOT differ.\n"
    )


def test_embedded_server_outlives_commands_until_stopped(embedded: Run) -> None:
    """Only `stop` and a crash end it, and after either the next command starts it again."""
    assert embedded("embedded_server", "status").stdout == "stopped\n"
    assert embedded("migrate", "--verbosity", "0").stderr == ""
    assert embedded("embedded_server", "status").stdout.startswith("running, socket in /")

    assert embedded("embedded_server", "stop").stdout == "stopped\n"
    assert embedded("migrate", "--check").returncode == 0


def test_embedded_server_starts_again_after_a_kill(embedded: Run, data: Path) -> None:
    """What a killed server leaves behind is not in the way of the next one."""
    pid_file = data / "postmaster.pid"
    postmaster = psutil.Process(int(pid_file.read_text().split()[0]))

    postmaster.kill()
    postmaster.wait()

    assert pid_file.exists()
    assert embedded("migrate", "--check").returncode == 0


def test_embedded_server_ignores_a_pid_that_now_is_a_stranger(embedded: Run, data: Path) -> None:
    """After a crash, in a restarted container say, the number may belong to anybody: to us here."""
    embedded("embedded_server", "stop")

    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")

    assert embedded("migrate", "--check").returncode == 0
