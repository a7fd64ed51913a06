"""Noticing that another database stands behind an alias, and telling the process."""

from threading import Event
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.db import OperationalError, connection, connections
from psycopg import sql as pg

from django_pgsnap.connections import reconnect
from django_pgsnap.connections.reconnect import check_oid
from django_pgsnap.errors import SnapshotNotFoundError
from django_pgsnap.signals import post_restore
from django_pgsnap.snapshots.restore import restore, undo
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql, SetAlias
from tests.project import point
from tests.servers import Server
from tests.staleness import answer, change, heard, is_fresh, make_twin, swap_twin, threads
from tests.testapp.models import Author
from tests.watching import Background, until


def test_restore_tells_each_alias_once(lives: dict[str, str], set_alias: SetAlias) -> None:
    """Every alias of what was restored is told, with the snapshot; undo and redo without."""
    set_alias("again")
    take("seeded")

    with heard(post_restore) as calls:
        restore("seeded")
        undo()
        undo()

    found = [(call["using"], call["snapshot"] and call["snapshot"].name) for call in calls]
    aliases = ("default", "again", "other")
    assert found == [(alias, name) for name in ("seeded", None, None) for alias in aliases]
    assert {call["sender"] for call in calls} == {None}


def test_part_of_a_snapshot(lives: dict[str, str]) -> None:
    """Aliases of databases that were not restored are not told."""
    take("seeded")

    with heard(post_restore) as calls:
        restore("seeded", databases=["other"])

    assert [call["using"] for call in calls] == ["other"]


def test_receiver_sees_restored_data(live: str) -> None:
    """When the signal comes, queries and caches are those of the restored database."""
    take("seeded")
    change()
    ContentType.objects.get_for_model(Author)
    Site.objects.get_current()
    seen = []

    def look(**_: Any) -> None:
        cached = ContentType.objects.get_for_model(Author), Site.objects.get_current().name
        in_table = ContentType.objects.get(model="author"), Site.objects.get().name
        seen.append((cached == in_table, Author.objects.count()))

    post_restore.connect(look)
    try:
        restore("seeded")
    finally:
        post_restore.disconnect(look)

    assert seen == [(True, 0)]


def test_receiver_may_take_and_restore(live: str) -> None:
    """The operation is over when the signal comes, so that the next one may begin."""
    take("seeded")

    def again(**_: Any) -> None:
        post_restore.disconnect(again)
        take("again", wait_s=0)
        restore("again", wait_s=1)

    post_restore.connect(again)
    with heard(post_restore) as calls:
        restore("seeded")

    assert sorted(call["snapshot"].name for call in calls) == ["again", "seeded"]


@pytest.mark.parametrize("options", [{}, {"pool": {"min_size": 2}}], ids=["connections", "pool"])
def test_restores_under_load(live: str, options: dict[str, Any]) -> None:
    """Whichever thread meets a restored database first, all hear of it once, with the snapshot."""
    point("default", OPTIONS=options)
    take("seeded")
    over = Event()

    def connect() -> int:
        times = 0
        while not over.is_set():
            try:
                connection.ensure_connection()
                times += 1
            except OperationalError:
                # What a client gets in the milliseconds of a swap, unless a pool tries again.
                if options:
                    raise
            connection.close()
        return times

    with threads(2) as pool, heard(post_restore) as calls:
        working = [each.submit(connect) for each in pool]
        try:
            for _ in range(3):
                restore("seeded")
        finally:
            over.set()
        assert all(each.result() for each in working)

    assert [(call["using"], call["snapshot"].name) for call in calls] == [("default", "seeded")] * 3


def test_threads_that_meet_it_together(live: str, server: Server, sql: RunSql) -> None:
    """Of threads that all saw another database, one tells of it."""
    make_twin(server, live)
    assert answer("/state/")["status"] == 200
    swap_twin(server, live)
    looked = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query = %s AND state = 'idle'"

    with threads(3) as three, heard(post_restore) as calls:
        with reconnect._deciding:
            answers = [each.submit(answer, "/state/") for each in three]
            until(lambda: len(sql(looked, [live, reconnect._DATABASE])) == 3)
        fresh = [is_fresh(each.result(), authors=0) for each in answers]

    assert fresh == [True, True, True]
    assert len(calls) == 1


def test_receiver_may_wait_for_other_threads(live: str, server: Server) -> None:
    """A receiver may wait for a thread that itself connects to what has arrived."""
    make_twin(server, live)
    assert answer("/state/")["status"] == 200
    swap_twin(server, live)

    with threads(1) as (other,), heard(post_restore) as calls:

        def wait(**_: Any) -> None:
            calls.append(other.submit(answer, "/state/").result(timeout=30))

        post_restore.connect(wait)
        answer("/state/")
        post_restore.disconnect(wait)

    _, answered = calls
    assert is_fresh(answered, authors=0)


def test_failed_restore_is_not_told(live: str) -> None:
    """What was not swapped in is met by nobody."""
    take("seeded")

    with heard(post_restore) as calls:
        with pytest.raises(SnapshotNotFoundError):
            restore("sedeed")
        connection.ensure_connection()

    assert calls == []


def test_database_made_anew(live: str, server: Server, sql: RunSql) -> None:
    """A database that somebody dropped and created again is another one, too."""
    make_twin(server, live)
    change()
    ContentType.objects.get_for_model(Author)
    connection.close()

    sql(pg.SQL("DROP DATABASE {}").format(pg.Identifier(live)))
    sql(
        pg.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(pg.Identifier, (live, f"{live}_twin")))
    )

    assert is_fresh(answer("/state/"), authors=0)


def test_names_are_told_apart(live: str, server: Server) -> None:
    """An alias that a test runner leads elsewhere and back has met two databases, no other one."""
    make_twin(server, live)

    with heard(post_restore) as calls:
        for name in (live, f"{live}_twin", live):
            point_keeping_what_was_met(name)
            connection.ensure_connection()

    assert calls == []


def test_swap_between_two_looks(live: str, server: Server) -> None:
    """A connection that was ended between its opening and the look at it is opened anew."""
    make_twin(server, live)
    connection.ensure_connection()
    raw = connection.connection
    swap_twin(server, live)

    with pytest.raises(OperationalError), connection.wrap_database_errors:
        check_oid("default", raw)
    assert raw.closed


def test_connecting_in_the_middle_of_a_swap(live: str, server: Server) -> None:
    """Who is told that the database has just been renamed connects to what has its name now."""
    make_twin(server, live)
    twin, third = f"{live}_twin", f"{live}_third"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'object'"

    with server.connect() as other, server.connect() as watcher:
        other.execute("BEGIN")
        for name, new in ((live, third), (twin, live), (third, twin)):
            rename = pg.SQL("ALTER DATABASE {} RENAME TO {}")
            other.execute(rename.format(pg.Identifier(name), pg.Identifier(new)))
        client = Background(connection.ensure_connection)
        until(lambda: watcher.execute(waiting).fetchone() == (1,))
        other.execute("COMMIT")

    client.result()


def test_copies_of_a_connection_are_ignored(live: str) -> None:
    """Connections outside of DATABASES, such as to no database, are none of ours."""
    with connection._nodb_cursor() as cursor, heard(post_restore) as calls:
        cursor.execute("SELECT 1")

    assert calls == []


def point_keeping_what_was_met(name: str) -> None:
    connection.close()
    connections["default"].settings_dict["NAME"] = name
