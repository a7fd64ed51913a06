"""A template is used only where migrating would give the same: files, settings and environment.

See test_stale_templates: here it is something that is read which changes, by whatever code.
"""

import gzip
import sqlite3
import struct
import tempfile
from pathlib import Path

import pytest

from tests.suites.links import ITEMS, LOAD_ITEMS, Case, check_change, prepare, read_at_import
from tests.suites.project import Project


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


def compress_fixture(value: str) -> bytes:
    """Return a fixture as a file of gzip."""
    return gzip.compress(ITEMS.replace("VALUE", value).encode())


def make_sqlite(value: str) -> bytes:
    """Return a database of SQLite with this value."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "seed")
        connection = sqlite3.connect(path)
        connection.execute(f"CREATE TABLE seed AS SELECT '{value}'")
        connection.close()
        return path.read_bytes()


READ = "open('shop/words.txt').read()"
OPTIONAL = "try:\n    SEED = open('shop/words.txt').read()\nexcept OSError:\n    SEED = 'old'"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "DIRS": ["templates"],
    }
]
CALL_WHEN_READY = """
    from django.apps import AppConfig

    class ShopConfig(AppConfig):
        name = "shop"

        def ready(self):
            from shop.seed import get

            get()
"""


def write_words(project: Project) -> None:
    project.write("shop/words.txt", "new")


def link(project: Project, target: str) -> None:
    (project.path / "data").unlink(missing_ok=True)
    (project.path / "data").symlink_to(target)


def write_cached(text: str) -> str:
    """Return a module with a function that keeps what it returns first."""
    return f"import os\nfrom functools import cache\n\n@cache\ndef get():\n    return {text}\n"


CASES: dict[str, Case] = {
    "fixture": Case(
        body=LOAD_ITEMS,
        files={"shop/fixtures/items.json": ITEMS},
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
    "setting that was read at import": read_at_import(
        "from django.conf import settings\nSEED = getattr(settings, 'SEED', 'old')",
        why="the setting SEED changed",
        change=lambda project: project.settings.update(SEED="new"),
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
    "environment variable that was read at import": read_at_import(
        "import os\nSEED = os.environ['seed_of_models']",
        variables={"seed_of_models": "VALUE"},
    ),
    "compressed fixture in FIXTURE_DIRS": Case(
        body=LOAD_ITEMS,
        files={"more/items.json.gz": compress_fixture},
        settings={"FIXTURE_DIRS": ["more"]},
    ),
    "file of a package": Case(
        imports="import pkgutil",
        body="value = pkgutil.get_data('shop', 'words.txt').decode()",
        files={"shop/words.txt": "VALUE"},
    ),
    "file that models read": read_at_import(
        f"SEED = {READ}",
        {"shop/words.txt": "VALUE"},
    ),
    "file that a helper of models reads": read_at_import(
        "from shop.seed import get\nSEED = get()",
        {
            "shop/seed.py": f"def get():\n    return {READ}\n",
            "shop/words.txt": "VALUE",
        },
    ),
    "optional file that models read": read_at_import(
        OPTIONAL,
        change=write_words,
        why="shop/words.txt changed",
    ),
    "files of a directory that models list": read_at_import(
        "import os\nSEED = ''.join(os.listdir('shop/data'))",
        {"shop/data/old": ""},
        change=lambda project: (project.path / "shop/data/old").rename(
            project.path / "shop/data/new"
        ),
        why="shop/data changed",
    ),
    "file that was read before": Case(
        imports="from shop.seed import get",
        body="value = get()",
        files={
            "shop/seed.py": write_cached(READ),
            "shop/apps.py": CALL_WHEN_READY,
            "shop/words.txt": "VALUE",
        },
    ),
    "environment variable that was read before": Case(
        imports="from shop.seed import get",
        body="value = get()",
        files={
            "shop/seed.py": write_cached("os.environ['seed']"),
            "shop/apps.py": CALL_WHEN_READY,
        },
        variables={"seed": "VALUE"},
    ),
    "environment variable by a helper, at import": read_at_import(
        "from shop.seed import find\nSEED = find('seed')",
        {
            "shop/seed.py": "import os\n\ndef find(name):\n    return os.environ[name]\n",
        },
        variables={"seed": "VALUE"},
    ),
    "environment variable in bytes": Case(
        imports="import os",
        body="value = os.environb[b'seed'].decode()",
        variables={"seed": "VALUE"},
    ),
    "user's name": Case(
        imports="import getpass", body="value = getpass.getuser()", variables={"LOGNAME": "VALUE"}
    ),
    "script that another process runs": Case(
        imports="import subprocess, sys",
        body="value = subprocess.check_output([sys.executable, 'shop/script.py'], text=True)",
        files={"shop/script.py": "print('VALUE', end='')"},
    ),
    "database of SQLite": Case(
        imports="import sqlite3",
        body="value = sqlite3.connect('shop/seed').execute('SELECT * FROM seed').fetchone()[0]",
        files={"shop/seed": make_sqlite},
    ),
    "directory that a link leads to": Case(
        body="value = open('data/words.txt').read()",
        files={"old/words.txt": "old", "new/words.txt": "new"},
        change=lambda project: link(project, "new"),
        why="data/words.txt changed",
    ),
    "code made of a text": Case(
        body="names = {}; exec(compile(open('shop/words.txt').read(), '<made>', 'exec'), names);"
        " value = names['NAME']",
        files={"shop/words.txt": "NAME = 'VALUE'"},
    ),
    "size of a file": Case(
        imports="import os",
        body="value = str(os.path.getsize('shop/words.txt'))",
        files={"shop/words.txt": "VALUE"},
        first="1",
        then="2",
        change=lambda project: project.write("shop/words.txt", "12"),
    ),
    "template of a text": Case(
        imports="from django.template.loader import render_to_string",
        body="value = render_to_string('mail.txt')",
        files={"shop/templates/mail.txt": "VALUE"},
        settings={"TEMPLATES": TEMPLATES},
    ),
    "template that replaces another": Case(
        imports="from django.template.loader import render_to_string",
        body="value = render_to_string('mail.txt')",
        files={"shop/templates/mail.txt": "old"},
        settings={"TEMPLATES": TEMPLATES},
        change=lambda project: project.write("templates/mail.txt", "new"),
        why="templates/mail.txt changed",
    ),
    "settings in a loop, at import": read_at_import(
        "from django.conf import settings\nfor name in ('SEED',):\n"
        "    globals()[name] = getattr(settings, name)",
        settings={"SEED": "VALUE"},
    ),
    "time zone": Case(
        imports="from django.utils import timezone",
        body="value = timezone.get_current_timezone_name()",
        settings={"TIME_ZONE": "VALUE"},
        first="Europe/Berlin",
        then="Asia/Tokyo",
    ),
}

# Each once by `tox -e templates`; these by every run of the suite, on all versions of Python.
SAMPLE = {
    "message catalog that was read before",
    "setting that was read at import",
    "file that models read",
    "environment variable by a helper, at import",
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
    link(project, "old")
    check_change(project, CASES[name])


def test_pytest(project: Project) -> None:
    """Under pytest, too, the files count that models have read."""
    prepare(project, CASES["file that models read"], "old")
    project.expect("old")
    assert project.run_pytest().returncode == 0
    write_words(project)
    project.expect("new")
    ended = project.run_pytest("-v")

    assert ended.returncode == 0, ended.stdout
    assert "because shop/words.txt changed" in ended.stdout
