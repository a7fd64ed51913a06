"""Templates: when one is used, when not, and which are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from psycopg import sql as pg

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.names import is_identity
from django_pgsnap.clones.records import Files, TemplateRecord
from django_pgsnap.clones.templates import prune_templates
from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases import file_reads, templates
from django_pgsnap.testing.databases.fingerprint import Fingerprint, SourceCounters
from django_pgsnap.testing.databases.migration_history import Step
from django_pgsnap.testing.databases.templates import database_name
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql, SessionAs

ONE = Step(app="a", name="0001", digest="1")
TWO = Step(app="a", name="0002", digest="2")
THREE = Step(app="b", name="0001", digest="3")


def made_of(**ingredients: str) -> Fingerprint:
    return Fingerprint(ingredients={"migrations": "m", "apps": "a", **ingredients})


def publish(
    session: Session,
    fingerprint: Fingerprint,
    ancestor: TemplateRecord | None = None,
    files: Files = (),
) -> TemplateRecord:
    return templates.publish_template(
        session,
        "test_live",
        fingerprint,
        alias="default",
        source="live",
        ancestor=ancestor,
        files=files,
    )


@pytest.fixture(autouse=True)
def _migrated(make_database: MakeDatabase) -> None:
    make_database("test_live")


def test_found(session: Session, databases: ListDatabases) -> None:
    """What was published is found by its fingerprint, shut."""
    record = publish(session, made_of())

    assert templates.find_template(session, made_of()) == record
    (found,) = [each for each in databases() if each.name == record.database]
    assert (found.name, found.allows_connections) == (database_name(made_of()), False)


def test_another_fingerprint(session: Session) -> None:
    """One ingredient is another one, and there is nothing to find."""
    publish(session, made_of())

    assert templates.find_template(session, made_of(apps="b")) is None


def test_too_old(session: Session) -> None:
    """A template above the age limit is not used, and replaced by the next one."""
    old = publish(session, made_of())
    with override_settings(PGSNAP={"TEST": {"MAX_AGE_S": 0}}):
        assert templates.find_template(session, made_of()) is None

    new = publish(session, made_of())

    assert (new.database, new.set_id == old.set_id) == (old.database, False)
    assert templates.find_template(session, made_of()) == new


def test_files_that_were_read(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template whose files have changed is neither used nor an ancestor, and replaced."""
    monkeypatch.setattr(templates, "todays_plan", lambda: [ONE])
    for name in "ab":
        (tmp_path / name).write_text("old")
    digest = file_reads._digest(str(tmp_path / "a"))
    assert digest
    first, second = (((str(tmp_path / name), digest),) for name in "ab")
    ancestor = publish(session, made_of(), files=first)
    record = publish(session, made_of(migrations="more"), ancestor, files=second)
    assert record.files == first + second
    assert templates.find_template(session, made_of(migrations="more")) == record

    (tmp_path / "a").write_text("new")

    assert templates.find_template(session, made_of(migrations="more")) is None
    assert templates.nearest(session, made_of(migrations="more"), "live") is None
    new = publish(session, made_of(migrations="more"), files=second)
    assert (new.database, new.set_id == record.set_id) == (record.database, False)
    assert templates.nearest(session, made_of(migrations="other"), "live") == new


def test_another_ground(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was created before somebody wrote into template1 is neither used nor an ancestor."""
    monkeypatch.setattr(templates, "todays_plan", lambda: [ONE])
    before = SourceCounters(sessions=1, written=1)
    ancestor = publish(session, replace(made_of(), ground=before))
    more = replace(made_of(migrations="more"), ground=SourceCounters(sessions=2, written=1))
    assert templates.nearest(session, more, "live") == ancestor
    record = publish(session, more, ancestor)
    assert (record.ground_sessions, record.ground_written) == (1, 1)
    assert templates.find_template(session, more) == record

    written = replace(more, ground=SourceCounters(sessions=2, written=2))

    assert templates.find_template(session, written) is None
    assert templates.nearest(session, written, "live") is None


def test_as_old_as_its_ancestor(session: Session) -> None:
    """A template made from another one has read no later date than that one."""
    ancestor = publish(session, made_of())

    record = publish(session, made_of(migrations="more"), ancestor)

    assert record.taken_at == ancestor.taken_at


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
    record = publish(session, made_of())
    role()

    sql(pg.SQL(change).format(pg.Identifier(record.database)))

    assert templates.find_template(session, made_of()) is None


def test_interrupted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone that was not published is no template, and the next sweep drops it."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(templates, "publish_copy", stop)
    with pytest.raises(KeyboardInterrupt):
        publish(session, made_of())

    assert templates.find_template(session, made_of()) is None
    assert len(load_catalog(session).leftovers([], [])) == 1


def test_kept_number(session: Session) -> None:
    """Beyond the number to keep, those go that were not used for longest."""
    first, second, third = (publish(session, made_of(apps=name)) for name in "abc")
    templates.note_use(session, first)

    with override_settings(PGSNAP={"TEST": {"KEEP": 2}}):
        gone = prune_templates(session, "live")

    assert gone == [second.database]
    left = {database.name for database in load_catalog(session).templates(["live"])}
    assert left == {first.database, third.database}


def test_in_use(session: Session, session_as: SessionAs) -> None:
    """A template that a run uses is not dropped before that run is over."""
    record = publish(session_as(), made_of())
    run = session_as()
    templates.find_template(run, made_of())
    pruner = session_as()
    with override_settings(PGSNAP={"TEST": {"KEEP": 0}}):
        session_is_using = prune_templates(pruner, "live")

    assert session_is_using == []
    assert record.database in load_catalog(session)


def test_other_projects(session: Session) -> None:
    """Templates of other live databases are not counted."""
    record = publish(session, made_of())

    with override_settings(PGSNAP={"TEST": {"KEEP": 0}}):
        assert prune_templates(session, "other") == []
    assert record.database in load_catalog(session)


@pytest.mark.parametrize(
    ("plan", "length"),
    [
        ([ONE, TWO, THREE], 2),
        ([ONE, TWO], 2),
        ([ONE, THREE, TWO], 1),
        ([ONE, replace(TWO, digest="changed")], 1),
        ([ONE], 1),
        ([TWO, ONE], None),
        ([THREE, ONE, TWO], None),
        ([], None),
    ],
)
def test_nearest(
    session: Session, monkeypatch: pytest.MonkeyPatch, plan: list[Step], length: int | None
) -> None:
    """The nearest ancestor has the longest history that today's plan begins with."""
    for number, steps in enumerate(([ONE], [ONE, TWO])):
        monkeypatch.setattr(templates, "todays_plan", lambda steps=steps: steps)
        publish(session, made_of(migrations=str(number)))
    monkeypatch.setattr(templates, "todays_plan", lambda: plan)

    nearest = templates.nearest(session, made_of(migrations="today"), "live")

    assert (nearest and nearest.history_length) == length


def test_no_ancestor_in_another_environment(session: Session) -> None:
    """With other ingredients than migrations, nothing of a template can be used."""
    publish(session, made_of())

    assert templates.nearest(session, made_of(apps="b", migrations="more"), "live") is None


def test_names() -> None:
    """A template's name has the first digits of its fingerprint."""
    fingerprint = made_of()

    assert database_name(fingerprint) == f"pgsnap_template_{fingerprint.digest[:16]}"
    assert is_identity(fingerprint.identity)
