"""A template is used wherever migrating would give the same: what migrations do not use is free."""

import shutil
import sys
import venv
from pathlib import Path
from textwrap import dedent

from tests.suites.project import Project

SETTINGS = """
    import tempfile
    import time
    from dataclasses import dataclass, field


    @dataclass
    class Options:
        names: set = field(default_factory=lambda: {"ada", "bob", "cyd", "dan"})


    # As Django's own suite does.
    tempfile.tempdir = tempfile.mkdtemp(prefix="run_")
    MEDIA_ROOT = tempfile.mkdtemp()
    STATIC_ROOT = f"{tempfile.tempdir}/static"
    STARTED = time.time()
    OPTIONS = Options()
    USED = {"options": Options(), "place": Options}
"""

# It reaches many modules, and words in capitals that are no environment variables.
DATA = """
    from django.conf import settings
    from django.db import migrations

    from shop.airports import AIRPORTS


    def forwards(apps, schema_editor):
        assert settings.USED
        assert settings.MEDIA_ROOT and settings.STATIC_ROOT
        apps.get_model("shop", "Item").objects.create(name=AIRPORTS[0])
        with open({journal!r}, "a") as journal:
            journal.write("first\\n")


    class Migration(migrations.Migration):
        dependencies = [("shop", "0001_initial")]
        operations = [migrations.RunPython(forwards)]
"""

AIRPORTS = """
    AIRPORTS = ["first", "PWD", "USER", "LANG", "HOST", "HOME", "PATH", "TERM", "COLUMNS"]


    def never_called():
        from shop import views

        return views, __import__("os").environ["HOME"]
"""


MODEL_TESTS = """
    from django.test import TestCase

    from shop.models import Item


    class ItemTests(TestCase):
        def test_length(self):
            Item.objects.create(name="long")
"""


def edit(project: Project) -> None:
    """Change what migrations do not use."""
    project.write("shop/views.py", "pages = 2\n")
    project.write("shop/admin.py", "from django.contrib import admin\n")
    project.write("shop/templates/page.html", "changed")
    project.write("shop/static/style.css", "changed")
    project.write("shop/management/commands/other.py", "from django.core import management\n")
    project.write("shop/models.py", (project.path / "shop/models.py").read_text() + "\n# changed\n")
    project.write("docs/index.rst", "changed")
    project.write("shop.egg-info/PKG-INFO", "Name: shop\nVersion: 2\n")
    project.settings |= {"EMAIL_HOST": "another", "UNREAD": "changed"}
    project.variables |= {
        **dict.fromkeys(("USER", "LANG", "HOST", "LOGNAME", "EDITOR", "SEED"), "changed"),
        "PYTHONHASHSEED": "7",
        "TERM": "dumb",
        "COLUMNS": "40",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "PYTEST_CURRENT_TEST": "one",
        "PYTEST_XDIST_WORKER": "gw7",
    }


def test_edits(project: Project, tmp_path: Path) -> None:
    """Edits, another directory, another terminal and user: all take the template."""
    journal = str(tmp_path / "journal")
    project.write("shop/migrations/0002_data.py", DATA.format(journal=journal))
    project.write("shop/airports.py", AIRPORTS)
    project.write("shop/views.py", "pages = 1\n")
    project.write("more_settings.py", SETTINGS)
    with (project.path / "project_settings.py").open("a") as settings:
        settings.write("from more_settings import *\n")
    project.variables["PYTHONHASHSEED"] = "1"
    assert project.test() == ["first"]

    edit(project)
    ended = project.run("test", "--verbosity", "2")

    assert "Alias 'default': used a template, since nothing changed." in ended.stderr
    assert project.migrated() == []


def test_another_directory(project: Project, tmp_path: Path) -> None:
    """A second checkout of a project takes the template of the first."""
    assert project.test() == ["first"]
    there = tmp_path / "another checkout"
    shutil.copytree(project.path, there, ignore=shutil.ignore_patterns("another checkout"))
    project.path = there

    ended = project.run("test", "--verbosity", "2")

    assert "Alias 'default': used a template, since nothing changed." in ended.stderr


def test_another_virtual_environment(project: Project, tmp_path: Path) -> None:
    """The same packages in another directory are the same."""
    data = DATA.format(journal=str(tmp_path / "journal")).replace("shop.airports", "airports")
    project.write("shop/migrations/0002_data.py", data.replace("assert settings.", "settings."))
    with (project.path / "project_settings.py").open("a") as settings:
        settings.write("USED = MEDIA_ROOT = 1\n")
    ran = []

    for name in ("first", "second"):
        place = tmp_path / name
        venv.create(place, symlinks=True)
        (packages,) = place.glob("lib/python*/site-packages")
        (packages / "airports-1.dist-info").mkdir()
        (packages / "airports.py").write_text(dedent(AIRPORTS))
        (packages / "outer.pth").write_text("\n".join(filter(is_packages, sys.path)))
        project.python = str(place / "bin" / "python")
        ran.append(project.test())

    assert ran == [["first"], []]


def is_packages(path: str) -> bool:
    return path.endswith("site-packages")


def test_models_without_migrations(project: Project) -> None:
    """With --no-migrations a template serves no longer when a model is edited."""
    project.write("shop/tests.py", MODEL_TESTS)
    assert project.run_pytest("--no-migrations").returncode == 0

    models = (project.path / "shop/models.py").read_text()
    project.write("shop/models.py", models.replace("100", "3"))
    edited = project.run_pytest("--no-migrations", "-v")

    assert edited.returncode == 1
    assert "value too long for type character varying(3)" in edited.stdout
    assert "because the models without migrations changed" in edited.stdout
