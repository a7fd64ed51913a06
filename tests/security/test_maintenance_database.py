"""A database called ``pgsnap`` that another role made first acts in nobody's name."""

from collections.abc import Callable

import pytest
from django.conf import settings as django_settings

from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.errors import MissingRightError
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.take import take
from tests.conftest import ROLE_PASSWORD
from tests.project import point
from tests.servers import SUPERUSER, Server

# A function or an operator of this kind is preferred to the server's own, if it can be reached.
TRAP = """
CREATE SCHEMA trap AUTHORIZATION mallory;
SET search_path = trap;
CREATE FUNCTION spring() RETURNS void LANGUAGE plpgsql AS
 $$BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN END$$;
CREATE FUNCTION current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN pg_catalog.current_setting($1, $2); END$$;
CREATE FUNCTION set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN pg_catalog.set_config($1, $2, $3); END$$;
CREATE FUNCTION pg_backend_pid() RETURNS integer LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN pg_catalog.pg_backend_pid(); END$$;
CREATE FUNCTION pg_is_in_recovery() RETURNS boolean LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN false; END$$;
CREATE FUNCTION pg_postmaster_start_time() RETURNS timestamptz LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN pg_catalog.pg_postmaster_start_time(); END$$;
CREATE FUNCTION current_schemas(boolean) RETURNS name[] LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN ARRAY['trap']; END$$;
CREATE FUNCTION current_database() RETURNS name LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN 'pgsnap'; END$$;
CREATE FUNCTION quote_ident(text) RETURNS text LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN $1; END$$;
CREATE FUNCTION same(integer, integer) RETURNS boolean LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN true; END$$;
CREATE OPERATOR = (FUNCTION = same, LEFTARG = integer, RIGHTARG = integer);
CREATE FUNCTION same(oid, oid) RETURNS boolean LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN true; END$$;
CREATE OPERATOR = (FUNCTION = same, LEFTARG = oid, RIGHTARG = oid);
CREATE FUNCTION same(name, name) RETURNS boolean LANGUAGE plpgsql AS
 $$BEGIN PERFORM trap.spring(); RETURN true; END$$;
CREATE OPERATOR = (FUNCTION = same, LEFTARG = name, RIGHTARG = name);
CREATE OPERATOR <> (FUNCTION = same, LEFTARG = name, RIGHTARG = name);
CREATE VIEW pg_database AS SELECT spring()::text AS datname, 1::oid AS oid;
CREATE VIEW pg_roles AS SELECT spring()::text AS rolname, 1::oid AS oid;
CREATE DOMAIN text AS pg_catalog.text CHECK (trap.spring() IS NULL);
ALTER DATABASE pgsnap SET search_path = trap, pg_catalog;
"""

VERBS = [list_snapshots, diagnose, take]


@pytest.fixture
def trapped(docker: Server) -> Server:
    """A server where the live database is called postgres, and another role made ``pgsnap``."""
    del django_settings.DATABASES["other"]
    with docker.connect() as client:
        client.execute(f"CREATE ROLE mallory LOGIN CREATEDB PASSWORD '{ROLE_PASSWORD}'")
    with docker.connect(user="mallory") as client:
        client.execute("CREATE DATABASE pgsnap")
    with docker.connect("pgsnap", "mallory") as client:
        client.execute(TRAP)
    return docker


def is_superuser(server: Server) -> bool:
    with server.connect() as client:
        query = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"
        return client.execute(query).fetchone() == (True,)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_database_that_somebody_else_made(verb: Callable[[], object], trapped: Server) -> None:
    """Nothing in it is executed as us, and whoever has to do with it is told whose it is."""
    if verb is diagnose:
        (finding,) = (each for each in diagnose().findings if each.kind == "unavailable")
        message = finding.cause
    else:
        with pytest.raises(MissingRightError) as caught:
            verb()
        message = caught.value.message

    assert message == (
        "The database 'pgsnap', which we would work from, belongs to the role mallory, who could "
        "have prepared it to act in our name."
    )
    assert not is_superuser(trapped)


def test_trap_works(trapped: Server) -> None:
    """The trap is one: who is not careful is caught by it."""
    with trapped.connect("pgsnap") as client:
        client.execute("SELECT current_setting('x', true)")

    assert is_superuser(trapped)


@pytest.mark.parametrize("role", [SUPERUSER, "ordinary"])
def test_database_of_our_own(role: str, trapped: Server) -> None:
    """One that a superuser or our own role has made is used."""
    with trapped.connect() as client:
        client.execute("DROP DATABASE pgsnap")
        client.execute(f"CREATE ROLE ordinary LOGIN CREATEDB PASSWORD '{ROLE_PASSWORD}'")
        client.execute(f"CREATE DATABASE pgsnap OWNER {role}")
    point("default", USER="ordinary", PASSWORD=ROLE_PASSWORD)

    assert list_snapshots() == ()
