"""A template is used only where migrating would give the same: code, whatever calls it.

A project is tested, then one thing is changed that its migrations use. The next run has the rows
that migrating from scratch gives, which the suite compares.
"""

import importlib.util
import io
import json
import marshal
import zipfile

import pytest

from tests.suites.links import (
    LOAD_ITEMS,
    Case,
    check_change,
    connect_receivers,
    read_at_import,
    write_models,
)
from tests.suites.project import Project


def add_receiver(project: Project) -> None:
    for name, text in connect_receivers(NEW_RECEIVER).items():
        project.write(name, str(text))


NEW_RECEIVER = """
    from django.db.models.signals import post_migrate


    def receive(**_):
        from shop.models import Item

        Item.objects.filter(name="old").update(name="new")


    post_migrate.connect(receive)
"""


def zip_module(value: str) -> bytes:
    """Return an archive with a module that has this value."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", f'NAME = "{value}"\n')
    return archive.getvalue()


def compile_module(value: str) -> bytes:
    """Return what Python compiles a module with this value to."""
    code = compile(f'NAME = "{value}"\n', "elsewhere.py", "exec")
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


GETTER = 'def get():\n    return "VALUE"\n'
CREATE_USER = 'value = get_user_model().objects.create_user("u").{}'
GET_USER = "from django.contrib.auth import get_user_model"
NAME = 'NAME = "VALUE"\n'
IMPORTS_LAZILY = "    from shop.deeper import NAME\n"

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
            **connect_receivers("""
                from django.db.models.signals import pre_save

                def receive(instance, **_):
                    instance.last_name = "VALUE"

                pre_save.connect(receive)
            """),
        },
        user=True,
        why="shop/receivers.py changed",
    ),
    "receiver of post_save that loaddata calls": Case(
        body=LOAD_ITEMS,
        files={
            **connect_receivers("""
                from django.db.models.signals import post_save

                def receive(instance, **_):
                    type(instance).objects.filter(pk=instance.pk).update(name="VALUE")

                post_save.connect(receive, sender="shop.Item")
            """),
            "shop/fixtures/items.json": json.dumps(
                [{"model": "shop.item", "pk": 7, "fields": {"name": "loaded"}}]
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
    "optional module": Case(
        why="shop/local.py changed",
        imports="try:\n        from shop.local import NAME\n    except ImportError:\n"
        "        NAME = 'old'\n",
        body="value = NAME",
        change=lambda project: project.write("shop/local.py", 'NAME = "new"\n'),
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
    "archive": Case(
        imports="from zipped import NAME",
        body="value = NAME",
        files={
            "lib.zip": zip_module,
            "more_settings.py": "import sys\n\nsys.path.insert(0, 'lib.zip')\n",
        },
    ),
    "compiled module without its source": Case(
        imports="from shop.seed import NAME",
        body="value = NAME",
        files={"shop/seed.pyc": compile_module},
    ),
    "namespace package": Case(
        imports="from names.seed import NAME", body="value = NAME", files={"names/seed.py": NAME}
    ),
    "imported by name, at import": read_at_import(
        "from importlib import import_module\nSEED = import_module('.seed', 'shop').NAME",
        {
            "shop/seed.py": NAME,
        },
    ),
    "imported by a built-in function": Case(
        body="value = __import__('shop.seed').seed.NAME",
        files={"shop/models.py": write_models("import shop.seed"), "shop/seed.py": NAME},
    ),
    "named by a setting that models read": read_at_import(
        "from django.conf import settings\n"
        "from django.utils.module_loading import import_string\n"
        "SEED = import_string(settings.SEED_NAME)",
        {
            "shop/seed.py": NAME,
        },
        settings={"SEED_NAME": "shop.seed.NAME"},
    ),
    "decorator": read_at_import(
        "from shop.seed import decorate\n\n@decorate\ndef SEED():\n    pass\n",
        {
            "shop/seed.py": f"def decorate(function):\n{IMPORTS_LAZILY}    return NAME\n",
            "shop/deeper.py": NAME,
        },
    ),
    "instance": read_at_import(
        "from shop.seed import Seed\nSEED = Seed().name",
        {
            "shop/seed.py": "class Seed:\n    def __init__(self):\n"
            f"    {IMPORTS_LAZILY}        self.name = NAME\n",
            "shop/deeper.py": NAME,
        },
    ),
    "method": read_at_import(
        "from shop.seed import Seed\nSEED = Seed().get()",
        {
            "shop/seed.py": "class Seed:\n    def get(self):\n"
            f"    {IMPORTS_LAZILY}        return NAME\n",
            "shop/deeper.py": NAME,
        },
    ),
    "attribute of an app's entry": Case(
        imports="from django.apps import apps as registry",
        body="value = registry.get_app_config('shop').seed",
        files={
            "shop/apps.py": """
                from django.apps import AppConfig

                class ShopConfig(AppConfig):
                    name = "shop"
                    seed = "VALUE"
            """
        },
    ),
    "router": Case(
        imports="from django.db import router",
        body="value = router.routers[0].seed",
        files={"shop/routers.py": 'class Router:\n    seed = "VALUE"\n'},
        settings={"DATABASE_ROUTERS": ["shop.routers.Router"]},
    ),
}

# Each once by `tox -e templates`; these by every run of the suite, on all versions of Python.
SAMPLE = {
    "manager of the user model",
    "receiver of pre_save without a sender",
    "the project's own migrate",
    "compiled module without its source",
    "method",
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
    check_change(project, CASES[name])
