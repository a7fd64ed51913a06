"""Look at the embedded PostgreSQL, or stop it."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from embedded.lifecycle import stop_server
from embedded.server import EmbeddedServer


class Command(BaseCommand):
    """`manage.py embedded_server status` or `stop`; every other command starts it."""

    help = "Shows or stops the embedded PostgreSQL. Every other command starts it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["status", "stop"])

    def handle(self, *_args: Any, action: str, **_options: Any) -> None:
        server: EmbeddedServer | None = settings.EMBEDDED_SERVER
        if server is None:
            raise CommandError("DATABASE_URL is set, so the embedded PostgreSQL is not used.")
        if action == "stop":
            stop_server(server)
        folder = server.socket_folder()
        self.stdout.write("stopped" if folder is None else f"running, socket in {folder}")
