"""Links between a migration and what it depends on: projects in which one of them changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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

MODELS = """
    {text}
    from django.db import models


    class Item(models.Model):
        name = models.CharField(max_length=100)
"""

RECEIVES = """
    from django.apps import AppConfig


    class ShopConfig(AppConfig):
        name = "shop"

        def ready(self):
            import shop.receivers
"""

Change = Callable[[Project], object]
Files = dict[str, str | Callable[[str], bytes]]

# What a migration does to get the name of an item in a fixture, and the fixture.
LOAD_ITEMS = (
    "from django.core.management import call_command;"
    " from shop.models import Item as Real; call_command('loaddata', 'items', verbosity=0);"
    " value = Real.objects.last().name; Real.objects.all().delete()"
)
ITEMS = '[{"model": "shop.item", "pk": 7, "fields": {"name": "VALUE"}}]'


@dataclass(kw_only=True)
class Case:
    """One way in which migrations use something.

    Attributes:
        body: What the migration does to get its value.
        files: The project's files, by name; VALUE in them is what changes. What is no text is made
            of the value.
        first: The value at first.
        then: The value after the change.
        change: What changes beside VALUE.
        settings: Settings at first.
        user: Whether the project has a user model of its own.
        why: What the run says has changed, where that is not what VALUE is in.
    """

    body: str
    files: Files = field(default_factory=dict)
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
        found = (name for name, text in texts.items() if callable(text) or "VALUE" in text)
        return self.why or next(found)


def write_models(text: str) -> str:
    """Return the text of a project's models, which begins with this."""
    return MODELS.format(text="\n    ".join(text.splitlines()))


def read_at_import(models: str, files: Files | None = None, **more: Any) -> Case:
    """Return a case in which a migration uses SEED, which models have had since their import."""
    return Case(
        imports="from shop.models import SEED",
        body="value = SEED",
        files={"shop/models.py": write_models(models), **(files or {})},
        **more,
    )


def connect_receivers(text: str) -> Files:
    """Return the files of an app that has its receivers connected when the apps are ready."""
    return {"shop/apps.py": RECEIVES, "shop/receivers.py": text}


def prepare(project: Project, case: Case, value: str) -> None:
    """Write the project of a case, with a value in it."""
    more = ["django.contrib.contenttypes", "django.contrib.auth"] if case.user else []
    project.settings["INSTALLED_APPS"] = [*more, "django_pgsnap", "shop"]
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
    for name, text in files.items():
        if callable(text):
            (project.path / name).parent.mkdir(parents=True, exist_ok=True)
            (project.path / name).write_bytes(text(value))
        else:
            project.write(name, text.replace("VALUE", value))
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


def check_change(project: Project, case: Case) -> None:
    """Run the project's suite, change what its migrations use, and run it again.

    The second run has the rows that migrating gives, and says what has changed.
    """
    if "more_settings.py" in case.files:
        with (project.path / "project_settings.py").open("a") as settings:
            settings.write("from more_settings import *\n")
    prepare(project, case, case.first)
    project.expect(case.first)
    first = project.run("test")
    assert first.returncode == 0, first.stderr
    assert "could not be kept" not in first.stderr, first.stderr
    prepare(project, case, case.then)
    case.change(project)
    project.expect(case.then)

    ended = project.run("test", "--verbosity", "2")

    assert ended.returncode == 0, ended.stderr
    assert f"made by migrating, because {case.reason}" in ended.stderr, ended.stderr
