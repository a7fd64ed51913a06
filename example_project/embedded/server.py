"""Where the embedded PostgreSQL is, and whether it runs.

It outlives the command that started it, as a server from the system's packages would;
`manage.py embedded_server stop` ends it. It listens on a Unix socket only.

Every command imports the settings, so looking has to be cheap: the server says in `postmaster.pid`
where it listens (https://www.postgresql.org/docs/18/storage-file-layout.html).
"""

import pwd
import socket
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

VERSION = 18
PORT = "5432"


@dataclass(frozen=True, kw_only=True)
class EmbeddedServer:
    """One server and its one database.

    Attributes:
        home: The folder that holds all of it; with the server stopped, delete it to start afresh.
        database: The database that is there from the beginning.
    """

    home: Path
    database: str

    @property
    def data(self) -> Path:
        """The data directory; a later major version cannot read it, hence the number."""
        return self.home / str(VERSION)

    @property
    def log(self) -> Path:
        return self.data / "log"

    def django_settings(self) -> dict[str, str]:
        """Return the entry for `DATABASES`."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": self.database,
            "USER": "postgres",
            "HOST": str(self.socket_folder() or self.data),
            "PORT": PORT,
        }

    def client_path(self) -> str | None:
        """Return the folder of the running server's own `pg_dump`, None when it never ran."""
        options = self.data / "postmaster.opts"
        if not options.exists():
            return None
        program, _, _ = options.read_text().partition(' "')
        return str(Path(program).parent)

    def socket_folder(self) -> Path | None:
        """Return the folder of the socket that accepts connections, None when there is none."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise self.belongs_to_another_user() from None
        if "".join(lines[7:]).strip() != "ready":
            return None
        folder = Path(lines[4])
        return folder if _accepts_connections(folder / f".s.PGSQL.{PORT}") else None

    def belongs_to_another_user(self) -> ImproperlyConfigured:
        owner = pwd.getpwuid(self.data.stat().st_uid).pw_name
        return ImproperlyConfigured(
            f"The embedded PostgreSQL in {self.data} belongs to the user {owner!r}. Run this as "
            "the user who made it, or set DATABASE_URL, or stop that server and delete its folder."
        )


def _accepts_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
