"""Django's test cases under the runner, on real suites in processes of their own."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunSql
from tests.servers import Server
from tests.suites.project import Project

# The migrations leave one item. Whatever runs before it, each of these tests passes.
SUITE = """
    import asyncio
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from django.contrib.contenttypes.models import ContentType
    from django.db import connection
    from django.db.models.signals import post_migrate
    from django.test import LiveServerTestCase, TestCase, TransactionTestCase
    from django.test.testcases import SerializeMixin

    from shop.models import Item

    class Checks:
        def check(self, *more):
            found = list(Item.objects.order_by("id").values_list("id", "name"))
            self.assertEqual(found, list(enumerate(["first", *more], 1)))
            self.assertEqual(Item.objects.create(name="new").id, len(more) + 2)

    class Commits(Checks, TransactionTestCase):
        def test_1(self):
            self.check()
        def test_2(self):
            self.check()
            ContentType.objects.all().delete()
        def test_schema(self):
            with connection.cursor() as cursor:
                cursor.execute("CREATE TABLE extra (id int)")
            self.check()
        def test_schema_again(self):
            self.test_schema()

    # What they take from a sequence stays taken, as with stock Django.
    class ChecksNames(Checks):
        def check(self, *more):
            found = list(Item.objects.order_by("id").values_list("name", flat=True))
            self.assertEqual(found, ["first", *more])
            Item.objects.create(name="new")

    class RollsBack(ChecksNames, TestCase):
        @classmethod
        def setUpTestData(cls):
            Item.objects.create(name="of the class")
        def test_1(self):
            self.check("of the class")

    class Leaks(ChecksNames, TestCase):
        @classmethod
        def setUpClass(cls):
            Item.objects.create(name="early")
            super().setUpClass()
        def test_leaks(self):
            self.check("early")
            def leak():
                Item.objects.create(name="leaked")
                connection.close()
            thread = threading.Thread(target=leak)
            thread.start()
            thread.join()

    class WithData(Checks, TransactionTestCase):
        fixtures = ["more.json"]
        calls = 0
        @classmethod
        def setUpTestData(cls):
            cls.calls += 1
            cls.item = Item.objects.create(name="of the class")
        def test_1(self):
            self.check("fixture", "of the class")
            self.item.name = "changed"
            self.item.save()
        def test_2(self):
            self.check("fixture", "of the class")
            self.assertEqual((self.item.name, self.calls), ("of the class", 1))
        def test_schema(self):
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE shop_item")
        def test_schema_again(self):
            self.check("fixture", "of the class")
            self.test_schema()

    class Fixtures(Checks, TransactionTestCase):
        fixtures = ["more.json"]
        serialized_rollback = True
        def test_1(self):
            self.assertEqual(Item.objects.count(), 2)
        def test_2(self):
            self.assertEqual(Item.objects.count(), 2)

    class Sequences(Checks, TransactionTestCase):
        reset_sequences = True
        def test_1(self):
            self.check()
            self.assertEqual(Group.objects.create(name="a").id, 1)
        def test_2(self):
            self.test_1()

    class Few(Checks, TransactionTestCase):
        available_apps = ["shop"]
        def test_1(self):
            self.check()

    class Live(Checks, LiveServerTestCase):
        def test_1(self):
            self.check()

    # Threads that outlive a test, with connections of their own.
    class Threads(TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.executor = ThreadPoolExecutor(1)
            cls.addClassCleanup(cls.executor.shutdown)
        def test_1(self):
            self.assertEqual(self.executor.submit(Item.objects.count).result(), 1)
        test_2 = test_1
        def test_asynchronous_1(self):
            async def count():
                return await Item.objects.acount()
            self.assertEqual(asyncio.run(count()), 1)
        test_asynchronous_2 = test_asynchronous_1

    class Serialized(SerializeMixin, Checks, TransactionTestCase):
        lockfile = __file__
        def test_1(self):
            self.check()

    class NoStorm(Checks, TransactionTestCase):
        heard = []
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            post_migrate.connect(cls.hear)
            cls.addClassCleanup(post_migrate.disconnect, cls.hear)
        @classmethod
        def hear(cls, **kwargs):
            cls.heard.append(kwargs)
        def test_1(self):
            self.check()
        def test_2(self):
            self.check()
            self.assertEqual(self.heard, [])
"""

# A module whose classes start from what it sets up.
MODULE = """
    from django.test import TestCase, TransactionTestCase
    from shop.models import Item

    def setUpModule():
        Item.objects.create(name="of the module")

    class First(TransactionTestCase):
        def test_1(self):
            self.assertEqual(Item.objects.count(), 2)
            Item.objects.all().delete()
        test_2 = test_1

    class Second(TestCase):
        def test_1(self):
            self.assertEqual(Item.objects.count(), 2)
"""

FIXTURE = '[{"model": "shop.item", "pk": 2, "fields": {"name": "fixture"}}]'


@pytest.fixture
def project(clean_server: Server, tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, clean_server)
    project.write("shop/fixtures/more.json", FIXTURE)
    yield project
    project.end()


def passed(project: Project, *options: str) -> int:
    """Run the suite, which must pass, and return how many tests there were."""
    ended = project.run("test", *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (count,) = re.findall(r"Ran (\d+) test", ended.stderr)
    return int(count)


@pytest.mark.versions
def test_every_class_starts_from_the_baseline(project: Project) -> None:
    """In any order, and in workers, classes and tests find what migrations left."""
    project.write("shop/tests.py", SUITE.replace("import threading", IMPORTS))
    project.write("shop/test_module.py", MODULE)

    assert passed(project) == 26
    assert passed(project, "--reverse", "--shuffle", "3") == 26
    assert passed(project, "--parallel", "2") == 26


IMPORTS = """import threading
    from django.contrib.auth.models import Group"""


def test_flushed(project: Project) -> None:
    """A project can have what stock Django leaves: what post_migrate makes, and no more."""
    project.settings["PGSNAP"] = {"TEST": {"BASELINE": "flushed"}}
    project.write(
        "shop/tests.py",
        """
        from django.contrib.contenttypes.models import ContentType
        from django.test import TestCase, TransactionTestCase
        from shop.models import Item

        class Migrated(TestCase):
            def test_1(self):
                self.assertEqual(Item.objects.count(), 1)

        class Flushed(TransactionTestCase):
            def test_1(self):
                self.assertFalse(Item.objects.exists())
                self.assertTrue(ContentType.objects.exists())
                Item.objects.create(name="new")
            test_2 = test_1

        class Serialized(TransactionTestCase):
            serialized_rollback = True
            def test_1(self):
                self.assertEqual(Item.objects.count(), 1)
                Item.objects.create(name="new")
            test_2 = test_1
        """,
    )

    assert passed(project) == 5
    assert passed(project, "--reverse") == 5


def test_receiver_that_raises(project: Project) -> None:
    """Where the flush of a class fails, that is the class' failure, and others go on."""
    project.settings["PGSNAP"] = {"TEST": {"BASELINE": "flushed"}}
    project.write(
        "shop/tests.py",
        """
        from django.db.models.signals import post_migrate
        from django.test import TestCase, TransactionTestCase

        from shop.models import Item

        def fail_once(**_):
            post_migrate.disconnect(fail_once)
            raise ValueError("of the project")

        class First(TestCase):
            def test_1(self):
                post_migrate.connect(fail_once)

        class Second(TransactionTestCase):
            def test_1(self):
                self.fail("not reached")

        class Third(TransactionTestCase):
            def test_1(self):
                self.assertFalse(Item.objects.exists())
        """,
    )

    ended = project.run("test")

    assert "ERROR: setUpClass (shop.tests.Second)" in ended.stderr, ended.stderr
    assert "ValueError: of the project" in ended.stderr
    assert "Ran 2 tests" in ended.stderr
    assert "FAILED (errors=1)" in ended.stderr


SNAPSHOTS = """
    from django.test import TransactionTestCase
    from django_pgsnap.testing import SnapshotTestCase
    from shop.models import Item

    class Seeded(SnapshotTestCase):
        snapshot = "seeded"

        def test_1(self):
            names = [item.name for item in Item.objects.order_by("id")]
            self.assertEqual(names, {names})
            Item.objects.all().delete()
        test_2 = test_1

    class Other(TransactionTestCase):
        def test_1(self):
            self.assertNotIn("developed", [item.name for item in Item.objects.all()])
"""


def test_development_snapshots(project: Project, sql: RunSql) -> None:
    """A class starts from a snapshot, migrated to the code's state once; development stays."""
    project.settings["PGSNAP"] = {"ENABLED": True}
    sql("CREATE DATABASE shop")
    assert project.run("migrate").returncode == 0
    sql("INSERT INTO shop_item (name) VALUES ('developed')", dbname="shop")
    assert project.run("pgsnap", "take", "seeded").returncode == 0
    sql("DELETE FROM shop_item", dbname="shop")
    project.migrated()
    project.add_data("0003_more", "second", before="0002_data")
    project.write("shop/tests.py", SNAPSHOTS.format(names=["first", "developed", "second"]))

    assert passed(project) == 3
    assert project.migrated() == ["first", "second", "second"]
    assert passed(project, "--reverse") == 3
    assert project.migrated() == []
    assert sql("SELECT * FROM shop_item", dbname="shop") == []
    assert sql("SELECT name FROM django_migrations WHERE name = '0003_more'", dbname="shop") == []


def test_snapshot_that_cannot_be_migrated(project: Project, sql: RunSql) -> None:
    """Where migrating fails, the error says of which snapshot, and what to do; others go on."""
    project.settings["PGSNAP"] = {"ENABLED": True}
    sql("CREATE DATABASE shop")
    assert project.run("migrate").returncode == 0
    sql("CREATE TABLE shop_extra (id int)", dbname="shop")
    assert project.run("pgsnap", "take", "seeded").returncode == 0
    project.write("shop/migrations/0003_more.py", EXTRA)
    project.write("shop/tests.py", SNAPSHOTS.format(names=[]))

    ended = project.run("test")

    assert "(errors=1)" in ended.stderr, ended.stderr
    assert "Ran 1 test" in ended.stderr
    assert (
        "So the snapshot 'seeded' cannot be brought to the state of the code, in alias 'default'.\n"
        "Take it again: ./manage.py pgsnap take seeded --replace"
    ) in ended.stderr


EXTRA = """
    from django.db import migrations

    class Migration(migrations.Migration):
        dependencies = [("shop", "0002_data")]
        operations = [migrations.RunSQL("CREATE TABLE shop_extra (id int)")]
"""


def test_missing_snapshot(project: Project) -> None:
    """Without the snapshot the class is skipped, with the reason; or fails, where that is set."""
    project.write("shop/tests.py", SNAPSHOTS.format(names=[]))
    reason = "There is no snapshot 'seeded' of the database 'shop'."
    remedy = "Take it: ./manage.py pgsnap take seeded"

    skipped = project.run("test", "-v2")
    project.settings["PGSNAP"] = {"TEST": {"REQUIRE_SNAPSHOTS": True}}
    failed = project.run("test")
    project.settings["TEST_RUNNER"] = "django.test.runner.DiscoverRunner"
    stock = project.run("test", "shop.tests.Seeded")

    assert (skipped.returncode, "skipped=1" in skipped.stderr) == (0, True)
    assert reason in skipped.stderr
    assert (failed.returncode, f"{reason}\n{remedy}" in failed.stderr) == (1, True)
    assert "Set TEST_RUNNER = 'django_pgsnap.testing.SnapshotRunner'." in stock.stderr


def test_several_databases(project: Project) -> None:
    """Each database has its own baseline; second names and mirrors share one."""
    project.settings["DATABASES"] |= {
        "same": project.database("shop"),
        "other": project.database("store"),
        "replica": project.database("shop", TEST={"MIRROR": "default"}),
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    }
    project.write(
        "shop/tests.py",
        """
        from django.db.models.signals import post_migrate
        from django.test import TransactionTestCase
        from shop.models import Item

        class All(TransactionTestCase):
            databases = "__all__"
            heard = set()

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                post_migrate.connect(cls.hear)
                cls.addClassCleanup(post_migrate.disconnect, cls.hear)

            @classmethod
            def hear(cls, using, **_):
                cls.heard.add(using)

            def test_1(self):
                self.assertLessEqual(self.heard, {"lite"})
                for alias in ("default", "same", "replica", "other"):
                    self.assertEqual(Item.objects.using(alias).count(), 1)
                Item.objects.using("lite").create(name="new")
                Item.objects.using("other").create(name="new")
                Item.objects.using("same").create(name="new")
                self.assertEqual(Item.objects.using("default").count(), 2)
            test_2 = test_1

        class Lite(TransactionTestCase):
            databases = {"lite"}

            def test_1(self):
                self.assertFalse(Item.objects.using("lite").exists())
        """,
    )

    assert passed(project) == 3


def test_second_alias_of_one_database(project: Project, sql: RunSql) -> None:
    """Resets use no alias that the class forbids, and no role that may not put things back."""
    sql("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    reader = {"USER": "reader", "PASSWORD": "reader"}
    search_path = {"options": "-c search_path=public"}
    project.settings["DATABASES"] = {
        "reading": project.database("shop", **reader),
        "default": project.database("shop"),
        "same": project.database("shop", OPTIONS=search_path),
    }
    project.write(
        "shop/tests.py",
        """
        from django.db import connections
        from django.test import SimpleTestCase, TestCase, TransactionTestCase
        from shop.models import Item

        class Writes(TransactionTestCase):
            def test_1(self):
                self.assertEqual(Item.objects.count(), 1)
                Item.objects.create(name="new")
            test_2 = test_1

        class WritesBySecondAlias(TransactionTestCase):
            databases = {"same"}
            def test_1(self):
                self.assertEqual(Item.objects.using("same").count(), 1)
                Item.objects.using("same").create(name="new")
            test_2 = test_1

        class Reads(TransactionTestCase):
            databases = {"reading"}
            def test_1(self):
                with connections["reading"].cursor() as cursor:
                    cursor.execute("SELECT current_user")
                    self.assertEqual(cursor.fetchone(), ("reader",))
                    cursor.execute("CREATE TEMPORARY TABLE mine (id int)")
            test_2 = test_1

        class ReadsInTransactions(TestCase):
            databases = {"reading"}
            def test_1(self):
                with connections["reading"].cursor() as cursor:
                    cursor.execute("SELECT current_user")

        class All(TransactionTestCase):
            databases = "__all__"
            def test_1(self):
                self.assertEqual(Item.objects.count(), 1)
                Item.objects.using("same").create(name="new")
                with connections["default"].cursor() as cursor:
                    cursor.execute("ALTER TABLE shop_item ADD COLUMN extra int")
            test_2 = test_1
        """,
    )

    assert passed(project) == 9
    assert passed(project, "--reverse") == 9


def test_in_the_way(project: Project) -> None:
    """An error says before or after what, in which alias, and what to do.

    The next test starts from the baseline all the same, in all aliases.
    """
    project.settings["PGSNAP"] = {"WAIT_S": 0.1}
    project.settings["DATABASES"]["other"] = project.database("store")
    project.write(
        "shop/tests.py",
        """
        import threading
        from django.db import connection, transaction
        from django.test import TransactionTestCase
        from shop.models import Item

        class Stays(TransactionTestCase):
            databases = {"default", "other"}
            leave = threading.Event()
            thread = None

            @classmethod
            def _pre_setup(cls):
                if cls.thread:
                    cls.leave.set()
                    cls.thread.join()
                super()._pre_setup()

            def test_stays(self):
                inside = threading.Event()
                def stay():
                    with transaction.atomic():
                        Item.objects.create(name="uncommitted")
                        inside.set()
                        self.leave.wait()
                    connection.close()
                type(self).thread = threading.Thread(target=stay, daemon=True)
                self.thread.start()
                inside.wait()
                Item.objects.using("other").create(name="left")

            def test_then(self):
                for alias in self.databases:
                    self.assertEqual(Item.objects.using(alias).count(), 1)
        """,
    )

    ended = project.run("test")

    assert ended.returncode == 1
    assert (
        "The baseline for what comes after shop.tests.Stays.test_stays could not be put back in "
        "alias 'default': Other sessions are using 'test_shop', after a wait of 0.1 s:"
    ) in ended.stderr
    assert "idle in transaction" in ended.stderr
    assert "Ran 2 tests" in ended.stderr
    assert "FAILED (errors=1)" in ended.stderr, ended.stderr
