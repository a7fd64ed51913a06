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

# The tenant's model and TENANT_APPS stay in the apps that are migrated per tenant.
TENANTS = """
from dts_test_project.settings import *
DATABASES = {"default": {**database("tenants"), "ENGINE": "django_tenants.postgresql_backend"}}
SHARED_APPS = (*SHARED_APPS, "django_pgsnap")
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

OSCAR = """
from tests.settings import *
DATABASES = {"default": database("oscar")}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
# In files, a run would find the index of the one before. Whoosh names files at random, and shuffled
# tests begin with the same seed. Where a name is there, Whoosh fails, and keeps its lock.
HAYSTACK_CONNECTIONS["default"]["STORAGE"] = "ram"
"""

ALLAUTH = """
from tests.projects.regular.settings import *
DATABASES = {"default": database("allauth")}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
"""

HEALTHCHECKS = """
from hc.settings import *
DATABASES = {"default": database("healthchecks")}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TEST_RUNNER = os.environ["COMPAT_RUNNER"]
"""

WAGTAIL = """
os.environ["DATABASE_ENGINE"] = "django.db.backends.postgresql"
from wagtail.test.settings import *
DATABASES = {"default": database("wagtail")}
INSTALLED_APPS = [*INSTALLED_APPS, "django_pgsnap"]
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
        settings: Its settings, as the text of a module.
        command: What is run, after the interpreter's name.
        requirement: What pip fetches.
        repository: Where it is on GitHub, if source distributions are without tests.
        directory: Where in the source the suite is started.
        by_pytest: Whether that is pytest.
        paths: Directories of the distribution to import from.
        needs: What else has to be installed.
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

WAGTAIL_PARTS = ("wagtail.tests", "wagtail.contrib", "wagtail.documents", "wagtail.snippets")

# Parts of Django whose tests change the schema.
DJANGO_DDL_PARTS = (
    *("migrations", "schema", "multiple_database", "backends", "inspectdb", "postgres_tests"),
    *("migrate_signals", "admin_views", "async"),
)

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
            "django-pgtrigger",  # it asks for its own version
            *("django-postgres-extra", "django-dynamic-fixture", "django-pgbulk"),
            *("pytest-order", "pytest-mock"),
        ),
    ),
    "pghistory": Project(
        repository="AmbitionEng/django-pghistory",
        settings=PGHISTORY,
        command=(*PYTEST, "pghistory/tests"),
        by_pytest=True,
        needs=(
            *("django-pghistory", "django-extensions", "django-dynamic-fixture"),
            *("pytest-mock", "pytest-asyncio", "beautifulsoup4"),
        ),
    ),
    "psqlextra": Project(
        repository="SectorLabs/django-postgres-extra",
        settings=PSQLEXTRA,
        command=(*PYTEST, "-m", "not benchmark", "tests"),
        by_pytest=True,
        needs=("django-postgres-extra", "freezegun", "syrupy", "pytest-freezer"),
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
    "tenants": Project(
        repository="django-tenants/django-tenants",
        directory="dts_test_project",
        settings=TENANTS,
        command=(*TEST, "django_tenants"),
        paths=(".", "dts_test_project"),
        needs=("tblib",),  # without it, Django's workers cannot tell of a test that fails
    ),
    "oscar": Project(
        repository="django-oscar/django-oscar",
        settings=OSCAR,
        command=(*PYTEST, "tests"),
        by_pytest=True,
        paths=(".", "src"),
        needs=("django-oscar[test]", "whoosh", "psycopg"),
    ),
    "allauth": Project(
        requirement="django-allauth",
        settings=ALLAUTH,
        command=(*PYTEST, "tests"),
        by_pytest=True,
        needs=(
            "django-allauth[headless,headless-spec,idp-oidc,mfa,openid,socialaccount,steam]",
            *("djangorestframework", "django-ninja", "pillow", "pytest-asyncio"),
        ),
    ),
    "healthchecks": Project(
        repository="healthchecks/healthchecks",
        settings=HEALTHCHECKS,
        command=(*TEST, "hc"),
        needs=(
            *("aiosmtpd", "cronsim", "django-compressor", "django-stubs-ext", "fido2"),
            *("oncalendar", "pycurl", "pydantic", "pyjwt[crypto]", "pyotp", "segno", "statsd"),
            *("time-machine", "whitenoise", "argon2-cffi", "apprise", "minio", "markdown"),
            "pygments",
        ),
    ),
    "wagtail": Project(
        repository="wagtail/wagtail",
        settings=WAGTAIL,
        command=(*TEST, *WAGTAIL_PARTS),
        needs=(
            *("wagtail", "jinja2", "freezegun", "responses", "django-pattern-library", "tblib"),
        ),
    ),
}
