"""The projects whose suites are run, and how."""

import os
from dataclasses import dataclass, field
from pathlib import Path

DATABASE = """
import os

def database(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": os.environ["COMPAT_HOST"],
        "PORT": os.environ["COMPAT_PORT"],
        "USER": os.environ["COMPAT_USER"],
        "PASSWORD": os.environ["COMPAT_PASSWORD"],
    }

"""

DJANGO = """
DATABASES = {"default": database("django"), "other": database("django2")}
SECRET_KEY = "not a secret"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

REVERSION = """
from test_project.settings import *
DATABASES = {
    "default": database("reversion"), "postgres": database("postgres_alias"),
    "mysql": database("mysql_alias"),
}
INSTALLED_APPS += ["django_pgsnap"]
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

GUARDIAN = """
from guardian.testapp.testsettings import *
DATABASES = {"default": database("guardian")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

HISTORY = """
import sys
from runtests import DEFAULT_SETTINGS
globals().update(DEFAULT_SETTINGS)
DATABASES = {"default": database("history"), "other": database("other")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
SIMPLE_HISTORY_DATE_INDEX = True  # a test deletes it
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

PGTRIGGER = """
import copy
INSTALLED_APPS = [
    "pgtrigger", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.postgres",
    "psqlextra", "pgtrigger.tests", "pgtrigger.tests.syncdb_app", "django_pgsnap",
]
DATABASES = {
    "default": {**database("pgtrigger"), "ENGINE": "psqlextra.backend"},
    "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "test_sqlite"},
    "other": database("pgtrigger_other"),
}
for name in ("order", "receipt"):
    DATABASES[name] = {
        **copy.deepcopy(DATABASES["default"]), "OPTIONS": {"options": f"-c search_path={name}"}
    }
SECRET_KEY = "not a secret"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASE_ROUTERS = ["pgtrigger.tests.models.Router"]
PGTRIGGER_MIGRATIONS = True
PGTRIGGER_INSTALL_ON_MIGRATE = True
USE_TZ = False
"""

PGHISTORY = """
os.environ["DATABASE_URL"] = "postgres://localhost/pghistory"
from settings import *
DATABASES = {"default": {**database("pghistory"), "OPTIONS": {"options": "-c jit=off"}}}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
"""

# Its tests make a tablespace in a directory of their own, which the server must own.
PSQLEXTRA = """
import shutil
import tempfile
from settings import *

def make_directory(*arguments, make=tempfile.mkdtemp, **options):
    directory = make(*arguments, **options)
    if os.getuid() == 0:
        shutil.chown(directory, "nobody")
    return directory

tempfile.mkdtemp = make_directory
DATABASES = {"default": {**database("psqlextra"), "ENGINE": "tests.psqlextra_test_backend"}}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
"""

DJANGO_PARTS = (
    *("test_runner", "test_utils", "transactions", "transaction_hooks", "servers", "fixtures"),
    *("fixtures_regress", "sites_tests", "contenttypes_tests", "flatpages_tests"),
)


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project with a suite.

    Attributes:
        settings: Its settings, as the text of a module.
        command: What is run, after the interpreter's name.
        requirement: What pip fetches.
        repository: Where it is on GitHub, if source distributions are without tests.
        directory: Where in the source the suite is started.
        by_pytest: Whether that is pytest.
        paths: Directories of the distribution to import from.
        needs: What else has to be installed, without what that needs.
    """

    settings: str
    command: tuple[str, ...]
    requirement: str = ""
    repository: str = ""
    directory: str = "."
    by_pytest: bool = False
    paths: tuple[str, ...] = (".",)
    needs: tuple[str, ...] = field(default=())

    def environment(self, root: Path) -> str:
        """Return where to import from."""
        return os.pathsep.join(str(root / path) for path in self.paths)


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--ds=compat_settings", "-o", "addopts=")
TEST = ("-m", "django", "test", "--settings=compat_settings", "--no-input")

# Parts of Django whose tests change the schema.
DJANGO_DDL_PARTS = ("migrations", "schema", "multiple_database", "backends", "inspectdb")

PROJECTS = {
    "django": Project(
        requirement="django",
        directory="tests",
        settings=DJANGO,
        command=("runtests.py", "--settings=compat_settings", "--parallel=1", *DJANGO_PARTS),
    ),
    "django-ddl": Project(
        requirement="django",
        directory="tests",
        settings=DJANGO,
        command=("runtests.py", "--settings=compat_settings", "--parallel=1", *DJANGO_DDL_PARTS),
    ),
    "pgtrigger": Project(
        repository="AmbitionEng/django-pgtrigger",
        settings=PGTRIGGER,
        command=(*PYTEST, "-m", "not independent", "pgtrigger/tests"),
        by_pytest=True,
        needs=(
            # They ask for their own version.
            *(
                "django-pgtrigger",
                "django-postgres-extra",
                "django-dynamic-fixture",
                "django-pgbulk",
                "pytest-order",
            ),
            *("pytest-mock", "python-dateutil", "six", "typing-extensions"),
        ),
    ),
    "pghistory": Project(
        repository="AmbitionEng/django-pghistory",
        settings=PGHISTORY,
        command=(*PYTEST, "pghistory/tests"),
        by_pytest=True,
        needs=(
            *(
                "django-pghistory",
                "django-pgtrigger",
                "django-extensions",
                "django-dynamic-fixture",
                "pytest-mock",
            ),
            *("pytest-asyncio", "beautifulsoup4", "soupsieve", "six", "typing-extensions"),
        ),
    ),
    "psqlextra": Project(
        repository="SectorLabs/django-postgres-extra",
        settings=PSQLEXTRA,
        command=(*PYTEST, "-m", "not benchmark", "tests"),
        by_pytest=True,
        needs=(
            "django-postgres-extra",
            "python-dateutil",
            "six",
            "freezegun",
            "syrupy",
            "pytest-freezer",
        ),
    ),
    "reversion": Project(
        requirement="django-reversion",
        directory="tests",
        settings=REVERSION,
        command=(*TEST, "test_app"),
        paths=(".", "tests"),
    ),
    "guardian": Project(
        requirement="django-guardian",
        settings=GUARDIAN,
        command=(*TEST, "guardian"),
        needs=("django-environ",),
    ),
    "history": Project(
        requirement="django-simple-history",
        settings=HISTORY,
        # Its other tests add models as they run, so they are a run of their own.
        command=(*TEST, "simple_history.tests"),
        # It asks for its own version.
        needs=("django-simple-history",),
    ),
}
