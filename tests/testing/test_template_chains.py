"""Projects in which a migration depends on a random chain of things, of which one changes.

Each link of the chain adds a word to what the migration inserts, and asks the next one in its own
way. Where a word changes, the next run inserts what migrating from scratch does; where something
changes that is no link, it takes the template.
"""

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers import Server
from tests.suites.project import Project

EXAMPLES = int(os.environ.get("PGSNAP_EXAMPLES", "1"))

MIGRATION = """
    from django.db import migrations

    from shop.link0 import get


    def forwards(apps, schema_editor):
        apps.get_model("shop", "Item").objects.create(name=get())


    class Migration(migrations.Migration):
        dependencies = [("shop", "0001_initial")]
        operations = [migrations.RunPython(forwards)]
"""

# How a link asks the next one: what stands at the top of its module, and what gives the value.
# A link that is asked while its module is imported may not ask for what needs the apps.
WAYS = {
    "import": ("from shop.link{next} import get as following", "following()"),
    "constant": ("from shop.link{next} import VALUE as FOLLOWING", "FOLLOWING"),
    "attribute": ("from shop import link{next}", "link{next}.VALUE"),
    "class": (
        "from shop.link{next} import Base\n\nclass Inherits(Base):\n    pass\n",
        "Inherits.VALUE",
    ),
    "lazy": ("def ask():\n    from shop.link{next} import get\n\n    return get()\n", "ask()"),
    "by name": (
        "from importlib import import_module",
        "import_module('shop.li' + 'nk{next}').get()",
    ),
    "by setting": (
        "from django.conf import settings\nfrom django.utils.module_loading import import_string",
        "import_string(settings.LINK{next})()",
    ),
    "constant by setting": (
        "from django.conf import settings\nfrom django.utils.module_loading import import_string",
        "import_string(settings.LINK{next}_VALUE)",
    ),
    "exec": (
        (
            "from pathlib import Path\n\n\ndef ask():\n    names = {{'__name__': 'read'}}\n"
            "    exec(Path('shop/link{next}.py').read_text(), names)\n    return names['VALUE']\n"
        ),
        "ask()",
    ),
    "command": ("from django.core.management import call_command", "call_command('link{next}')"),
    "signal": (
        "from shop.signals import asked{next}",
        "asked{next}.send(sender=None)[0][1]",
    ),
    "registry": (
        "from django.apps import apps",
        "apps.get_model('shop', 'Item').link{next}()",
    ),
    "manager": (
        "from django.apps import apps",
        "apps.get_model('shop', 'Item').objects.link{next}()",
    ),
}
NEED_APPS = {"command", "signal", "registry", "manager"}
AT_IMPORT = {"constant", "attribute", "class", "constant by setting"}

# What the last link reads.
ENDS = {
    "text": ("", "''"),
    "file": ("from pathlib import Path", "Path('shop/words.txt').read_text()"),
    "resource": (
        "from importlib.resources import files",
        "files('shop').joinpath('words.txt').read_text()",
    ),
    "setting": ("from django.conf import settings", "settings.WORD"),
    "computed setting": ("from django.conf import settings", "getattr(settings, 'WO' + 'RD')"),
    "variable": ("import os", "os.environ['word_of_links']"),
    "missing file": (
        (
            "def read():\n    try:\n        return open('shop/missing.txt').read()\n"
            "    except OSError:\n        return 'old'\n"
        ),
        "read()",
    ),
    "directory": ("import os", "' '.join(sorted(os.listdir('shop/words')))"),
}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain of links.

    Attributes:
        ways: How each link asks the next one.
        end: What the last one reads.
        changed: Which link's word changes; the last number stands for what is read.
        edits: What else changes before.
    """

    ways: tuple[str, ...]
    end: str
    changed: int
    edits: frozenset[str]


EDITS = {
    "views": lambda project: project.write("shop/views.py", "from shop.link0 import get\n"),
    "tests": lambda project: project.write("shop/test_more.py", "import unittest\n"),
    "template": lambda project: project.write("shop/templates/page.html", "changed"),
    "setting": lambda project: project.settings.update(UNREAD="changed"),
    "variable": lambda project: project.variables.update(UNREAD="changed", USER="changed"),
    "hash seed": lambda project: project.variables.update(PYTHONHASHSEED="7"),
    "terminal": lambda project: project.variables.update(TERM="dumb", COLUMNS="40"),
    "egg": lambda project: project.write("shop.egg-info/PKG-INFO", "Name: shop\n"),
}


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    ways: list[str] = []
    is_at_import = False
    for _ in range(draw(st.integers(1, 4))):
        # What is asked at import may ask on at import only what needs no apps.
        ways.append(
            draw(st.sampled_from(sorted(WAYS.keys() - (NEED_APPS if is_at_import else set()))))
        )
        is_at_import = is_at_import or ways[-1] in AT_IMPORT or ways[-1] == "exec"
    return Chain(
        ways=tuple(ways),
        end=draw(st.sampled_from(sorted(ENDS))),
        changed=draw(st.integers(0, len(ways) + 1)),
        edits=draw(st.frozensets(st.sampled_from(sorted(EDITS)), min_size=1)),
    )


def write(project: Project, chain: Chain, words: list[str]) -> str:
    """Write the links with these words, and return what the migration inserts."""
    methods = {"registry": "", "manager": ""}
    signals, receivers = "from django.dispatch import Signal\n", ""
    for number, way in enumerate([*chain.ways, None]):
        top, value = WAYS[way] if way else ENDS[chain.end]
        names = {"next": number + 1}
        before = chain.ways[number - 1] if number else ""
        text = f"{top.format(**names)}\n\n\ndef get():\n    return '{words[number]} ' + "
        text += f"{value.format(**names)}\n"
        if before in AT_IMPORT or before == "exec":
            text += "\n\nVALUE = get()\n\n\nclass Base:\n    VALUE = VALUE\n"
        project.write(f"shop/link{number}.py", text)
        ask = f"from shop.link{number} import get\n"
        if before == "command":
            body = "from django.core.management import BaseCommand\n" + ask
            body += COMMAND
            project.write(f"shop/management/commands/link{number}.py", body)
        elif before == "signal":
            signals += f"asked{number} = Signal()\n"
            receivers += f"from shop.link{number} import get as get{number}\n"
            receivers += f"from shop.signals import asked{number}\n\n\n"
            receivers += f"def receive{number}(**_):\n    return get{number}()\n\n\n"
            receivers += f"asked{number}.connect(receive{number})\n"
        elif before in methods:
            methods[before] += f"def link{number}(*_):\n    {ask}\n    return get()\n\n"
        project.settings[f"LINK{number}"] = f"shop.link{number}.get"
        project.settings[f"LINK{number}_VALUE"] = f"shop.link{number}.VALUE"
    project.write("shop/signals.py", signals)
    project.write("shop/receivers.py", receivers)
    project.write(
        "shop/models.py",
        MODELS.format(
            manager=indent(methods["manager"] or "pass", "    "),
            model=indent(methods["registry"], "    "),
        ),
    )
    end = words[-1]
    project.write("shop/words.txt", end)
    project.settings["WORD"] = end
    project.variables["word_of_links"] = end
    if end != "old":
        project.write("shop/missing.txt", end)
    for name in list((project.path / "shop/words").glob("*")):
        name.unlink()
    project.write(f"shop/words/{end}", "")
    return " ".join([*words[:-1], "" if chain.end == "text" else end])


COMMAND = """

class Command(BaseCommand):
    def handle(self, **_):
        return get()
"""

MODELS = """
from django.db import models


class Items(models.Manager):
{manager}


class Item(models.Model):
    name = models.CharField(max_length=100)
    objects = Items()

{model}
"""

APPS = """
    from django.apps import AppConfig


    class ShopConfig(AppConfig):
        name = "shop"

        def ready(self):
            import shop.receivers
"""

numbers = count()


@pytest.mark.versions
@pytest.mark.usefixtures("databases")
@settings(max_examples=EXAMPLES)
@given(chains())
def test_chain(clean_server: Server, tmp_path: Path, chain: Chain) -> None:
    """Edits to what is no link take the template; a word that changes is inserted."""
    path = tmp_path / f"project{next(numbers)}"
    project = Project(path, clean_server)
    try:
        check(project, chain)
    finally:
        project.end()


def check(project: Project, chain: Chain) -> None:
    project.settings["DATABASES"]["default"]["NAME"] = project.path.name
    project.write("shop/apps.py", APPS)
    for package in ("shop/management", "shop/management/commands"):
        project.write(f"{package}/__init__.py", "")
    project.write("shop/migrations/0002_data.py", MIGRATION)
    words = [*(f"word{number}" for number in range(len(chain.ways) + 1)), "old"]
    project.expect(write(project, chain, words))
    project.test()

    for edit in chain.edits:
        EDITS[edit](project)
    ended = project.run("test", "--verbosity", "2")
    assert ended.returncode == 0, ended.stderr
    assert "used a template, since nothing changed" in ended.stderr, ended.stderr

    words[chain.changed] = "new"
    project.expect(write(project, chain, words))
    project.test()
