"""The admin's pages in German and in French: whole pages, with plural forms and local times."""

import ast
import gettext
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from django.test import Client
from django.utils import translation

import django_pgsnap
from django_pgsnap.admin.text import describe_error
from django_pgsnap.errors import DatabaseBusyError, PgsnapError
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from tests.servers import Server
from tests.visiting import confirm, of, page, superuser, text, told, undo_page
from tests.watching import in_transaction, write

PACKAGE = Path(next(iter(django_pgsnap.__path__)))
LANGUAGES = ("de", "fr")
FUNCTIONS = {"_", "gettext", "gettext_lazy", "ngettext", "message"}
# What can be met in the admin is raised and reported here; these modules only serve the others.
JOURNEY = (
    *("postgres", "clones", "snapshots", "comparison", "connections", "admin"),
    *("safety.py", "messages.py"),
)
ELSEWHERE = {"throwaway.py", "before_migrate.py"}
# Errors that the admin catches itself, and shows to nobody.
UNSEEN = {"FieldError", "PermissionError"}
TAG = re.compile(r'{% translate "([^"]+)"')
BLOCK = re.compile(
    r"{% blocktranslate.*?%}(.*?)(?:{% plural %}.*?)?{% endblocktranslate %}", re.DOTALL
)


def catalog(language: str) -> dict[str, str]:
    """Return the compiled translations of a language; of plurals the singular."""
    path = PACKAGE / "locale" / language / "LC_MESSAGES" / "django.mo"
    with path.open("rb") as file:
        found = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {
        key if isinstance(key, str) else key[0]: value
        for key, value in found.items()
        if isinstance(key, str) or key[1] == 0
    }


def is_in_journey(path: Path) -> bool:
    """Tell whether what a module says to people can be met in the admin."""
    return path.relative_to(PACKAGE).parts[0] in JOURNEY and path.name not in ELSEWHERE


def said(call: ast.Call) -> list[ast.expr]:
    """Return what an error is made with: its message, and its hint."""
    return [*call.args[:1], *(each.value for each in call.keywords if each.arg == "hint")]


def literals(node: ast.expr) -> list[str]:
    """Return the texts that an argument may be."""
    if isinstance(node, ast.IfExp):
        return [*literals(node.body), *literals(node.orelse)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def marked() -> Iterator[str]:
    """Yield the texts that are marked for translation in the code and in the templates."""
    for path in PACKAGE.rglob("*.py"):
        in_journey = is_in_journey(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                if name in FUNCTIONS and (in_journey or name != "message"):
                    yield from literals(node.args[0])
                elif in_journey and name.endswith("Error") and name not in {*UNSEEN, "ValueError"}:
                    for text in said(node):
                        yield from literals(text)
    for path in PACKAGE.rglob("*.html"):
        source = path.read_text()
        yield from TAG.findall(source)
        yield from (re.sub(r"{{ (\w+) }}", r"%(\1)s", each) for each in BLOCK.findall(source))


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_is_translated(language: str) -> None:
    """Each marked text has a translation with the same placeholders, and none is left over."""
    translated = catalog(language)
    wanted = set(marked())

    def placeholders(of: str) -> set[str]:
        return set(re.findall(r"%(?:\(\w+\))?[sd]|(?<!{){\w[^}]*}", of))

    assert wanted - translated.keys() == set()
    assert translated.keys() - wanted - {""} == set()
    assert {
        each for each in wanted if placeholders(each) != placeholders(translated[each])
    } == set()


def test_nothing_in_the_journey_is_a_finished_sentence() -> None:
    """What errors and reports say there is a template with its values, which can be translated."""
    finished = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if is_in_journey(path)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            ((name := getattr(node.func, "id", "")).endswith("Error") and name not in UNSEEN)
            or getattr(node.func, "attr", "") in {"step", "wait", "note", "warn"}
        )
        for text in said(node)
        if isinstance(text, ast.JoinedStr)
    ]

    assert finished == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_remedies_are_places_in_the_admin(language: str) -> None:
    """No remedy names an option or a subcommand, but for what is the command line's alone."""
    others = "Purge|--older-than"
    named = r"--[a-z]+|manage\.py pgsnap [a-z]+"
    hints = {text for text in marked() if re.search(named, text) and not re.search(others, text)}
    part = "./manage.py pgsnap restore it --database default --database other"
    hints.add(f"Choose that part ({part}), or use --wait.")

    with translation.override(language):
        shown = {unescape(describe_error(PgsnapError("No.", hint=hint))) for hint in hints}

    alone = (part, "./manage.py pgsnap diff --model")
    left = [re.sub("|".join(map(re.escape, alone)), "", each) for each in shown]
    assert [each for each in left if re.search(named, each)] == []
    assert [sum(each in text for text in shown) for each in alone] == [1, 1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_compiled_catalog_is_that_of_the_source(language: str) -> None:
    """What is compiled is what stands in the readable file."""
    source = (PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po").read_text()
    written = re.findall(r'^msgstr(?:\[0\])? "(.+)"$', source, re.MULTILINE)

    assert sorted(each.replace('\\"', '"') for each in written) == sorted(
        value for key, value in catalog(language).items() if key
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_page_is_half_translated(language: str, root: Client) -> None:
    """None of our sentences is left in English on any page, nor in a message."""
    snapshot = take("seeded", pin=True, spare=False)
    take("other", spare=False)
    write("Lem")
    restore("seeded")
    pages = [page("changelist"), page("add"), undo_page(), of("change", snapshot)]
    pages += [of(name, snapshot) for name in ("restore", "delete", "history", "diff")]
    english = {key for key in catalog(language) if len(key) > 12 and "%" not in key}

    with translation.override(language):
        shown = {address: text(root.get(address)) for address in pages}
        shown["errors"] = text(confirm(root, page("add"), name="seeded"))
        done = told(confirm(root, of("restore", snapshot)))

    left = {(address, each) for address in shown for each in english if each in shown[address]}
    assert left == set()
    assert {"de": "wiederhergestellt.", "fr": "restauré."}[language] in done[-1]


def test_errors_and_sessions(live: str, root: Client, server: Server) -> None:
    """What the core says is translated with all its parts; the command line's stays English."""
    snapshot = take("seeded", spare=False)

    with in_transaction(server, live), translation.override("de"):
        shown = unescape(text(root.get(of("restore", snapshot))))
        refused = unescape(text(confirm(root, of("restore", snapshot), wait_s="0")))
        with pytest.raises(DatabaseBusyError) as error:
            restore("seeded", wait_s=0)

    assert re.search(r"pid \d+: Rolle 'postgres'.*, idle in transaction seit \d+ s", shown)
    assert f"Andere Sitzungen benutzen '{live}', nach 0 s Warten: pid" in refused
    assert "warten Sie länger mit „Wartezeit in Sekunden“" in refused
    assert str(error.value).startswith(f"Other sessions are using '{live}', after a wait of 0 s:")


def test_times_and_plurals_of_the_language(root: Client) -> None:
    """Times are local and written as the language does, and figures have their plural."""
    snapshot = take("seeded", spare=False)

    with translation.override("de"):
        shown = text(root.get(of("restore", snapshot)))
        drift = text(root.get(of("change", snapshot)))

    assert re.search(r"„seeded“ vom \d+\. \w+ 20\d\d \d+:\d\d \(", shown)
    assert re.search(r"\d+ Migrationen sind darin angewendet\.", drift)
