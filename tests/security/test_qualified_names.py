"""No statement can meet a function, an operator or a type that somebody else made.

Sessions of our own have nothing but the server's catalog in their search path from their first
statement on. What runs before that, or on Django's connections, names the schema of all it uses.
"""

import ast
import re
from pathlib import Path

import pytest

import django_pgsnap

PACKAGE = Path(django_pgsnap.__file__).parent

# Whose statements run before the search path is set, or on a connection of Django's.
QUALIFIED = [
    *("connections/reconnect.py", "postgres/inspection.py", "postgres/session.py"),
    *("testing/assertions.py", "testing/reset/baseline.py", "testing/reset/changes.py"),
    "testing/reset/connections.py",
]
# Where a session is made of a connection: by `Server`, which sets it up, or of Django's.
MAKE_SESSIONS = {
    "postgres/server.py",
    "testing/assertions.py",
    "testing/creation.py",
    "testing/reset/connections.py",
}

# These look like calls; the grammar itself resolves them to the server's own.
GRAMMAR = {
    *("all", "and", "any", "array", "as", "case", "coalesce", "exists", "extract", "from", "not"),
    *("operator", "or", "row", "select", "then", "values", "when", "where", "lateral"),
}
LITERAL = re.compile(r"'(?:[^']|'')*'")
OPERATOR = re.compile(r"OPERATOR\(pg_catalog\.[^)]+\)")
PLACEHOLDER = re.compile(r"%\(\w+\)s|%s|\{\w*\}")
CALL = re.compile(r"(?<![\w.])(\w+) ?\(")
CAST = re.compile(r"::(?!pg_catalog\.)\w+")
SYMBOL = re.compile(r"[=<>+*/|~!@#^&-]+|\b(?:IN|LIKE|BETWEEN)\b")


def statements(path: Path) -> list[str]:
    """Return the queries among a module's literals."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [text for text in texts if re.match(r"\s*(SELECT|CASE|\(SELECT|pg_catalog\.)\b", text)]


def unqualified(statement: str) -> list[str]:
    """Return what a statement would look up by the search path."""
    bare = PLACEHOLDER.sub("x", OPERATOR.sub(",", LITERAL.sub("''", statement)))
    calls = [name for name in CALL.findall(bare) if name.lower() not in GRAMMAR]
    calls = [name for name in calls if not re.search(rf"\b(AS )?{name} \(", bare)]
    return [*calls, *CAST.findall(bare), *SYMBOL.findall(bare.replace("count(*)", ""))]


@pytest.mark.parametrize("module", QUALIFIED)
def test_all_is_qualified(module: str) -> None:
    """Functions, operators and types are named with their schema."""
    found = {text: bad for text in statements(PACKAGE / module) if (bad := unqualified(text))}

    assert found == {}
    assert statements(PACKAGE / module)


@pytest.mark.parametrize(
    "statement",
    ["SELECT now()", "SELECT oid = 1", "SELECT oid::text", "SELECT 1 WHERE oid IN (1)"],
)
def test_what_is_not(statement: str) -> None:
    """A statement that leaves out a schema is found."""
    assert unqualified(statement)


def test_who_makes_sessions() -> None:
    """No session is made but where it is set up, or where it is Django's."""
    makers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Session"
    }

    assert makers == MAKE_SESSIONS
