"""A template is used only where migrating would give the same: each thing that it can depend on.

A project is tested, then one thing is changed that its migrations use. The next run has the rows
that migrating from scratch gives, which the suite compares.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.suites.project import Project

# What a migration gets, and how. Some ways need more of the project than a module.
MIGRATION = """
    from django.db import migrations
    {imports}

    def forwards(apps, schema_editor):
        {body}
        apps.get_model("shop", "Item").objects.create(name=value)


    class Migration(migrations.Migration):
        dependencies = [("shop", "0001_initial")]
        operations = [migrations.RunPython(forwards)]
"""

USER = """
    from django.contrib.auth.models import AbstractUser, UserManager
    from django.db import models
    from django.db.models.signals import pre_save


    class Manager(UserManager):
        def create_user(self, username, **fields):
            return super().create_user(username + "{manager}", **fields)


    class User(AbstractUser):
        role = models.CharField(max_length=100, default="{default}")
        objects = Manager()

        def save(self, **options):
            self.first_name = "{save}"
            super().save(**options)


    class Item(models.Model):
        name = models.CharField(max_length=100)
"""

USER_INITIAL = """
    from django.db import migrations, models


    class Migration(migrations.Migration):
        initial = True
        dependencies = [("auth", "0012_alter_user_first_name_max_length")]
        operations = [
            migrations.CreateModel(
                name="User",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    *[(name, models.CharField(max_length=200, default="")) for name in (
                        "username", "password", "first_name", "last_name", "email", "role",
                    )],
                    *[(name, models.BooleanField(default=False)) for name in (
                        "is_superuser", "is_staff", "is_active",
                    )],
                    ("last_login", models.DateTimeField(null=True)),
                    ("date_joined", models.DateTimeField(null=True)),
                ],
            ),
            migrations.CreateModel(
                name="Item",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100)),
                ],
            ),
        ]
"""

RECEIVES = """
    from django.apps import AppConfig


    class ShopConfig(AppConfig):
        name = "shop"

        def ready(self):
            import shop.receivers
"""

Change = Callable[[Project], object]


@dataclass(kw_only=True)
class Case:
    """One way in which migrations use something.

    Attributes:
        body: What the migration does to get its value.
        files: The project's files, by name; VALUE in them is what changes.
        first: The value at first.
        then: The value after the change.
        change: What changes beside VALUE.
        settings: Settings at first.
        user: Whether the project has a user model of its own.
        why: What the run says has changed, where that is not what VALUE is in.
    """

    body: str
    files: dict[str, str] = field(default_factory=dict)
    first: str = "old"
    then: str = "new"
    change: Change = lambda _: None
    settings: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    imports: str = ""
    user: bool = False
    why: str = ""

    @property
    def reason(self) -> str:
        """What the run says has changed."""
        if self.user:
            return self.why or "shop/models.py changed"
        texts = {
            **{f"{name} changed": text for name, text in self.files.items()},
            **{f"the setting {name} changed": text for name, text in self.settings.items()},
            **{
                f"the environment variable {name} changed": text
                for name, text in self.variables.items()
            },
        }
        return self.why or next(name for name, text in texts.items() if "VALUE" in text)


def catalog(translation: str) -> bytes:
    """Return a compiled message catalog that translates `greeting`."""
    entries = [
        (b"", b"Content-Type: text/plain; charset=UTF-8\n"),
        (b"greeting", translation.encode()),
    ]
    ids = b"".join(key + b"\0" for key, _ in entries)
    start = 28 + 16 * len(entries)
    offsets, place, end = [], start, start + len(ids)
    for key, _ in entries:
        offsets += [len(key), place]
        place += len(key) + 1
    for _, value in entries:
        offsets += [len(value), end]
        end += len(value) + 1
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    body = struct.pack(f"<{len(offsets)}I", *offsets)
    return head + body + ids + b"".join(value + b"\0" for _, value in entries)


def write_catalog(project: Project) -> None:
    path = project.path / "shop/locale/de/LC_MESSAGES/django.mo"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(catalog("new"))


def add_receiver(project: Project) -> None:
    project.write("shop/apps.py", RECEIVES)
    project.write("shop/receivers.py", NEW_RECEIVER)


NEW_RECEIVER = """
    from django.db.models.signals import post_migrate


    def receive(**_):
        from shop.models import Item

        Item.objects.filter(name="old").update(name="new")


    post_migrate.connect(receive)
"""

GETTER = 'def get():\n    return "VALUE"\n'
CREATE_USER = 'value = get_user_model().objects.create_user("u").{}'
GET_USER = "from django.contrib.auth import get_user_model"

CASES: dict[str, Case] = {
    "imported function": Case(
        imports="from shop.seed import get", body="value = get()", files={"shop/seed.py": GETTER}
    ),
    "imported constant": Case(
        imports="from shop.seed import NAME",
        body="value = NAME",
        files={"shop/seed.py": "from .deeper import NAME\n", "shop/deeper.py": 'NAME = "VALUE"\n'},
    ),
    "lazy import": Case(
        body="from shop.seed import NAME as value", files={"shop/seed.py": 'NAME = "VALUE"\n'}
    ),
    "constant of a module that is executed": Case(
        imports="from shop.seed import get",
        body="value = get()",
        files={
            "shop/seed.py": "from .deeper import NAME\ndef get():\n    return NAME\n",
            "shop/deeper.py": 'NAME = "VALUE"\n',
        },
    ),
    "function called at import, with a lazy import": Case(
        imports="from shop.seed import NAME",
        body="value = NAME",
        files={
            "shop/seed.py": "from .other import get\nNAME = get()\n",
            "shop/other.py": "def get():\n    from .deeper import NAME\n    return NAME\n",
            "shop/deeper.py": 'NAME = "VALUE"\n',
        },
    ),
    "manager of the user model": Case(
        imports=GET_USER, body=CREATE_USER.format("username[1:]"), files={}, user=True
    ),
    "save of the user model": Case(
        imports=GET_USER, body=CREATE_USER.format("first_name"), user=True
    ),
    "default of the user model": Case(imports=GET_USER, body=CREATE_USER.format("role"), user=True),
    "save by the global registry": Case(
        imports="from django.apps import apps as registry",
        body="user = registry.get_model('shop', 'User')(username='u'); user.save();"
        " value = user.first_name",
        user=True,
    ),
    "attribute of a model by the registry": Case(
        imports="from django.apps import apps as registry",
        body="value = registry.get_model('shop', 'Item').SEED",
        files={
            "shop/models.py": """
                from django.db import models
                from shop.mixins import Mixin

                class Item(Mixin, models.Model):
                    name = models.CharField(max_length=100)
            """,
            "shop/mixins.py": 'class Mixin:\n    SEED = "VALUE"\n',
        },
    ),
    "receiver of pre_save without a sender": Case(
        imports=GET_USER,
        body=CREATE_USER.format("last_name"),
        files={
            "shop/apps.py": RECEIVES,
            "shop/receivers.py": """
                from django.db.models.signals import pre_save

                def receive(instance, **_):
                    instance.last_name = "VALUE"

                pre_save.connect(receive)
            """,
        },
        user=True,
        why="shop/receivers.py changed",
    ),
    "receiver of post_save that loaddata calls": Case(
        body="from django.core.management import call_command;"
        " from shop.models import Item as Real; call_command('loaddata', 'items', verbosity=0);"
        " value = Real.objects.last().name; Real.objects.all().delete()",
        files={
            "shop/apps.py": RECEIVES,
            "shop/receivers.py": """
                from django.db.models.signals import post_save

                def receive(instance, **_):
                    type(instance).objects.filter(pk=instance.pk).update(name="VALUE")

                post_save.connect(receive, sender="shop.Item")
            """,
            "shop/fixtures/items.json": json.dumps(
                [{"model": "shop.item", "pk": 7, "fields": {"name": "loaded"}}]
            ),
        },
    ),
    "fixture": Case(
        body="from django.core.management import call_command;"
        " from shop.models import Item as Real; call_command('loaddata', 'items', verbosity=0);"
        " value = Real.objects.last().name; Real.objects.all().delete()",
        files={
            "shop/fixtures/items.json": json.dumps(
                [{"model": "shop.item", "pk": 7, "fields": {"name": "VALUE"}}]
            ),
        },
    ),
    "receiver that is new": Case(
        why="who listens to signals of all models changed",
        body="value = 'old'",
        files={"shop/receivers.py": ""},
        settings={},
        change=add_receiver,
    ),
    "command of the project": Case(
        body="from django.core.management import call_command; value = call_command('seed')",
        files={
            "shop/management/__init__.py": "",
            "shop/management/commands/__init__.py": "",
            "shop/management/commands/seed.py": """
                from django.core.management import BaseCommand

                class Command(BaseCommand):
                    def handle(self, **_):
                        return "VALUE"
            """,
        },
    ),
    "the project's own migrate": Case(
        body="value = 'old'",
        files={
            "shop/management/__init__.py": "",
            "shop/management/commands/__init__.py": "",
            "shop/management/commands/migrate.py": """
                from django.core.management.commands import migrate

                class Command(migrate.Command):
                    def handle(self, **options):
                        super().handle(**options)
                        from shop.models import Item
                        Item.objects.update(name="VALUE")
            """,
        },
    ),
    "a migrate command that is new": Case(
        why="the command migrate changed",
        body="value = 'old'",
        files={"shop/management/__init__.py": "", "shop/management/commands/__init__.py": ""},
        change=lambda project: project.write(
            "shop/management/commands/migrate.py",
            """
            from django.core.management.commands import migrate

            class Command(migrate.Command):
                def handle(self, **options):
                    super().handle(**options)
                    from shop.models import Item
                    Item.objects.update(name="new")
            """,
        ),
    ),
    "database backend": Case(
        body="value = schema_editor.connection.seed()",
        files={
            "shop/backend/__init__.py": "",
            "shop/backend/base.py": """
                from django.db.backends.postgresql import base

                class DatabaseWrapper(base.DatabaseWrapper):
                    def seed(self):
                        return "VALUE"
            """,
        },
        settings={"ENGINE": "shop.backend"},
    ),
    "URLconf": Case(
        imports="from django.urls import reverse",
        body="value = reverse('seed')[1:]",
        files={
            "shop/urls.py": """
                from django.urls import include, path

                urlpatterns = [path("", include("shop.more_urls"))]
            """,
            "shop/more_urls.py": """
                from django.urls import path

                urlpatterns = [path("VALUE", lambda request: None, name="seed")]
            """,
        },
        settings={"ROOT_URLCONF": "shop.urls"},
    ),
    "message catalog that was read before": Case(
        imports="from django.utils.translation import gettext, override\n\n"
        "    def read():\n        with override('de'):\n            return gettext('greeting')\n",
        body="value = read()",
        first="greeting",
        settings={"LANGUAGE_CODE": "de", "USE_I18N": True},
        files={
            "shop/apps.py": """
                from django.apps import AppConfig
                from django.utils.translation import gettext, override

                class ShopConfig(AppConfig):
                    name = "shop"

                    def ready(self):
                        with override("de"):
                            gettext("greeting")
            """
        },
        change=write_catalog,
        why="shop/locale/de/LC_MESSAGES/django.mo",
    ),
    "exec of a file": Case(
        body="from pathlib import Path; names = {};"
        " exec(Path('shop/seed.py').read_text(), names); value = names['NAME']",
        files={"shop/seed.py": 'NAME = "VALUE"\n'},
    ),
    "file by a computed name": Case(
        body="from pathlib import Path;"
        " value = Path('shop').joinpath('names' + '.txt').read_text()",
        files={"shop/names.txt": "VALUE"},
    ),
    "optional file that is opened": Case(
        why="shop/local.txt changed",
        imports="def read():\n        try:\n            return open('shop/local.txt').read()\n"
        "        except FileNotFoundError:\n            return 'old'\n",
        body="value = read()",
        change=lambda project: project.write("shop/local.txt", "new"),
    ),
    "optional file that is looked for": Case(
        why="shop/local.txt changed",
        imports="from pathlib import Path",
        body="path = Path('shop/local.txt'); value = path.read_text() if path.exists() else 'old'",
        change=lambda project: project.write("shop/local.txt", "new"),
    ),
    "optional module": Case(
        why="shop/local.py changed",
        imports="try:\n        from shop.local import NAME\n    except ImportError:\n"
        "        NAME = 'old'\n",
        body="value = NAME",
        change=lambda project: project.write("shop/local.py", 'NAME = "new"\n'),
    ),
    "files of a directory": Case(
        why="shop/data changed",
        imports="import glob",
        body="value = ' '.join(sorted(glob.glob('shop/data/*')))",
        files={"shop/data/a": ""},
        first="shop/data/a",
        then="shop/data/a shop/data/b",
        change=lambda project: project.write("shop/data/b", ""),
    ),
    "setting": Case(
        imports="from django.conf import settings",
        body="value = settings.SEED",
        settings={"SEED": "VALUE"},
    ),
    "setting by a computed name": Case(
        imports="from django.conf import settings",
        body="value = getattr(settings, ''.join(['SE', 'ED']))",
        settings={"SEED": "VALUE"},
    ),
    "setting that was read at import": Case(
        why="the setting SEED changed",
        imports="from shop.models import SEED",
        body="value = SEED",
        files={
            "shop/models.py": """
                from django.conf import settings
                from django.db import models

                SEED = getattr(settings, "SEED", "old")

                class Item(models.Model):
                    name = models.CharField(max_length=100)
            """
        },
        change=lambda project: project.settings.update(SEED="new"),
    ),
    "dotted name of a function in a setting": Case(
        imports="from django.conf import settings; from django.utils.module_loading"
        " import import_string",
        body="value = import_string(settings.SEED)()",
        files={"shop/seed.py": GETTER},
        settings={"SEED": "shop.seed.get"},
    ),
    "dotted name of a constant in a setting": Case(
        imports="from django.conf import settings; from django.utils.module_loading"
        " import import_string",
        body="value = import_string(settings.SEED)",
        files={"shop/seed.py": 'NAME = "VALUE"\n', "shop/views.py": "from . import seed\n"},
        settings={"SEED": "shop.seed.NAME"},
    ),
    "callable in the settings": Case(
        imports="from django.conf import settings",
        body="value = settings.SEED()",
        files={
            "callables.py": GETTER,
            "more_settings.py": "from callables import get as SEED\n",
        },
    ),
    "PASSWORD_HASHERS": Case(
        why="the setting PASSWORD_HASHERS changed",
        imports="from django.contrib.auth.hashers import make_password",
        body="value = make_password('secret').partition('$')[0]",
        first="md5",
        then="pbkdf2_sha256",
        change=lambda project: project.settings.update(
            PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
        ),
    ),
    "environment variable": Case(
        imports="import os", body="value = os.environ.get('SEED')", variables={"SEED": "VALUE"}
    ),
    "environment variable in lower case": Case(
        imports="import os", body="value = os.getenv('seed')", variables={"seed": "VALUE"}
    ),
    "environment variable that was read at import": Case(
        imports="from shop.models import SEED",
        body="value = SEED",
        files={
            "shop/models.py": """
                import os
                from django.db import models

                SEED = os.environ["seed_of_models"]

                class Item(models.Model):
                    name = models.CharField(max_length=100)
            """
        },
        variables={"seed_of_models": "VALUE"},
    ),
    "module found by a finder of its own": Case(
        imports="from shop_editable.seed import get",
        body="value = get()",
        files={
            "elsewhere/seed.py": GETTER,
            "elsewhere/__init__.py": "",
            "more_settings.py": """
                import importlib.util
                import sys
                from pathlib import Path

                class Finder:
                    @staticmethod
                    def find_spec(name, path=None, target=None):
                        if name == "shop_editable":
                            place = Path(__file__).parent / "elsewhere"
                            return importlib.util.spec_from_file_location(
                                name, place / "__init__.py",
                                submodule_search_locations=[str(place)],
                            )

                sys.meta_path.append(Finder)
            """,
        },
    ),
    "code of a thread": Case(
        imports="from concurrent.futures import ThreadPoolExecutor",
        body="import shop.seed; value = ThreadPoolExecutor(1).submit(shop.seed.get).result()",
        files={"shop/seed.py": GETTER},
    ),
    "a migration's own text": Case(
        why="shop/migrations/0002_data.py changed", body="value = 'VALUE'"
    ),
}


def prepare(project: Project, case: Case, value: str) -> None:
    """Write the project of a case, with a value in it."""
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "django_pgsnap", "shop"]
    project.settings["INSTALLED_APPS"] = apps
    files = dict(case.files)
    if case.user:
        project.settings["AUTH_USER_MODEL"] = "shop.User"
        which = case.body.rpartition(".")[2].partition("[")[0]
        names = {"username": "manager", "first_name": "save", "role": "default"}
        kinds = dict.fromkeys(("manager", "save", "default"), "")
        if which in names:
            kinds[names[which]] = "VALUE"
        files["shop/models.py"] = USER.format(**kinds)
        project.write("shop/migrations/0001_initial.py", USER_INITIAL)
    files["shop/migrations/0002_data.py"] = MIGRATION.format(imports=case.imports, body=case.body)
    for name, content in files.items():
        project.write(name, content.replace("VALUE", value))
    for name, content in case.settings.items():
        if name == "ENGINE":
            project.settings["DATABASES"]["default"]["ENGINE"] = content
        else:
            project.settings[name] = (
                content.replace("VALUE", value) if isinstance(content, str) else content
            )
    project.variables.update(
        {name: content.replace("VALUE", value) for name, content in case.variables.items()}
    )


# Each once by `tox -e templates`; these by every run of the suite, on all versions of Python.
SAMPLE = {
    "function called at import, with a lazy import",
    "manager of the user model",
    "receiver of pre_save without a sender",
    "the project's own migrate",
    "message catalog that was read before",
    "optional file that is opened",
    "setting that was read at import",
    "dotted name of a constant in a setting",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.versions if name in SAMPLE else pytest.mark.templates)
        for name in CASES
    ],
)
def test_change(project: Project, name: str) -> None:
    """What a migration uses is changed, and the next run has what migrating gives."""
    case = CASES[name]
    if "more_settings.py" in case.files:
        with (project.path / "project_settings.py").open("a") as settings:
            settings.write("from more_settings import *\n")
    prepare(project, case, case.first)
    project.expect(case.first)
    first = project.run("test")
    assert first.returncode == 0, first.stderr
    prepare(project, case, case.then)
    case.change(project)
    project.expect(case.then)

    ended = project.run("test", "--verbosity", "2")

    assert ended.returncode == 0, ended.stderr
    assert f"made by migrating, because {case.reason}" in ended.stderr
