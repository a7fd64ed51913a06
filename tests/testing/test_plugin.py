"""The pytest plugin, on real suites in processes of their own."""

import subprocess
import sys
from textwrap import dedent

import pytest

from tests.conftest import Left, ListDatabases, RunSql
from tests.servers import Server
from tests.suites.project import INITIAL, TIMEOUT_S, Project

# What suites of pytest have: functions with comments, fixtures, and Django's own classes.
SUITE = """
    import os

    import pytest
    from django.db import connection
    from django.test import TestCase

    from shop.models import Item

    EXPECTED = os.environ["EXPECTED"].split()
    WORKER = os.environ.get("PYTEST_XDIST_WORKER")


    def names():
        return [item.name for item in Item.objects.order_by("id")]


    class ItemTests(TestCase):
        def test_migrated(self):
            assert names() == EXPECTED


    @pytest.mark.django_db
    @pytest.mark.parametrize("number", range(4))
    def test_migrated(number):
        assert names() == EXPECTED
        here = connection.settings_dict["NAME"]
        assert here == ("test_shop_" + WORKER if WORKER else "test_shop")


    def test_without_database():
        pass
"""

SNAPSHOTS = """
    import subprocess
    import sys

    import pytest
    from django.db import connection

    from django_pgsnap import PgsnapError, list_snapshots
    from shop.models import Item


    def test_restored(pgsnap):
        Item.objects.create(name="kept")
        snapshot = pgsnap.take("before")
        Item.objects.all().delete()

        pgsnap.restore("before")

        assert Item.objects.filter(name="kept").exists()
        assert [each.record.source for each in snapshot.members] == ["test_shop"]
        pgsnap.undo()
        assert not Item.objects.exists()


    @pytest.mark.django_db
    def test_gone(pgsnap):
        assert list_snapshots() == ()
        with pytest.raises(PgsnapError, match="The alias 'other' leads to the database 'store'"):
            from django_pgsnap import take
            take(databases=["other"])


    def test_in_a_process(pgsnap):
        command = [sys.executable, "-m", "django", "pgsnap", "take", "there"]
        subprocess.run(command, check=True, capture_output=True)
        (snapshot,) = list_snapshots()
        assert [each.record.source for each in snapshot.members] == ["test_shop"]
"""

BASELINES = """
    import asyncio

    import pytest
    from django.db import transaction
    from django.test import TestCase, TransactionTestCase

    from shop.models import Item

    ran = []


    def names():
        return [item.name for item in Item.objects.order_by("id")]


    def commit():
        Item.objects.all().delete()
        return Item.objects.create(name="left behind").pk


    # Data of migrations stays, and so do the numbers that sequences give.
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("number", range(2))
    def test_function(number):
        assert names() == ["first"]
        assert commit() == 2


    @pytest.mark.parametrize("number", range(2))
    def test_fixture(number, transactional_db):
        assert names() == ["first"]
        assert commit() == 2


    # Asynchronous code has a thread that outlives a test, with a connection of its own.
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("number", range(2))
    def test_asynchronous(number):
        async def count():
            return await Item.objects.acount()

        assert asyncio.run(count()) == 1


    def test_live_server(live_server):
        assert names() == ["first"]
        commit()


    class DataTests(TransactionTestCase):
        @classmethod
        def setUpTestData(cls):
            ran.append(cls)
            cls.item = Item.objects.create(name="of the class")

        def test_one(self):
            assert names() == ["first", "of the class"]
            assert commit() == 3

        test_two = test_one


    def test_after(transactional_db):
        assert ran == [DataTests]
        assert names() == ["first"]


    @pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
    class BrokenTests(TransactionTestCase):
        @classmethod
        def setUpTestData(cls):
            commit()
            1 / 0

        def test_not_reached(self):
            pass


    def test_after_broken(transactional_db):
        assert names() == ["first"]


    @pytest.fixture(scope="class")
    def item(pgsnap_class):
        with pgsnap_class():
            return Item.objects.create(name="of a fixture")


    class TestClass:
        @pytest.mark.parametrize("number", range(2))
        def test_commits(self, item, transactional_db, number):
            assert names() == ["first", "of a fixture"]
            assert commit() == 3

        def test_in_transaction(self, item, db):
            assert names() == ["first", "of a fixture"]


    @pytest.mark.django_db
    def test_after_all():
        assert names() == ["first"]


    class LastTests(TestCase):
        def test_migrated(self):
            assert names() == ["first"]
"""

MARKED = """
    import pytest

    from shop.models import Item


    def names():
        return [item.name for item in Item.objects.order_by("id")]


    @pytest.mark.pgsnap("seeded")
    def test_in_transaction():
        assert names() == ["first", "of the developer"]


    @pytest.mark.django_db(transaction=True)
    @pytest.mark.pgsnap("seeded")
    @pytest.mark.parametrize("number", range(2))
    def test_commits(number):
        assert names() == ["first", "of the developer"]
        Item.objects.all().delete()


    @pytest.mark.django_db(transaction=True)
    def test_without():
        assert names() == ["first"]


    @pytest.mark.pgsnap("missing")
    def test_missing():
        assert False
"""

FIXTURE = """
    import pytest

    @pytest.fixture(scope="session")
    def django_db_setup(django_db_setup, django_db_blocker):
        from shop.models import Item

        with django_db_blocker.unblock():
            Item.objects.create(name="own")
"""


# A run that has just been killed would be gone soon, this one is not.
IMPATIENT = """
    from django_pgsnap.testing.databases import own_databases

    own_databases._GONE_S = 0.1
"""

NO_SETUP = """
    import os

    import pytest

    @pytest.fixture(scope="session")
    def django_db_setup():
        pass

    def pytest_unconfigure():
        print("still announced:", "PGSNAP_TEST_DATABASES" in os.environ)
"""

NO_DATABASES = """
    import subprocess
    import sys

    import pytest

    from django_pgsnap import take
    from django_pgsnap.errors import NotEnabledError

    REFUSED = "leads to the database 'shop', which is not a test database of this run"


    def test_without_database():
        with pytest.raises(NotEnabledError, match=REFUSED):
            take("here")
        command = [sys.executable, "-m", "django", "pgsnap", "take", "there"]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert REFUSED in ended.stderr


    def test_without_setup(django_db_setup, django_db_blocker):
        with django_db_blocker.unblock(), pytest.raises(NotEnabledError, match=REFUSED):
            take("here", spare=False)
"""


# What a class started from is put back, whatever goes wrong at its end.
FAILING_TEARDOWN = """
    from django.test import TransactionTestCase

    from django_pgsnap.testing import SnapshotTestCase
    from shop.models import Item


    class FirstTests(SnapshotTestCase):
        snapshot = "seeded"

        def test_developers(self):
            assert Item.objects.filter(name="of the developer").exists()

        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise RuntimeError


    class SecondTests(TransactionTestCase):
        def test_none(self):
            assert not Item.objects.filter(name="of the developer").exists()
"""


@pytest.fixture
def suite(project: Project) -> Project:
    project.write("shop/tests.py", SUITE)
    project.variables["EXPECTED"] = "first"
    return project


def test_template(suite: Project, left: Left) -> None:
    """With nothing to configure, the first run migrates, and the next clones what it made.

    Also where the project has a fixture of its own in the place of pytest-django's.
    """
    suite.write("conftest.py", FIXTURE)
    suite.variables["EXPECTED"] = "first own"

    assert suite.pytest() == ["first"]
    assert suite.pytest() == []
    assert left() == []


@pytest.mark.versions
def test_workers(suite: Project, left: Left) -> None:
    """Of the workers one migrates, and each has a clone of its own."""
    assert suite.pytest("-n", "2") == ["first"]
    assert left() == []


def test_notices(suite: Project) -> None:
    """With -v, pytest says at once why a template was used or not, once for all workers."""
    first = suite.run_pytest("-v")
    suite.variables["PYTHONHASHSEED"] = "7"
    second = suite.run_pytest("-v", "-n", "2")
    third = suite.run_pytest()
    suite.write("shop/migrations/0001_initial.py", "# changed\n" + dedent(INITIAL))
    fourth = suite.run_pytest("-n", "2")

    told = "pgsnap: Alias 'default': "
    made = f"\n{told}made by migrating, because there is no template yet.\n"
    assert first.stdout.index(made) < first.stdout.index("PASSED")
    assert second.stdout.count(f"{told}used a template, since nothing changed.") == 1
    assert told not in third.stdout
    because = "because shop/migrations/0001_initial.py changed."
    assert fourth.stdout.count(f"{told}made by migrating, {because}") == 1


def test_kept(suite: Project, left: Left, sql: RunSql) -> None:
    """--reuse-db keeps and migrates, --create-db begins anew, and both together keep the new."""
    suite.pytest("--reuse-db")
    assert left() == ["test_shop"]
    sql("INSERT INTO shop_item (name) VALUES ('left')", dbname="test_shop")
    suite.add_data("0003_more", "second", before="0002_data")

    suite.variables["EXPECTED"] = "first left second"
    assert suite.pytest("--reuse-db") == ["second"]
    suite.variables["EXPECTED"] = "first second"
    assert suite.pytest("--reuse-db", "--create-db") == ["first", "second"]
    sql("INSERT INTO shop_item (name) VALUES ('third')", dbname="test_shop")
    suite.variables["EXPECTED"] = "first second third"
    assert suite.pytest("--reuse-db") == []

    assert left() == ["test_shop"]


def test_no_migrations(suite: Project, left: Left, databases: ListDatabases) -> None:
    """With --no-migrations the models make the tables, and that has a template of its own."""
    suite.variables["EXPECTED"] = ""
    assert suite.pytest("--no-migrations") == []
    assert left() == []
    before = databases()

    assert suite.pytest("--no-migrations") == []

    assert left() == []
    # The same template, and another spare of it.
    assert [each.name for each in databases()] == [each.name for each in before]
    assert len({each.oid for each in databases()} & {each.oid for each in before}) == 1


def test_snapshots(project: Project, left: Left) -> None:
    """The fixture pgsnap snapshots test databases only, and leaves nothing to the next test."""
    project.settings["DATABASES"]["other"] = project.database("store")
    project.settings["PGSNAP"] = {"ENABLED": True}
    project.write("shop/tests.py", SNAPSHOTS)

    project.pytest()

    assert left() == []


def test_without_test_databases(project: Project, left: Left, sql: RunSql) -> None:
    """Whoever sets up no test database, or needs none, does not get at development."""
    sql("CREATE DATABASE shop")
    project.settings["PGSNAP"] = {"ENABLED": True}
    project.write("conftest.py", NO_SETUP)
    project.write("shop/tests.py", NO_DATABASES)

    ended = project.run_pytest("-s")

    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout
    assert "still announced: False" in ended.stdout
    assert left() == ["shop"]


def test_baselines(project: Project, left: Left, clean_server: Server) -> None:
    """Tests that commit are followed by a reset, and classes have baselines of their own."""
    project.write("shop/tests.py", BASELINES)
    before = clean_server.log_size_bytes

    project.pytest()

    assert left() == []
    # All is given up before the session that holds the locks ends.
    assert "WARNING" not in clean_server.read_log(before)


def test_development_snapshots(project: Project, left: Left, sql: RunSql) -> None:
    """Tests with the mark start from a development snapshot, others do not; one may be missing."""
    sql("CREATE DATABASE shop")
    project.settings["PGSNAP"] = {"ENABLED": True}
    assert project.run("migrate").returncode == 0
    sql("INSERT INTO shop_item (name) VALUES ('of the developer')", dbname="shop")
    assert project.run("pgsnap", "take", "seeded").returncode == 0
    project.write("shop/tests.py", MARKED)

    ended = project.run_pytest("-rs")

    assert ended.returncode == 0, ended.stdout
    assert "4 passed, 1 skipped" in ended.stdout
    assert "missing" in ended.stdout

    project.write("shop/tests.py", FAILING_TEARDOWN)
    assert "2 passed, 1 error" in project.run_pytest().stdout


@pytest.mark.parametrize("how", ["app", "option"])
def test_off(suite: Project, databases: ListDatabases, how: str) -> None:
    """Where the app is not installed, or by an option, test databases are Django's own."""
    if how == "app":
        apps = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
        suite.settings["INSTALLED_APPS"] = apps
    options = ["-p", "no:pgsnap"] if how == "option" else []

    assert suite.pytest(*options) == ["first"]
    assert databases() == []


def test_imports() -> None:
    """Loading the plugin imports neither Django nor anything else of the package."""
    code = """
import sys

import django_pgsnap.testing.plugin
print(*(name for name in sys.modules if name.split(".")[0] in ("django", "django_pgsnap")))
"""

    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert printed.stdout.split() == [
        "django_pgsnap",
        "django_pgsnap.testing",
        "django_pgsnap.testing.plugin",
    ]


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_two_runs_at_once(project: Project, options: tuple[str, ...]) -> None:
    """The second one ends with one error that says who holds the database."""
    project.write("conftest.py", IMPATIENT)
    project.write(
        "shop/tests.py",
        """
        import pathlib
        import time

        import pytest
        from shop.models import Item

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(20))
        def test_slow(number):
            pathlib.Path("running").touch()
            while not pathlib.Path("ended").exists():
                time.sleep(0.01)
        """,
    )
    started = project.start_pytest(*options)
    project.wait_for("running")

    other = project.run_pytest(*options)

    project.write("ended", "")
    stdout, _ = started.communicate(timeout=TIMEOUT_S)
    assert started.returncode == 0, stdout
    assert other.returncode != 0
    printed = other.stdout + other.stderr
    workers = max(len(options), 1)
    # On CI pytest's summary repeats each error in full.
    details = printed.partition("short test summary info")[0]
    assert 1 <= details.count("is in use by another test run: pid") <= workers, printed
    assert "Wait for that run" in printed
    assert "Traceback" not in printed, printed
