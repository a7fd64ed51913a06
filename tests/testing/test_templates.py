"""Templates: when one is used, when not, and which are kept."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from psycopg import sql as pg

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.for_tests import prune_templates
from django_pgsnap.clones.records import TemplateRecord
from django_pgsnap.clones.transitions import rewrite_comment
from django_pgsnap.postgres.advisory_locks import try_acquire_lock
from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases import templates
from django_pgsnap.testing.databases.facts import Facts, project_root
from django_pgsnap.testing.databases.recording import seal
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql, SessionAs
from tests.suites.wanted import COUNTERS, FACTS, wanted
from tests.watching import until

Told = list[tuple[str, int]]


@pytest.fixture(autouse=True)
def _migrated(make_database: MakeDatabase) -> None:
    make_database("test_live")


def publish(session: Session, facts: Facts = FACTS) -> TemplateRecord:
    return templates.publish_template(session, "test_live", wanted(), seal(facts))


def find(session: Session, told: Told | None = None, **values: Any) -> TemplateRecord | None:
    told = [] if told is None else told
    return templates.find_template(session, wanted(**values), lambda *text: told.append(text))


def test_found(session: Session, databases: ListDatabases) -> None:
    """What was published is found, shut, and the user may be told so."""
    told: Told = []
    record = publish(session)

    assert find(session, told) == record
    assert told == [("Alias 'default': used a template, since nothing changed.", 2)]
    (found,) = [each for each in databases() if each.name == record.database]
    assert not found.allows_connections


def test_none_yet(session: Session) -> None:
    """Where there is none, that is no news."""
    told: Told = []

    assert find(session, told) is None
    assert told == [("Alias 'default': made by migrating, because there is no template yet.", 2)]


@pytest.mark.parametrize(("age", "verbosity"), [(timedelta(), 1), (timedelta(hours=2), 2)])
def test_changed(session: Session, age: timedelta, verbosity: int) -> None:
    """The user is told what has changed, above all where a template served lately."""
    told: Told = []
    record = publish(session)
    used_at = (datetime.now(UTC) - age).isoformat()
    session.execute(rewrite_comment(replace(record, used_at=used_at)))

    assert find(session, told, server="19") is None
    assert told == [("Alias 'default': made by migrating, because the server changed.", verbosity)]


def test_building_is_kept_from_us(
    session: Session, session_as: SessionAs, role: MakeRole, sql: RunSql
) -> None:
    """A lock that a role of others keeps is waited for, then done without, and not given back."""
    told: Told = []
    notices: list[str | None] = []
    session._connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    key = f"building template of live for default in {project_root()}"
    assert try_acquire_lock(session_as(role()), key)

    with (
        override_settings(PGSNAP={"WAIT_S": 0.01}),
        templates.lock_building(session, wanted(), lambda *text: told.append(text)),
    ):
        assert told == [("Waiting for another test run, which migrates or clones the same...", 1)]

    assert notices == []


def test_what_was_used_before(session: Session) -> None:
    """As on the way back from another branch, an older template serves if it fits."""
    old = publish(session)
    publish(session, Facts(digests={("fact", "the server"): "19"}, counters=COUNTERS))

    assert find(session) == old


def test_too_old(session: Session) -> None:
    """A template above the age limit is not used."""
    told: Told = []
    publish(session)

    with override_settings(PGSNAP={"TEST": {"MAX_AGE_S": 0}}):
        assert find(session, told) is None
    assert "the template is older than PGSNAP['TEST']['MAX_AGE_S']" in told[0][0]


def test_another_secret_key(session: Session) -> None:
    """What was sealed with another key cannot be compared."""
    told: Told = []
    with override_settings(SECRET_KEY="another"):
        publish(session)

    assert find(session, told) is None
    assert "because the setting SECRET_KEY changed" in told[0][0]


def test_writers_in_the_database_that_new_ones_are_cloned_from(session: Session) -> None:
    """A reader there changes nothing, a writer does."""
    record = publish(session)

    assert find(session, counters=(2, 1)) == record
    assert find(session, counters=(2, 2)) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("COMMENT ON DATABASE {} IS NULL", id="no comment"),
        pytest.param("ALTER DATABASE {} ALLOW_CONNECTIONS true", id="open"),
        pytest.param("ALTER DATABASE {} OWNER TO ordinary", id="of another role"),
        pytest.param("ALTER DATABASE {} RENAME TO elsewhere", id="renamed"),
    ],
)
def test_not_complete_or_not_ours(
    session: Session, sql: RunSql, role: MakeRole, change: str
) -> None:
    """Only what was published counts, if it is shut and our own role's."""
    record = publish(session)
    role()

    sql(pg.SQL(change).format(pg.Identifier(record.database)))

    assert find(session) is None


def test_interrupted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone that was not published is no template, and the next sweep drops it."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(templates, "publish_copy", stop)
    with pytest.raises(KeyboardInterrupt):
        publish(session)

    assert find(session) is None
    assert len(load_catalog(session).leftovers([], [])) == 1


def test_kept_number(session: Session) -> None:
    """Beyond the number to keep, those go that were not used for longest."""
    first, second, third = (publish(session) for _ in range(3))
    templates.note_use(session, first)

    with override_settings(PGSNAP={"TEST": {"KEEP": 2}}):
        gone = prune_templates(session, "live")

    assert gone == [second.database]
    left = {database.name for database in load_catalog(session).templates(["live"])}
    assert left == {first.database, third.database}


def test_in_use(session: Session, session_as: SessionAs) -> None:
    """A template that a run has chosen is not dropped before that run is over."""
    with session_as() as builder:
        record = publish(builder)
    find(session_as())
    pruner = session_as()
    with override_settings(PGSNAP={"TEST": {"KEEP": 0}}):
        gone = prune_templates(pruner, "live")

    assert gone == []
    assert record.database in load_catalog(session).databases


def test_droppable_after_a_miss(session: Session, session_as: SessionAs, sql: RunSql) -> None:
    """A template that a run has found changed is dropped, however long that run takes."""
    with session_as() as builder:
        record = publish(builder)
    until(lambda: not sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    assert find(session, server="19") is None

    with override_settings(PGSNAP={"TEST": {"KEEP": 0}}):
        gone = prune_templates(session_as(), "live")

    assert gone == [record.database]


def test_other_projects(session: Session) -> None:
    """Templates of other live databases are not counted."""
    record = publish(session)

    with override_settings(PGSNAP={"TEST": {"KEEP": 0}}):
        assert prune_templates(session, "other") == []
    assert record.database in load_catalog(session).databases


def test_workers_of_one_run(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """What one worker of a run has compared, the others take without reading the files again."""
    uses = {("file", str(tmp_path / "missing")): "digest", **FACTS.digests}
    facts = Facts(digests=uses, counters=COUNTERS)
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "this")
    record = publish(session, facts)

    assert find(session) == record
    assert find(session, server="19") is None
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "the next")
    assert find(session) is None
