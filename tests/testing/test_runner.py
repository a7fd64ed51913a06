"""The test runner, on real suites in processes of their own."""

import signal
from collections.abc import Callable
from pathlib import Path

import django
import pytest

from tests.conftest import Left, ListDatabases, RunSql
from tests.suites.project import Project

# Says that it runs, and goes on when it is told to.
BLOCKED = """
    import time
    from pathlib import Path

    from django.test import TestCase


    class Blocked(TestCase):
        def test_waits(self):
            Path("running").touch()
            while not Path("go_on").exists():
                time.sleep(0.01)
"""

READS = {
    "beside": """
        from pathlib import Path

        from django.db import migrations


        def forwards(apps, schema_editor):
            names = Path(__file__).parent.parent / "data" / "names.csv"
            apps.get_model("shop", "Item").objects.create(name=names.read_text())


        class Migration(migrations.Migration):
            dependencies = [("shop", "0002_data")]
            operations = [migrations.RunPython(forwards)]
    """,
    "here": """
        from django.db import migrations

        with open("data/names.csv") as file:
            NAME = file.read()


        def forwards(apps, schema_editor):
            apps.get_model("shop", "Item").objects.create(name=NAME)


        class Migration(migrations.Migration):
            dependencies = [("shop", "0003_beside")]
            operations = [migrations.RunPython(forwards)]
    """,
}

INSERTS = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate

    heard = []


    def insert(sender, using, **_):
        from django.contrib.contenttypes.models import ContentType
        from shop.models import Item

        heard.append(Item.objects.using(using).create(name="inserted"))
        # Remembered by its manager from then on.
        kind = ContentType.objects.create(app_label="shop", model=f"kind{heard[-1].pk}")
        ContentType.objects.get_for_id(kind.pk)


    class ShopConfig(AppConfig):
        name = "shop"

        def ready(self):
            post_migrate.connect(insert, sender=self)
"""

COUNTS = """
    from django.contrib.contenttypes.models import ContentType
    from django.test import TestCase, TransactionTestCase

    from shop.models import Item


    class Counts:
        def test_count(self):
            self.assertEqual([item.pk for item in Item.objects.order_by("id")], [1, 2])
            self.assertEqual(Item.objects.create(name="next").pk, 3)
            kinds = ContentType.objects.filter(model__startswith="kind")
            self.assertEqual([kind.model for kind in kinds], ["kind2"])
            with self.assertRaises(ContentType.DoesNotExist):
                ContentType.objects.get_for_id(kinds[0].pk + 1)


    class First(Counts, TestCase):
        pass


    class Second(Counts, TransactionTestCase):
        pass
"""

CLONES = """
    from django.db import connection
    from django.test import TransactionTestCase

    from shop.models import Item


    class Clones(TransactionTestCase):
        def test_1_clones(self):
            Item.objects.create(name="of a test")
            connection.creation.clone_test_db("own", verbosity=0)
            connection.creation.destroy_test_db(suffix="own", verbosity=0)
            connection.creation.clone_test_db("left", verbosity=0)

        def test_2_resets(self):
            self.assertEqual([item.name for item in Item.objects.all()], ["first"])
"""

# What tests that commit do to the database that the settings name outside of tests: nothing.
SNAPSHOTS = """
    import subprocess
    import sys

    from django.db import connection
    from django.test import TransactionTestCase

    from django_pgsnap import list_snapshots, restore, take
    from shop.models import Item


    class Snapshots:
        def test_here(self):
            Item.objects.create(name="kept")
            here = f"here-{type(self).__name__}"
            snapshot = take(here)
            Item.objects.all().delete()

            restore(here)

            self.assertTrue(Item.objects.filter(name="kept").exists())
            self.assertEqual(snapshot.members[0].record.source, self.database)

        def test_in_a_subprocess(self):
            there = f"there-{type(self).__name__}"
            ended = subprocess.run(
                [sys.executable, "-m", "django", "pgsnap", "take", there],
                capture_output=True, text=True,
            )

            self.assertEqual(ended.returncode, 0, ended.stderr)
            (found,) = [each for each in list_snapshots() if each.name == there]
            self.assertEqual(found.members[0].record.source, self.database)

        @property
        def database(self):
            name = connection.settings_dict["NAME"]
            self.assertTrue(name.startswith("test_shop"), name)
            return name


    class First(Snapshots, TransactionTestCase):
        pass


    class Second(Snapshots, TransactionTestCase):
        pass
"""


NO_DATABASES = """
    import subprocess
    import sys
    import unittest

    from django.test import SimpleTestCase

    from django_pgsnap import restore, take
    from django_pgsnap.errors import NotEnabledError


    class Simple(SimpleTestCase):
        def test_refused(self):
            for work in (take, restore):
                with self.assertRaisesRegex(NotEnabledError, "is not a test database of this run"):
                    work("here")
            ended = subprocess.run(
                [sys.executable, "-m", "django", "pgsnap", "take", "there"],
                capture_output=True, text=True,
            )
            self.assertIn("is not a test database of this run", ended.stderr)


    class Plain(unittest.TestCase):
        test_refused = Simple.test_refused
"""


def test_branches(project: Project, left: Left) -> None:
    """A new migration has all of them run; each branch has a template of its own."""
    assert project.test() == ["first"]
    assert project.test() == []
    project.add_data("0003_more", "second", before="0002_data")
    project.expect("first", "second")
    assert project.test() == ["first", "second"]
    # Back on the other branch, where the migration is not there yet.
    (project.path / "shop/migrations/0003_more.py").unlink()
    project.expect("first")
    assert project.test() == []
    assert left() == []


def test_files_that_migrations_read(project: Project) -> None:
    """A file that a migration reads, by a computed name or when it is imported, counts."""
    for name, number in (("beside", "0003"), ("here", "0004")):
        project.write(f"shop/migrations/{number}_{name}.py", READS[name])
    for file in (Path("shop/data/names.csv"), Path("data/names.csv")):
        project.write(str(file), "old")
    project.expect("first", "old", "old")
    assert project.test() == ["first"]
    assert project.test() == []

    project.write("shop/data/names.csv", "new")
    project.expect("first", "new", "old")
    assert project.test() == ["first"]

    project.write("data/names.csv", "new")
    project.expect("first", "new", "new")
    assert project.test() == ["first"]
    assert project.test() == []


def test_receivers_that_insert(project: Project) -> None:
    """What a receiver inserts each time is there once, whether migrations ran, and in workers."""
    project.write("shop/apps.py", INSERTS)
    project.write("shop/tests.py", COUNTS)

    assert project.test() == ["first"]
    assert project.test() == []
    assert project.test("--parallel", "2") == []


@pytest.mark.parametrize("chosen", ["setting", "option"])
def test_runner_of_somebody_else(chosen: str, project: Project) -> None:
    """Under a runner that is not ours, nobody listens to what Python reads while tests run."""
    project.write("own.py", "from django.test.runner import DiscoverRunner as Runner")
    if chosen == "setting":
        project.settings["TEST_RUNNER"] = "own.Runner"

    ended = project.run("test", *(["--testrunner", "own.Runner"] if chosen == "option" else []))

    assert ended.returncode == 0, ended.stderr


def test_options(project: Project) -> None:
    """Options of Django's runner keep their meaning, under a runner of the project's own, too."""
    project.settings["TEST_RUNNER"] = "own.Runner"
    project.write(
        "own.py",
        """
        import os
        from django.test.runner import DiscoverRunner
        from django_pgsnap.testing import SnapshotRunnerMixin

        class Own(DiscoverRunner):
            def setup_databases(self, **kwargs):
                print("own")
                return super().setup_databases(**kwargs)

        class Runner(SnapshotRunnerMixin, Own):
            def teardown_databases(self, *args, **kwargs):
                super().teardown_databases(*args, **kwargs)
                print("still announced:", "PGSNAP_TEST_DATABASES" in os.environ)
        """,
    )
    project.write(
        "shop/tests.py",
        """
        from django.test import TestCase, tag

        class Tagged(TestCase):
            @tag("chosen")
            def test_chosen(self): pass
            def test_other(self): self.fail("not chosen")
        """,
    )

    ended = project.run(
        *("test", "--tag", "chosen", "--shuffle", "1", "--reverse", "--debug-sql", "--pdb"),
        *("--timing", "--failfast"),
    )

    assert ended.returncode == 0, ended.stderr
    assert "own" in ended.stdout
    assert "still announced: False" in ended.stdout
    assert "Using shuffle seed: 1 (given)" in ended.stdout
    assert "Ran 1 test" in ended.stderr


@pytest.mark.versions
@pytest.mark.parametrize(
    "method",
    [
        "fork",
        "spawn",
        pytest.param(
            "forkserver",
            marks=pytest.mark.skipif(django.VERSION < (6,), reason="Django 6.0 brought it"),
        ),
    ],
)
def test_workers(project: Project, left: Left, sql: RunSql, method: str) -> None:
    """Each worker snapshots its own database, and so do the processes that its tests start."""
    sql("CREATE DATABASE shop")
    project.write("shop/tests.py", SNAPSHOTS)
    settings = (project.path / "project_settings.py").read_text()
    start = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    project.write("project_settings.py", start + settings)

    ended = project.run("test", "--parallel", "2", "shop")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Ran 4 tests" in ended.stderr
    assert left() == ["shop"]


def test_without_workers(project: Project, left: Left) -> None:
    """Snapshots in tests are of the test database, and go with it."""
    project.write("shop/tests.py", SNAPSHOTS)

    project.test("shop.tests.First")

    assert left() == []


def test_without_test_databases(project: Project, left: Left, sql: RunSql) -> None:
    """Where no test needs a database there is none, and development is refused all the same."""
    sql("CREATE DATABASE shop")
    project.settings["PGSNAP"] = {"ENABLED": True}
    project.write("shop/tests.py", NO_DATABASES)

    ended = project.run("test", "--debug-mode")
    parallel = project.run("test", "--parallel", "2")

    assert ended.returncode == 0, ended.stderr
    assert "Ran 2 tests" in ended.stderr
    assert parallel.returncode == 0, parallel.stderr
    assert left() == ["shop"]


def test_keepdb(project: Project, left: Left, sql: RunSql) -> None:
    """A kept database is used with all that is in it, and migrated; other runs do not see it."""
    assert project.test("--keepdb") == ["first"]
    assert left() == ["test_shop"]
    sql("INSERT INTO shop_item (name) VALUES ('left')", dbname="test_shop")
    project.expect("first", "left")
    assert project.test("--keepdb") == []
    project.add_data("0003_more", "second", before="0002_data")
    project.expect("first", "left", "second")
    assert project.test("--keepdb") == ["second"]
    assert project.test("--keepdb") == []
    project.expect("first", "second")
    assert project.test() == ["first", "second"]
    assert left() == []


def test_kept_clones(project: Project) -> None:
    """Kept databases of workers follow the migrations, too (Django's ticket 26822)."""
    project.write("shop/test_more.py", (project.path / "shop/tests.py").read_text())
    project.test("--keepdb", "--parallel", "2")
    project.add_data("0003_more", "second", before="0002_data")
    project.expect("first", "second")
    project.write("shop/test_more.py", (project.path / "shop/tests.py").read_text())

    assert project.test("--keepdb", "--parallel", "2") == ["second"]


def test_killed_run(project: Project, left: Left) -> None:
    """What a killed run left is swept without a question, whatever its database was called."""
    project.write("shop/tests.py", BLOCKED)
    killed = project.start("test")
    project.wait_for("running")
    killed.kill()
    killed.wait()
    # And the clone of it that resets start from.
    assert left()[1:] == ["test_shop"]
    project.settings["DATABASES"]["default"]["TEST"] = {"NAME": "another"}
    project.expect("first")

    project.test()

    assert left() == []


def test_killed_while_migrating(project: Project, left: Left) -> None:
    """A template is complete or not there: what was half migrated is swept."""
    migration = (project.path / "shop/migrations/0002_data.py").read_text()
    wait = "import time; open('running', 'w').close(); time.sleep(60)"
    blocked = migration.replace("    Item =", f"    {wait}\n    Item =")
    project.write("shop/migrations/0002_data.py", blocked)
    killed = project.start("test")
    project.wait_for("running")
    killed.kill()
    killed.wait()
    assert left() == ["test_shop"]
    project.write("shop/migrations/0002_data.py", migration)

    assert project.test() == ["first"]
    assert left() == []


def test_living_run(project: Project, left: Left) -> None:
    """A run that lives is left alone, and named to another one that wants its database.

    After Ctrl-C its databases are dropped, as ever.
    """
    project.write("shop/tests.py", BLOCKED)
    living = project.start("test")
    project.wait_for("running")

    other = project.run("test", "--no-input")

    assert other.returncode == 1
    assert "The test database 'test_shop' is in use by another test run: pid" in other.stderr
    living.send_signal(signal.SIGINT)
    # Django's runner lets the test at hand end.
    (project.path / "go_on").touch()
    living.communicate(timeout=120)
    assert left() == []


def test_built_once(project: Project) -> None:
    """Of runs that start together, one migrates, and the others clone what it made."""
    started = []
    for number in range(3):
        project.settings["DATABASES"]["default"]["TEST"] = {"NAME": f"together_{number}"}
        started.append(project.start("test"))

    for each in started:
        _, stderr = each.communicate(timeout=60)
        assert each.returncode == 0, stderr
    assert project.migrated() == ["first"]


def test_foreign_database(project: Project, left: Left, sql: RunSql) -> None:
    """A database that somebody made under the name is not dropped without a question."""
    sql("CREATE DATABASE test_shop")

    asked = project.run("test")

    assert asked.returncode == 1
    assert "Type 'yes' if you would like to try deleting the test database" in asked.stdout
    assert left() == ["test_shop"]
    assert project.test("--no-input") == ["first"]
    assert left() == []


@pytest.mark.parametrize("run", [Project.test, Project.pytest])
def test_clones_of_a_test(run: Callable[[Project], object], project: Project, left: Left) -> None:
    """A test that makes a database is reset like any other; what it leaves the next run drops."""
    project.write("shop/tests.py", CLONES)
    run(project)
    assert left() == ["test_shop_left"]
    project.expect("first")

    run(project)

    assert left() == []


def test_several_aliases(project: Project, left: Left) -> None:
    """Each database has a template of its own; mirrors and second names share one.

    Receivers of post_migrate are told of each, whether it was migrated or cloned.
    """
    project.settings["DATABASES"] |= {
        "same": project.database("shop"),
        "other": project.database("store"),
        "replica": project.database("shop", TEST={"MIRROR": "default"}),
    }
    project.write(
        "shop/apps.py",
        """
        from django.apps import AppConfig
        from django.db.models.signals import post_migrate

        heard = []

        def hear(using, **_):
            heard.append(using)

        class ShopConfig(AppConfig):
            name = "shop"

            def ready(self):
                post_migrate.connect(hear, sender=self)
        """,
    )
    project.write(
        "shop/tests.py",
        """
        from django.db import connections
        from django.test import TestCase
        from shop.apps import heard
        from shop.models import Item

        class Aliases(TestCase):
            databases = "__all__"

            def test_names(self):
                names = {alias: connections[alias].settings_dict["NAME"] for alias in connections}
                self.assertEqual(names, {
                    "default": "test_shop", "same": "test_shop", "replica": "test_shop",
                    "other": "test_store",
                })
                self.assertEqual(heard, ["default", "other"])
                for alias in ("default", "other"):
                    self.assertEqual(Item.objects.using(alias).count(), 1)
        """,
    )

    assert project.test() == ["first", "first"]
    assert project.test() == []
    assert left() == []


def test_no_templates(project: Project, left: Left, databases: ListDatabases) -> None:
    """With KEEP at 0 a run leaves nothing, so that every run migrates."""
    project.settings["PGSNAP"] = {"TEST": {"KEEP": 0}}

    assert project.test() == ["first"]
    assert left() == []
    assert databases() == []


def test_failing_suite(project: Project, left: Left) -> None:
    """Failures are told as ever, and the databases dropped."""
    project.expect("something else")

    ended = project.run("test")

    assert ended.returncode == 1
    assert "FAILED (failures=1)" in ended.stderr
    assert left() == []


def test_app_is_missing(project: Project, left: Left) -> None:
    """Without the app not all processes of a run would know of it, so there is none."""
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
    project.settings["INSTALLED_APPS"] = apps

    ended = project.run("test")

    assert ended.returncode == 1
    assert ended.stderr.endswith(
        "CommandError: SnapshotRunner needs its app.\nAdd 'django_pgsnap' to INSTALLED_APPS.\n"
    ), ended.stderr
    assert left() == []


def test_settings_of_the_database(project: Project, sql: RunSql) -> None:
    """What a migration sets on its database itself is there in clones, too."""
    project.write(
        "shop/migrations/0003_setting.py",
        """
        from django.db import migrations

        SET = '''DO $$ BEGIN EXECUTE format(
            'ALTER DATABASE %I SET app.tenant = %L', current_database(), 'ada'); END $$'''

        class Migration(migrations.Migration):
            dependencies = [("shop", "0002_data")]
            operations = [migrations.RunSQL(SET)]
        """,
    )
    project.test("--keepdb")
    sql("DROP DATABASE test_shop")
    project.test("--keepdb")

    assert sql("SHOW app.tenant", dbname="test_shop") == [("ada",)]
