"""A small Django project in a directory, with a suite, run in processes of its own."""

import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.servers import SUPERUSER, Server

ROOT = Path(__file__).parents[2]

TIMEOUT_S = 150

SETTINGS = """
    import json
    import os

    SECRET_KEY = "not a secret"
    USE_TZ = True
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    INSTALLED_APPS = [
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django_pgsnap",
        "shop",
    ]
    TEST_RUNNER = "django_pgsnap.testing.SnapshotRunner"
    PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    PGSNAP = {}
    globals().update(json.loads(os.environ["PROJECT_SETTINGS"]))
"""

MODELS = """
    from django.db import models


    class Item(models.Model):
        name = models.CharField(max_length=100)
"""

INITIAL = """
    from django.db import migrations, models


    class Migration(migrations.Migration):
        initial = True
        dependencies = []
        operations = [
            migrations.CreateModel(
                name="Item",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100)),
                ],
            ),
        ]
"""

# Each migration of data notes in a file that it ran, so that a clone can be told.
DATA = """
    from django.db import migrations


    def forwards(apps, schema_editor):
        Item = apps.get_model("shop", "Item")
        Item.objects.using(schema_editor.connection.alias).create(name={name!r})
        with open({journal!r}, "a") as journal:
            journal.write({name!r} + "\\n")


    class Migration(migrations.Migration):
        dependencies = [("shop", {before!r})]
        operations = [migrations.RunPython(forwards)]
"""

TESTS = """
    from django.test import TestCase

    from shop.models import Item


    class ItemTests(TestCase):
        def test_migrated(self):
            self.assertEqual([item.name for item in Item.objects.order_by("id")], {names!r})
            # Nobody listens any more to what Python reads.
            self.assertEqual(type(open).__name__, "builtin_function_or_method")
"""

CONFIGURATION = """
    [pytest]
    DJANGO_SETTINGS_MODULE = project_settings
    python_files = tests.py
    addopts = --strict-markers -W error -p no:cacheprovider -p no:faker -p no:hypothesispytest
"""


class Project:
    """A Django project in a directory of its own.

    Attributes:
        path: The directory.
        settings: What its settings have beside the usual; JSON.
        python: The Python that runs it.
    """

    def __init__(self, path: Path, server: Server) -> None:
        """Write the project, with one migration of tables and one of data."""
        self.path = path
        parameters = server.parameters()
        self._database = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": parameters["host"],
            "PORT": parameters["port"],
            "USER": SUPERUSER,
            "PASSWORD": parameters["password"],
        }
        self.settings: dict[str, Any] = {"DATABASES": {"default": self.database("shop")}}
        self.variables: dict[str, str] = {}
        self.python = sys.executable
        self._children: list[subprocess.Popen[str]] = []
        self.write("project_settings.py", SETTINGS)
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("shop/migrations/__init__.py", "")
        self.write("shop/migrations/0001_initial.py", INITIAL)
        self.add_data("0002_data", "first", before="0001_initial")
        self.expect("first")

    def database(self, name: str, **values: Any) -> dict[str, Any]:
        """Return an alias' settings for a database on the server."""
        return {**self._database, "NAME": name, **values}

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def add_data(self, migration: str, name: str, *, before: str) -> None:
        """Add a migration that inserts an item and notes that it ran."""
        journal = str(self.path / "journal")
        text = DATA.format(name=name, before=before, journal=journal)
        self.write(f"shop/migrations/{migration}.py", text)

    def expect(self, *names: str) -> None:
        """Have the suite expect these items in the migrated database."""
        self.write("shop/tests.py", TESTS.format(names=list(names)))

    def migrated(self) -> list[str]:
        """Return which migrations of data ran since this was last asked."""
        journal = self.path / "journal"
        ran = journal.read_text().split() if journal.exists() else []
        journal.unlink(missing_ok=True)
        return ran

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a management command, by default ``test``, to its end."""
        child = self.start(*(arguments or ("test",)), **options)
        stdout, stderr = child.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)

    def test(self, *options: str) -> list[str]:
        """Run the suite, which must pass, and return which migrations of data ran for it."""
        ended = self.run("test", *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return self.migrated()

    def pytest(self, *options: str) -> list[str]:
        """Run the suite by pytest; it must pass. Return which migrations of data ran for it."""
        ended = self.run_pytest(*options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return self.migrated()

    def run_pytest(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the suite by pytest to its end."""
        child = self.start_pytest(*options)
        stdout, stderr = child.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)

    def start_pytest(self, *options: str) -> subprocess.Popen[str]:
        """Start pytest on the suite, which finds the package's plugin as in an installed one."""
        plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())
        ((name, module),) = plugins["project"]["entry-points"]["pytest11"].items()
        metadata = "Metadata-Version: 2.1\nName: installed\nVersion: 1\n"
        self.write("installed-1.dist-info/METADATA", metadata)
        self.write("installed-1.dist-info/entry_points.txt", f"[pytest11]\n{name} = {module}\n")
        self.write("pytest.ini", CONFIGURATION)
        return self.start(*options, module="pytest")

    def start(
        self, *arguments: str, module: str = "django", **options: Any
    ) -> subprocess.Popen[str]:
        """Start a management command, or another program of Python's."""
        # A suite of its own is not part of the run that this test belongs to.
        inherited = {key: os.environ[key] for key in os.environ if not key.startswith("PYTEST_")}
        environment = {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "PROJECT_SETTINGS": json.dumps(self.settings),
            "PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)]),
            # Files are rewritten within the second that their compiled form can tell.
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.variables,
        }
        command = [self.python, "-m", module, *arguments]
        child = subprocess.Popen(
            command,
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self._children.append(child)
        return child

    def end(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            with child:
                child.kill()

    def wait_for(self, name: str) -> None:
        """Wait until a file of the project is there."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (self.path / name).exists():
            assert time.monotonic() < deadline, f"{name} does not appear"
            time.sleep(0.01)
