"""The doctor: what it finds, what it says about it, and what it mends."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management.base import CommandError
from psycopg import sql as pg

from django_pgsnap.clones.names import spare_name, unfinished_name
from django_pgsnap.clones.transitions import rewrite_comment
from django_pgsnap.doctor.diagnosis import diagnose
from django_pgsnap.doctor.findings import Diagnosis, Finding
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.testing.databases import templates
from django_pgsnap.testing.databases.recording import seal
from tests.conftest import Call, ListDatabases, MakeRole, RunSql
from tests.project import point
from tests.records import copy_record
from tests.servers import Server
from tests.suites.wanted import FACTS, wanted
from tests.watching import Recorder, settle

CLOSED = pg.SQL("ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
IDENTITY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_spares(settings: LazySettings) -> None:
    """No fired statement is at work while a test looks, unless it wants one."""
    settings.PGSNAP = {**settings.PGSNAP, "SPARES": False}


def of_kind(diagnosis: Diagnosis, kind: str) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.kind == kind]


def the(diagnosis: Diagnosis, kind: str) -> Finding:
    (finding,) = of_kind(diagnosis, kind)
    return finding


def make_shut(sql: RunSql, name: str, *, source: str = "template0", owner: str = "postgres") -> str:
    sql(
        pg.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY FILE_COPY {}").format(
            *map(pg.Identifier, (name, source, owner)), CLOSED
        )
    )
    return name


def half_drop(sql: RunSql, name: str) -> None:
    sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", [name])


def test_healthy_project_has_nothing_to_put_right(live: str) -> None:
    """Neither errors nor warnings are found where all is well."""
    take("seeded")

    assert diagnose().problems == ()


def test_usage_by_kind(live: str) -> None:
    """What live databases, copies and undos occupy is told by kind."""
    take("seeded")
    restore("seeded")

    usage = {each.kind: each for each in diagnose().usage}

    assert {kind: each.databases for kind, each in usage.items()} == {
        "live": 1,
        "copy": 1,
        "undo": 1,
        "template": 0,
        "run": 0,
        "test": 0,
        "spare": 0,
        "leftover": 0,
    }
    assert usage["copy"].size_bytes == pytest.approx(usage["live"].size_bytes, rel=0.1)


@pytest.mark.parametrize(
    "found_as",
    [
        (
            f"pgsnap_new_{IDENTITY}",
            "unfinished",
            "It is a clone that an interrupted command never published.",
        ),
        (
            f"pgsnap_drop_{IDENTITY}",
            "not-dropped",
            "An operation no longer needs it, and was interrupted before the drop.",
        ),
        (
            f"pgsnap_spare_{IDENTITY}",
            "spare-without-copy",
            "It is the spare of a copy that is gone.",
        ),
    ],
)
def test_leftovers_are_found_and_dropped(
    live: str, sql: RunSql, databases: ListDatabases, found_as: tuple[str, str, str]
) -> None:
    """What an interrupted command left is a warning, and --fix drops it."""
    name, kind, cause = found_as
    make_shut(sql, name)

    found = diagnose()
    mended = diagnose(fix=True)

    assert (the(found, kind).severity, the(found, kind).object) == ("warning", name)
    assert the(found, kind).cause == cause
    assert found.problems == (the(found, kind),)
    assert the(mended, kind).fixed
    assert mended.problems == ()
    assert [database.name for database in databases()] == [live]


def test_interrupted_drops_are_finished(live: str, sql: RunSql, databases: ListDatabases) -> None:
    """A copy and an undo whose DROP was interrupted are half-dropped, and --fix drops them."""
    take("seeded")
    restore("seeded")
    for database in databases():
        if database.name != live:
            half_drop(sql, database.name)

    found = of_kind(diagnose(), "half-dropped")
    mended = diagnose(fix=True)

    assert [finding.cause for finding in found] == ["A DROP DATABASE of it was interrupted."] * 2
    assert [finding.fixed for finding in of_kind(mended, "half-dropped")] == [True, True]
    assert [database.name for database in databases()] == [live]


def test_what_somebody_is_at_work_on_is_left(
    live: str, sql: RunSql, server: Server, databases: ListDatabases
) -> None:
    """A clone whose lock is held is being made: neither a finding nor dropped."""
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")
    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(name)])

        diagnosis = diagnose(fix=True)

        assert of_kind(diagnosis, "unfinished") == []
        assert name in [database.name for database in databases()]


@pytest.mark.parametrize(
    "name", [f"pgsnap_new_{IDENTITY}0", "pgsnap_new_", "pgsnap_backup", f"PGSNAP_NEW_{IDENTITY}"]
)
def test_what_is_not_ours_is_never_dropped(
    live: str, sql: RunSql, databases: ListDatabases, name: str
) -> None:
    """A name that merely looks like one of ours keeps its database."""
    make_shut(sql, name)

    diagnosis = diagnose(fix=True)

    assert diagnosis.problems == ()
    assert name in [database.name for database in databases()]


def test_old_template_is_dropped(
    live: str, session: Session, databases: ListDatabases, settings: LazySettings, server: Server
) -> None:
    """A template of tests above the age limit is of no use, and fixing drops it."""
    record = templates.publish_template(session, live, wanted(source=live), seal(FACTS))
    session.close()
    settle(server)
    assert "superfluous-template" not in {finding.kind for finding in diagnose().findings}
    settings.PGSNAP = {"ENABLED": True, "TEST": {"MAX_AGE_S": 0}}

    found = diagnose(fix=True)

    assert the(found, "superfluous-template").object == record.database
    assert the(found, "superfluous-template").fixed
    assert record.database not in [database.name for database in databases()]


def test_open_copy_is_named_with_the_statement_that_shuts_it(live: str, sql: RunSql) -> None:
    """A copy that somebody opened is a warning, whose remedy shuts it again."""
    copy = take("seeded").members[0].database.name
    sql(pg.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(pg.Identifier(copy)))

    remedy = the(diagnose(), "open-copy").remedy
    sql(pg.SQL(remedy))

    assert remedy == f'ALTER DATABASE "{copy}" ALLOW_CONNECTIONS false CONNECTION LIMIT 0;'
    assert of_kind(diagnose(), "open-copy") == []


def test_untrusted_imitation_is_named_and_left(
    live: str, sql: RunSql, role: MakeRole, databases: ListDatabases
) -> None:
    """A database of another role with a real snapshot's comment is a warning, and stays."""
    copy = take("seeded").members[0].database.name
    sql(
        pg.SQL("ALTER DATABASE {} OWNER TO {}").format(
            pg.Identifier(copy), pg.Identifier(role("mallory"))
        )
    )

    finding = the(diagnose(fix=True), "untrusted")

    assert finding.object == copy
    assert finding.cause == (
        "It belongs to the role 'mallory', which is neither yours nor the live database's owner, "
        "and is called like one of ours. It is ignored."
    )
    assert copy in [database.name for database in databases()]


def test_what_another_project_has(
    live: str, sql: RunSql, role: MakeRole, session: Session, server: Server
) -> None:
    """Another role's copies of a database that is gone are a note, and its take is no finding."""
    theirs, owner = copy_record(source="theirs"), role("colleague")
    for name in (theirs.database, spare_name(theirs.identity), unfinished_name(IDENTITY)):
        make_shut(sql, name, owner=owner)
    session.execute(rewrite_comment(theirs))
    session.close()

    with server.connect() as maker:
        maker.execute("SELECT pg_advisory_lock(%s)", [lock_key(unfinished_name(IDENTITY))])
        found = of_kind(diagnose(), "untrusted")
        maker.execute("SELECT pg_advisory_unlock_all()")
        (left,) = diagnose().problems

    assert {(each.severity, each.object) for each in found} == {
        ("note", theirs.database),
        ("note", spare_name(theirs.identity)),
    }
    assert left.object == unfinished_name(IDENTITY)


def test_incomplete_snapshot(lives: dict[str, str], sql: RunSql) -> None:
    """A snapshot of two databases that lost one is a warning; asked about one alias, too."""
    snapshot = take("seeded")
    gone = next(member for member in snapshot.members if member.alias == "other")
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(gone.database.name)))

    finding = the(diagnose(), "incomplete")

    assert (finding.severity, finding.object) == ("warning", "seeded")
    assert finding.cause == "Only 1 of its 2 parts are there: default."


def test_complete_snapshot_looked_at_by_one_alias(lives: dict[str, str]) -> None:
    """Asked about one of two aliases, a complete snapshot of both is no finding."""
    take("seeded")

    assert diagnose(databases=["default"]).problems == ()


def test_missing_rights_are_named_with_their_grant(live_owned: str, sql: RunSql) -> None:
    """A role without CREATEDB is an error, one that cannot see other sessions a note."""
    sql("ALTER ROLE ordinary NOCREATEDB")

    diagnosis = diagnose()

    assert the(diagnosis, "missing-right").severity == "error"
    assert the(diagnosis, "missing-right").remedy == (
        "Let a superuser run: ALTER ROLE ordinary CREATEDB;"
    )
    assert the(diagnosis, "cannot-end-sessions").remedy.endswith(
        "GRANT pg_signal_backend TO ordinary;"
    )
    assert the(diagnosis, "cannot-see-sessions").remedy.endswith(
        "GRANT pg_read_all_stats TO ordinary;"
    )
    assert the(diagnosis, "orphaned-files-unknown").severity == "note"


def test_live_database_that_is_missing(live: str, sql: RunSql) -> None:
    """Without its live database doctor still works, and says how to get it back."""
    take("seeded")
    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))

    finding = the(diagnose(), "live-missing")

    assert (finding.severity, finding.object) == ("error", live)
    assert finding.remedy == "Restore a snapshot of it: ./manage.py pgsnap restore."


def test_live_database_that_is_half_dropped(live: str, sql: RunSql) -> None:
    """A live database whose DROP was interrupted is an error, and not for --fix to touch."""
    half_drop(sql, live)

    finding = the(diagnose(fix=True), "live-half-dropped")

    assert finding.remedy.startswith(f'Finish it with DROP DATABASE "{live}";')


def test_one_server_down_does_not_hide_the_other(lives: dict[str, str], sql: RunSql) -> None:
    """A server that cannot be reached is one error; the other is looked at and mended."""
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")
    point("other", PORT="1")

    diagnosis = diagnose(fix=True)

    assert the(diagnosis, "unavailable").severity == "error"
    assert the(diagnosis, "unavailable").object == lives["other"]
    assert the(diagnosis, "unfinished").object == name
    assert the(diagnosis, "unfinished").fixed


def test_one_name_on_two_servers(
    live_pair: dict[str, str], two_servers: Server, sql: RunSql, settings: LazySettings
) -> None:
    """What is mended on one server is told, though the other still has a database of that name."""
    settings.PGSNAP = {**settings.PGSNAP, "WAIT_S": 0.01}
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")
    with two_servers.connect() as second:
        second.execute(f"CREATE DATABASE {name} ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
        second.execute("SELECT pg_advisory_lock(%s)", [lock_key(live_pair["other"])])

        found = of_kind(diagnose(fix=True), "unfinished")

    assert [(each.object, each.fixed) for each in found] == [(name, True), (name, False)]


def test_right_that_is_missing_is_told_once(
    lives: dict[str, str], sql: RunSql, role: MakeRole, settings: LazySettings
) -> None:
    """A maintenance database of another role is an error of its server, and no warning besides."""
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")
    sql(pg.SQL("CREATE DATABASE pgsnap OWNER {}").format(pg.Identifier(role("mallory"))))
    settings.PGSNAP = {"ENABLED": True, "MAINTENANCE": {"other": {"dbname": "pgsnap"}}}
    reporter = Recorder()

    diagnosis = diagnose(fix=True, reporter=reporter)

    assert the(diagnosis, "unavailable").object == lives["other"]
    assert (the(diagnosis, "unfinished").object, the(diagnosis, "unfinished").fixed) == (name, True)
    assert reporter.warnings == []


def test_switched_off_it_looks_but_mends_nothing(
    live: str, settings: LazySettings, sql: RunSql, call: Call
) -> None:
    """Where snapshots are switched off doctor reports, and says why it mended nothing."""
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")
    settings.PGSNAP = {"ENABLED": False}

    found = diagnose(fix=True)

    assert the(found, "switched-off").severity == "note"
    assert the(found, "unfinished").object == name
    assert not the(found, "unfinished").fixed


def test_database_above_the_limit_of_spares(live: str, settings: LazySettings) -> None:
    """Whoever has set the limit too low is told why restores copy."""
    assert of_kind(diagnose(), "no-spare") == []
    settings.PGSNAP = {"ENABLED": True, "SPARE_MAX_BYTES": 1024}

    finding = the(diagnose(), "no-spare")

    assert (finding.severity, finding.object) == ("note", "PGSNAP['SPARE_MAX_BYTES']")
    assert "above the limit of 1.0 KB, so restores copy it" in finding.cause


def test_settings_that_lead_nowhere(live: str) -> None:
    """Where the settings name no database that is the finding."""
    point("default", NAME="")

    (finding,) = diagnose().findings

    assert (finding.kind, finding.cause) == ("settings", "The alias 'default' has no NAME.")


def test_role_that_only_a_copy_keeps(live: str, sql: RunSql, role: MakeRole) -> None:
    """A role that has something in a copy only is named, with the databases that keep it."""
    name = pg.Identifier(role("bob"))
    sql(pg.SQL("CREATE TABLE bobs (); ALTER TABLE bobs OWNER TO {}").format(name), dbname=live)
    assert of_kind(diagnose(), "kept-role") == []
    copy = take("seeded").members[0].database.name
    sql("DROP TABLE bobs", dbname=live)

    finding = the(diagnose(), "kept-role")

    assert finding.object == "bob"
    assert finding.cause == f"DROP ROLE would fail only for what it has in {copy}."


def test_pg_upgrade_is_told_of(live: str) -> None:
    """Shut databases are a note, since pg_upgrade refuses them."""
    copy = take("seeded").members[0].database.name

    finding = the(diagnose(), "pg-upgrade")

    assert finding.object == copy
    assert finding.cause == "pg_upgrade refuses databases that nobody may connect to: 1 here."
    assert f'ALTER DATABASE "{copy}" ALLOW_CONNECTIONS true;' in finding.remedy
    assert "run no pgsnap command until the upgrade is done" in finding.remedy


@pytest.fixture
def orphan(server: Server) -> Iterator[str]:
    """A directory of no database, as a crash in the middle of CREATE DATABASE leaves one."""
    directory = server.data_dir / "base" / "4000000"
    directory.mkdir()
    (directory / "1259").write_bytes(b"\0" * 8192)
    yield str(directory)
    (directory / "1259").unlink()
    directory.rmdir()


def test_orphaned_files_are_named(live: str, orphan: str) -> None:
    """Files of no database are a warning to a superuser, with the path to remove."""
    finding = the(diagnose(), "orphaned-files")

    assert finding.object == orphan
    assert finding.cause.startswith("It holds 8.0 KB of no database, last changed 2")
    assert finding.remedy.endswith(f"rm -r '{orphan}'")


def test_database_being_made_is_no_orphan(live: str, orphan: str, server: Server) -> None:
    """While somebody may be filling it, a directory without a row is not called an orphan."""
    with server.connect() as maker, maker.transaction():
        maker.execute("LOCK TABLE pg_database IN ROW EXCLUSIVE MODE")
        os.utime(orphan)

        assert of_kind(diagnose(), "orphaned-files") == []

    assert the(diagnose(), "orphaned-files").object == orphan


def test_command_prints_findings_and_fails_while_any_is_left(
    live: str, sql: RunSql, call: Call
) -> None:
    """The command shows object, cause and remedy, and fails until all is put right."""
    name = make_shut(sql, f"pgsnap_new_{IDENTITY}")

    with pytest.raises(CommandError) as failure:
        call("pgsnap", "doctor")
    printed = call("pgsnap", "doctor", "--fix").stdout

    assert (
        str(failure.value)
        == "1 thing needs to be put right, 1 of them by ./manage.py pgsnap doctor --fix."
    )
    assert f"fixed: {name}\n    It is a clone that an interrupted command" in printed


def test_command_on_a_healthy_project(live: str, call: Call) -> None:
    """Where nothing is wrong that is one line; notes and sizes are there on demand."""
    call("pgsnap", "take", "seeded")

    (line,) = call("pgsnap", "doctor").stdout.splitlines()
    talkative = call("pgsnap", "doctor", "-v", "2").stdout

    assert line == "Nothing is wrong. 1 note: add -v 2."
    assert talkative.startswith("note: pgsnap_")
    assert "\nlive: 1, " in talkative
    assert talkative.endswith("Nothing is wrong.\n")


def test_command_prints_json(live: str, call: Call) -> None:
    """With --json the facts are printed, and nothing else."""
    call("pgsnap", "take", "seeded")
    facts: dict[str, Any] = json.loads(call("pgsnap", "doctor", "--json").stdout)

    assert facts["healthy"] is True
    assert set(facts) == {"healthy", "findings", "usage"}
    assert {
        "kind",
        "severity",
        "server",
        "object",
        "cause",
        "remedy",
        "fixable",
        "fixed",
    } == set(facts["findings"][0])


@pytest.fixture
def tablespace(server: Server, sql: RunSql) -> Iterator[Path]:
    """The directory of an additional tablespace."""
    directory = server.root / "extra"
    directory.mkdir()
    server._give_away(directory)
    sql(pg.SQL("CREATE TABLESPACE extra LOCATION {}").format(pg.Literal(str(directory))))
    yield directory
    sql("DROP TABLESPACE extra")
    shutil.rmtree(directory)


def test_orphaned_files_in_a_tablespace(live: str, tablespace: Path) -> None:
    """Another tablespace is looked at too, but not what another major version has in it."""
    (versioned,) = tablespace.iterdir()
    orphan, foreign = versioned / "4000001", tablespace / "PG_9.6_201608131" / "4000002"
    orphan.mkdir()
    foreign.mkdir(parents=True)

    finding = the(diagnose(), "orphaned-files")
    orphan.rmdir()

    assert Path(finding.object).resolve() == orphan.resolve()


def test_one_server_at_two_addresses(lives: dict[str, str], server: Server) -> None:
    """Aliases that reach one server by two addresses do not make its parts count twice."""
    point("other", HOST=str(server.root))
    take("seeded", spare=False)

    assert diagnose().problems == ()
