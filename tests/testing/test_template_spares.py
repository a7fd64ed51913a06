"""The spare of a template: made by the server alone, used once, and swept with its template."""

import pytest
from django.test import override_settings

from django_pgsnap.clones.catalog import load_catalog
from django_pgsnap.clones.for_tests import TestDatabaseComment
from django_pgsnap.clones.names import spare_name
from django_pgsnap.clones.records import TemplateRecord
from django_pgsnap.postgres.advisory_locks import release_lock, try_acquire_lock, wait_for_lock
from django_pgsnap.postgres.server import Server
from django_pgsnap.postgres.session import Session
from django_pgsnap.testing.databases import clones, templates
from django_pgsnap.testing.databases.recording import seal
from tests.conftest import ListDatabases, MakeDatabase, MakeRole, RunSql, ServerAs, SessionAs
from tests.suites.wanted import FACTS, wanted


@pytest.fixture
def ours(server_as: ServerAs) -> Server:
    return server_as()


def publish(session: Session) -> TemplateRecord:
    return templates.publish_template(session, "test_live", wanted(), seal(FACTS))


@pytest.fixture
def template(session: Session, make_database: MakeDatabase) -> TemplateRecord:
    make_database("test_live")
    return publish(session)


def test_taken(session: Session, ours: Server, template: TemplateRecord) -> None:
    """What the server was sent off to make is there for the next run, once, and shut till then."""
    templates.order_template_spare(ours, template.database)

    spare = templates.obtain_template_spare(session, template)

    assert spare == spare_name(template.identity)
    assert load_catalog(session).leftovers([], []) == []
    comment = TestDatabaseComment(database="test_more", source="live", complete=True, kept=False)
    clones.turn_into_test_database(session, spare, comment)
    assert templates.obtain_template_spare(session, template) is None


def test_ordered_twice(
    session: Session, ours: Server, session_as: SessionAs, template: TemplateRecord
) -> None:
    """A spare that is on its way is not ordered again."""
    other = session_as()
    try_acquire_lock(other, spare_name(template.identity))

    templates.order_template_spare(ours, template.database)

    other.close()
    assert templates.obtain_template_spare(session, template) is None


def test_only_of_the_template_used_last(
    session: Session, ours: Server, template: TemplateRecord, databases: ListDatabases
) -> None:
    """When the spare of another template is made, that of an earlier one is dropped."""
    templates.order_template_spare(ours, template.database)
    wait_for_lock(session, spare_name(template.identity))
    release_lock(session, spare_name(template.identity))
    newer = publish(session)

    templates.order_template_spare(ours, newer.database)

    for each in (template, newer):
        wait_for_lock(session, spare_name(each.identity))
    present = {database.name for database in databases()}
    assert spare_name(newer.identity) in present
    assert spare_name(template.identity) not in present
    assert {template.database, newer.database} <= present


@pytest.mark.parametrize("settings", [{"SPARES": False}, {"SPARE_MAX_BYTES": 1}])
def test_not_wanted(
    session: Session, ours: Server, template: TemplateRecord, settings: dict[str, object]
) -> None:
    """The settings of spares count for those of templates, too."""
    with override_settings(PGSNAP=settings):
        templates.order_template_spare(ours, template.database)

    assert templates.obtain_template_spare(session, template) is None


def test_gone_with_its_template(session: Session, ours: Server, template: TemplateRecord) -> None:
    """The spare of a template that made room for a newer one is not used, but swept."""
    templates.order_template_spare(ours, template.database)
    old = templates.obtain_template_spare(session, template)
    assert old is not None
    release_lock(session, old)

    with override_settings(PGSNAP={"TEST": {"KEEP": 1}}):
        new = publish(session)

    assert templates.obtain_template_spare(session, new) is None
    assert [left.name for left in load_catalog(session).leftovers([], [])] == [old]
    clones.sweep_dead_runs(session, "live")
    assert load_catalog(session).databases.get(old) is None


def test_no_session_left(
    session: Session, server_as: ServerAs, role: MakeRole, sql: RunSql, template: TemplateRecord
) -> None:
    """A run ends well where the server takes no further session; the next one clones by itself."""
    ordinary = server_as(role())
    sql("ALTER ROLE ordinary CONNECTION LIMIT 0")

    templates.order_template_spare(ordinary, template.database)

    assert templates.obtain_template_spare(session, template) is None
