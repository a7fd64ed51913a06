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

DJANGO_PARTS = (
    *("test_runner", "test_utils", "transactions", "transaction_hooks", "servers", "fixtures"),
    *("fixtures_regress", "sites_tests", "contenttypes_tests", "flatpages_tests"),
)


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project with a suite.

    Attributes:
        requirement: What pip fetches.
        directory: Where in the source distribution the suite is started.
        settings: Its settings, as the text of a module.
        command: What is run there, after the interpreter's name.
        paths: Directories of the distribution to import from.
        needs: What else has to be installed, without what that needs.
    """

    requirement: str
    directory: str
    settings: str
    command: tuple[str, ...]
    paths: tuple[str, ...] = (".",)
    needs: tuple[str, ...] = field(default=())

    def environment(self, root: Path) -> str:
        """Return where to import from."""
        return os.pathsep.join(str(root / path) for path in self.paths)


TEST = ("-m", "django", "test", "--settings=compat_settings", "--no-input")

PROJECTS = {
    "django": Project(
        requirement="django",
        directory="tests",
        settings=DJANGO,
        command=("runtests.py", "--settings=compat_settings", "--parallel=1", *DJANGO_PARTS),
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
        directory=".",
        settings=GUARDIAN,
        command=(*TEST, "guardian"),
        needs=("django-environ",),
    ),
    "history": Project(
        requirement="django-simple-history",
        directory=".",
        settings=HISTORY,
        # Its other tests add models as they run, so they are a run of their own.
        command=(*TEST, "simple_history.tests"),
        # It asks for its own version.
        needs=("django-simple-history",),
    ),
}
