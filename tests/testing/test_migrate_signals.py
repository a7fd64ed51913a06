"""Receivers of pre_migrate and post_migrate, where a template makes migrating needless."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate
from django.test.utils import CaptureQueriesContext

from django_pgsnap.clones.for_tests import TestDatabaseComment
from django_pgsnap.postgres.session import Session
from django_pgsnap.testing import creation
from django_pgsnap.testing.databases import clones, own_databases, setup
from django_pgsnap.testing.databases.own_databases import OwnDatabase
from tests.conftest import MakeDatabase, RunSql, SetAlias

heard: list[tuple[str, str, str]] = []


def hear(signal: Any, sender: Any, using: str, plan: list[Any], **_: Any) -> None:
    assert plan == []
    heard.append(("before" if signal is pre_migrate else "after", sender.label, using))


@pytest.fixture
def _listening() -> Iterator[None]:
    heard.clear()
    for signal in (pre_migrate, post_migrate):
        signal.connect(hear, sender=apps.get_app_config("testapp"))
    yield
    for signal in (pre_migrate, post_migrate):
        signal.disconnect(hear, sender=apps.get_app_config("testapp"))


@pytest.mark.usefixtures("_listening")
def test_told(live: str) -> None:
    """A project's receivers hear of a migration with nothing to do; Django's own are spared."""
    before = list(post_migrate.receivers or ())

    with CaptureQueriesContext(connections["default"]) as queries:
        creation.tell_receivers("default", 0)

    assert heard == [("before", "testapp", "default"), ("after", "testapp", "default")]
    assert len(queries) == 0
    assert post_migrate.receivers == before


def test_receivers_that_change(live: str) -> None:
    """A receiver that disconnects itself stays away, and one that it connects stays, in order."""
    before = list(post_migrate.receivers or ())

    def first(**_: Any) -> None:
        post_migrate.disconnect(first)
        post_migrate.connect(second)

    def second(**_: Any) -> None:
        """Hear of what comes next."""

    post_migrate.connect(first)
    try:
        creation.tell_receivers("default", 0)

        now = list(post_migrate.receivers or ())
        assert now[:-1] == before
        assert now[-1][1]() is second
    finally:
        post_migrate.disconnect(first)
        post_migrate.disconnect(second)


def test_nobody_to_tell(set_alias: Any) -> None:
    """Where only Django listens, no connection is opened."""
    creation.tell_receivers("default", 0)

    assert connections["default"].connection is None


@pytest.fixture
def things(
    session: Session, make_database: MakeDatabase, set_alias: SetAlias, sql: RunSql
) -> Iterator[str]:
    """A test database that was cloned from its template, with an empty table."""
    make_database("template")
    sql("CREATE TABLE things (id int)", dbname="template")
    name = "test_things"
    comment = TestDatabaseComment(database=name, source="live", complete=True, kept=False)
    clones.turn_into_test_database(session, clones.make_shut_clone(session, "template"), comment)
    set_alias("default", NAME=name)
    own = OwnDatabase(alias="default", name=name, source="live", template="template")
    own_databases.register_database(own)
    yield name
    setup.give_up_database(connections["default"], name, keep=False)
    own_databases.withdraw_announcement()


@pytest.mark.parametrize("is_counted", [True, False])
def test_taken_back(things: str, sql: RunSql, is_counted: bool) -> None:
    """What a receiver writes again is gone, also where the server does not count it."""
    if not is_counted:
        sql(f"ALTER DATABASE {things} SET track_counts = off")

    def insert(**_: Any) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO things VALUES (7)")

    config = apps.get_app_config("testapp")
    post_migrate.connect(insert, sender=config)
    try:
        creation.tell_receivers("default", 0)
    finally:
        post_migrate.disconnect(insert, sender=config)

    connections["default"].close()
    assert sql("SELECT * FROM things", dbname=things) == []
