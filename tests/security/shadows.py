"""Functions, operators, types and relations that stand in the way of those of ``pg_catalog``.

Each does what the real one does, and tells the server's log of it. They are made for every name
that occurs in the package's SQL, so a statement that is not qualified cannot escape notice.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from psycopg import sql

import django_pgsnap
from tests.servers import SUPERUSER, Server

SCHEMA = "evil"
PACKAGE = Path(django_pgsnap.__file__).parent

# So much of a statement is nobody's but ours.
FRAGMENT_CHARACTERS = 24

TELL = """
CREATE SCHEMA evil;
GRANT ALL ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil._tell(what pg_catalog.text) RETURNS pg_catalog.bool
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE LOG 'shadow of % in %', what, regexp_replace(current_query(), '\\s+', ' ', 'g');
    RETURN true;
END $$;
"""

FUNCTIONS = """
SELECT format(
    'CREATE FUNCTION evil.%I(%s) %s LANGUAGE sql SET search_path = pg_catalog AS'
    ' $f$ SELECT evil._tell(%L); SELECT * FROM pg_catalog.%I(%s) $f$',
    proname, regexp_replace(pg_get_function_arguments(oid), ' DEFAULT [^,]*', '', 'g'),
    CASE WHEN proargmodes IS NULL OR NOT proargmodes && ARRAY['o', 't']::"char"[]
        THEN 'RETURNS ' || pg_get_function_result(oid)
        WHEN proretset THEN 'RETURNS SETOF record' ELSE '' END,
    proname, proname,
    (SELECT string_agg(CASE WHEN provariadic <> 0 AND n = pronargs THEN 'VARIADIC ' ELSE '' END
        || '$' || n, ', ' ORDER BY n) FROM generate_series(1, pronargs) n))
  FROM pg_proc
 WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname = ANY(WORDS)
"""

AGGREGATES = """
SELECT format(
    'CREATE FUNCTION evil._of_%s(text%s) RETURNS text LANGUAGE sql SET search_path = pg_catalog'
    ' AS $f$ SELECT evil._tell(%L)::text $f$;'
    'CREATE AGGREGATE evil.%I(%s) (SFUNC = evil._of_%s, STYPE = text)',
    oid, (SELECT string_agg(', ' || type::regtype, '' ORDER BY n)
            FROM unnest(proargtypes) WITH ORDINALITY a(type, n)),
    proname, proname, CASE WHEN pronargs = 0 THEN '*' ELSE pg_get_function_arguments(oid) END, oid)
  FROM pg_proc
 WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'a' AND proname = ANY(WORDS)
   AND provariadic = 0 AND oid IN (SELECT aggfnoid FROM pg_aggregate WHERE aggkind = 'n')
"""

OPERATORS = """
SELECT format(
    'CREATE FUNCTION evil._op_%s(%s) RETURNS %s LANGUAGE sql SET search_path = pg_catalog AS'
    ' $f$ SELECT evil._tell(%L); SELECT %s OPERATOR(pg_catalog.%s) %s $f$;'
    'CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil._op_%s)',
    oid, concat_ws(', ', nullif(oprleft, 0)::regtype, oprright::regtype), oprresult::regtype,
    oprname, CASE WHEN oprleft <> 0 THEN '$1' ELSE '' END, oprname,
    CASE WHEN oprleft <> 0 THEN '$2' ELSE '$1' END, oprname,
    CASE WHEN oprleft <> 0 THEN 'LEFTARG = ' || oprleft::regtype || ',' ELSE '' END,
    oprright::regtype, oid)
  FROM pg_operator
 WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprname = ANY(SIGNS)
   AND oprcode <> 0
"""

TYPES = """
SELECT format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil._tell(%L))',
              typname, typname, typname)
  FROM pg_type
 WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0
   AND typname = ANY(WORDS)
"""

RELATIONS = """
SELECT format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%I WHERE evil._tell(%L);'
              'GRANT SELECT ON evil.%I TO PUBLIC', relname, relname, relname, relname)
  FROM pg_class
 WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
   AND relname = ANY(WORDS)
"""

# Some take or are what can only be written in C; those are left out.
ATTEMPT = """
DECLARE shadow text;
BEGIN
    FOR shadow IN STATEMENTS LOOP
        BEGIN
            EXECUTE shadow;
        EXCEPTION WHEN invalid_function_definition OR invalid_table_definition
            OR feature_not_supported OR insufficient_privilege OR syntax_error
            OR datatype_mismatch OR undefined_function THEN
            RAISE DEBUG 'no shadow by %', shadow;
        END;
    END LOOP;
END
"""


def cast_shadows(server: Server, database: str, user: str) -> None:
    """Fill a database's schema ``evil`` as a role; who looks there first meets the shadows."""
    names = {"WORDS": sorted(words()), "SIGNS": sorted(signs())}
    with server.connect(database, user) as connection:
        connection.execute(TELL)
        with connection.transaction():
            for shadows in (RELATIONS, OPERATORS, AGGREGATES, FUNCTIONS, TYPES):
                statement = ATTEMPT.replace("STATEMENTS", shadows)
                for place, given in names.items():
                    statement = statement.replace(place, sql.Literal(given).as_string(None))
                connection.execute(f"DO $do${statement}$do$".encode())


def lead_into_the_shadow(server: Server, database: str, user: str = SUPERUSER) -> None:
    """Have every session on a database look into ``evil`` first, even for what is built in."""
    name = sql.Identifier(database)
    with server.connect(user=user) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = evil, pg_catalog, public").format(name)
        )


def caught(log: str) -> list[str]:
    """Return the shadows that statements of the package met, with the statements."""
    found = re.findall(
        r"@[^/\n]*/(?P<application>[^\n]*) LOG:  shadow of (?P<what>\S+) in (?P<query>[^\n]*)", log
    )
    return sorted(
        {
            f"{what} in {query[:300]}"
            for application, what, query in found
            if (application.startswith("pgsnap ") or any(each in query for each in fragments()))
            # Django's client-side cursors cast lists by names of their own.
            and f"}}'::{what}[]" not in query
        }
    )


@cache
def words() -> frozenset[str]:
    """Return every word of the package's SQL."""
    return frozenset(word for text in _texts() for word in re.findall(r"[a-z_][a-z0-9_]*", text))


@cache
def signs() -> frozenset[str]:
    """Return every operator of the package's SQL, and those that keywords stand for."""
    found = {sign for text in _texts() for sign in re.findall(r"[-+*/<>=~!@#%^&|`?]+", text)}
    return frozenset(found | {"=", "<>", "<", ">", "<=", ">=", "~~", "!~~"})


@cache
def fragments() -> tuple[str, ...]:
    """Return pieces of the package's statements by which these are known."""
    pieces = (" ".join(piece.split()) for text in _texts() for piece in _between_values(text))
    return tuple(sorted({piece for piece in pieces if len(piece) >= FRAGMENT_CHARACTERS}))


def _between_values(text: str) -> list[str]:
    return re.split(r"%\(\w+\)s|%s|\{\w*\}", text)


@cache
def _texts() -> tuple[str, ...]:
    """Return the texts of the package that are SQL: what is given to ``sql.SQL``, wherever."""
    return tuple(text for path in PACKAGE.rglob("*.py") for text in _texts_of(path))


def _texts_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_sql(node.value):
            yield node.value


def _is_sql(text: str) -> bool:
    return (
        re.search(r"^\s*(SELECT|WITH|CASE|EXISTS|FROM|SET|DO|pg_)|\b(SELECT|FROM pg_)\b", text)
        is not None
    )
