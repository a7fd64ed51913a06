"""The model without a table that the admin hangs on."""

import json
import subprocess
import sys

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import RequestFactory
from django.urls import path, resolve
from pytest_django import DjangoAssertNumQueries

from django_pgsnap.admin.snapshot_admin import SnapshotAdmin
from django_pgsnap.models import Snapshot
from tests.conftest import Call
from tests.project import ROOT
from tests.visiting import ALL, account, page

backstage = AdminSite(name="backstage")
backstage.register(Snapshot, SnapshotAdmin)
urlpatterns = [path("backstage/", backstage.urls)]

# As a project without psycopg starts: the admin is discovered, and the checks speak.
WITHOUT_PSYCOPG = """
import sys
sys.modules["psycopg"] = None
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
                    "django.contrib.messages", "django.contrib.sessions", "django_pgsnap"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
import django
django.setup()
from django.core.checks import run_checks
from django.contrib import admin
print([m.id for m in run_checks(tags=["django_pgsnap"])],
      [m.__name__ for m in admin.site._registry if m._meta.app_label == "django_pgsnap"])
"""


def test_migrations_say_all_there_is(live: str, call: Call) -> None:
    """The model has not changed since its migration was written."""
    printed = call("makemigrations", "django_pgsnap", "--check", "--dry-run")

    assert "No changes detected" in printed.stdout


def test_no_table_is_made(live: str, call: Call) -> None:
    """The migration runs no SQL; nothing of ours is in a migrated database."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)

    sql = call("sqlmigrate", "django_pgsnap", "0001").stdout

    assert [table for table in tables if "pgsnap" in table] == []
    assert [line for line in sql.splitlines() if line and not line.startswith("--")] == [
        "BEGIN;",
        "COMMIT;",
    ]


def test_permissions_are_there_after_migrate(live: str) -> None:
    """Each action has a permission that can be given to people and groups."""
    found = Permission.objects.filter(content_type__app_label="django_pgsnap")

    assert {permission.codename for permission in found} == {f"{name}_snapshot" for name in ALL}


def test_what_reads_all_models_finds_no_rows(
    live: str, call: Call, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """A dump of all models works, though one of them has no table; nothing is asked for it."""
    with django_assert_num_queries(0):
        assert not Snapshot.objects.exists()
        assert list(Snapshot._base_manager.all()) == []

    for options in ([], ["--all"]):
        dumped = json.loads(call("dumpdata", *options).stdout)
        assert {row["model"] for row in dumped} >= {"testapp.genre", "auth.permission"}


@pytest.mark.urls("tests.admin.test_model")
def test_a_site_of_ones_own(live: str) -> None:
    """The pages work on another admin site than the default one, and stay there."""
    request = RequestFactory().get(page("changelist"))
    request.user = account(is_superuser=True)

    response = resolve(request.path).func(request)

    assert response.status_code == 200
    assert 'href="/backstage/django_pgsnap/snapshot/add/"' in response.render().content.decode()


def test_without_psycopg_the_checks_speak() -> None:
    """A project that lacks psycopg starts, and is told; the admin has no page of ours then."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_PSYCOPG],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stdout) == (0, "['pgsnap.E001'] []\n"), run.stderr
