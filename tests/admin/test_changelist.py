"""The list of snapshots in the admin."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from psycopg import sql as pg

import django_pgsnap
from django_pgsnap.admin.text import describe_snapshot
from django_pgsnap.clones.names import new_identity
from django_pgsnap.clones.records import CopyRecord, encode_record
from django_pgsnap.postgres.advisory_locks import lock_key
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.queries import list_snapshots
from django_pgsnap.snapshots.take import take
from tests.conftest import RunSql
from tests.servers import Server
from tests.visiting import confirm, of, page, superuser, text, told, undo
from tests.watching import timeless, write

MANY = 300
# The server counts up from below, and will not get here.
FIRST_OID = 4_000_000_000
MINUTE = timedelta(minutes=1)


@pytest.fixture
def root(live: str) -> Client:
    """A superuser's browser."""
    return superuser()


@pytest.fixture
def described(live: str, sql: RunSql) -> Iterator["Describe"]:
    """Makes snapshots that are nothing but a row in the catalog and a comment, so by hundreds."""
    describe = Describe(live, sql)
    yield describe
    describe.remove()


class Describe:
    """Writes snapshots into the server's catalog."""

    def __init__(self, live: str, sql: RunSql) -> None:
        """Begin with none."""
        self._live, self._sql = live, sql
        self._oids: list[int] = []

    def __call__(self, *records: CopyRecord) -> None:
        """Have these snapshots."""
        first = FIRST_OID + len(self._oids)
        rows = [(first + n, each.database, encode_record(each)) for n, each in enumerate(records)]
        self._oids += [oid for oid, *_ in rows]
        columns = [
            name
            for (name,) in self._sql(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass"
                " AND attnum > 0 AND attname NOT IN"
                " ('oid', 'datname', 'datallowconn', 'datconnlimit') ORDER BY attnum"
            )
        ]
        others = pg.SQL(", ").join(map(pg.Identifier, columns))
        self._sql(
            pg.SQL(
                "INSERT INTO pg_database (oid, datname, datallowconn, datconnlimit, {others})"
                " SELECT n.oid, n.name, false, 0, {others} FROM pg_database,"
                " unnest({oids}::oid[], {names}::name[]) n(oid, name) WHERE datname = {live}"
            ).format(
                others=others,
                oids=pg.Literal([oid for oid, *_ in rows]),
                names=pg.Literal([name for _, name, _ in rows]),
                live=pg.Literal(self._live),
            )
        )
        self._sql(
            "INSERT INTO pg_shdescription SELECT oid, 'pg_database'::regclass, comment"
            " FROM unnest(%s::oid[], %s::text[]) n(oid, comment)",
            [[oid for oid, *_ in rows], [comment for *_, comment in rows]],
        )

    def record(self, name: str, **values: Any) -> CopyRecord:
        """Return the record of a snapshot of the live database."""
        defaults: dict[str, Any] = {
            "identity": new_identity(),
            "set_id": new_identity(),
            "members": 1,
            "alias": "default",
            "source": self._live,
            "taken_at": datetime.now(UTC) - MINUTE,
            "size_bytes": 8_000_000,
        }
        return CopyRecord(name=name, **{**defaults, **values})

    def remove(self) -> None:
        """Take them out of the catalog again."""
        self._sql("DELETE FROM pg_database WHERE oid = ANY(%s)", [self._oids])
        self._sql("DELETE FROM pg_shdescription WHERE objoid = ANY(%s)", [self._oids])


def names(response: Any) -> list[str]:
    """Return the names in a list, in its order."""
    return [row.name for row in response.context["cl"].result_list]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collect what is asked of the server in maintenance sessions."""
    asked: list[object] = []
    rows = Session.rows

    def counting(session: Session, query: Any, parameters: Any = None) -> Any:
        asked.append(query)
        return rows(session, query, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "rows", counting)
        yield asked


def test_columns(root: Client, described: Describe) -> None:
    """A row says all that one wants to know before a restore."""
    described(
        described.record(
            "seeded",
            note="before the <erasure>",
            taken_at=datetime.now(UTC) - 5 * MINUTE,
            git_branch="main",
            git_commit="a1b2c3d4e5f6",
            git_dirty=True,
            pinned=True,
            migrations=(("testapp", "0009_elsewhere"),),
        )
    )

    response = root.get(page("changelist"))
    page_text = text(response).replace("\xa0", " ")

    assert (
        "seeded Restore 5 minutes 7.6 MB Pinned. before the &lt;erasure&gt; main a1b2c3d4"
        in page_text
    )
    assert re.search(r"a1b2c3d4 \(changed\) \d+ not run, 1 not in this code none", page_text)
    assert re.search(
        r'<time datetime="[^"]+" title="[^"]+">5\xa0minutes</time>', response.content.decode()
    )
    assert "Databases" not in page_text.partition("Name Restore")[2]
    assert "All copies together occupy 7.6 MB." in page_text


def test_search_and_order(root: Client, described: Describe) -> None:
    """One can look for words in names, notes and code, and sort by what has an order."""
    now = datetime.now(UTC)
    described(
        described.record(
            "b/second", note="Erasure of Ada", taken_at=now - 2 * MINUTE, size_bytes=3
        ),
        described.record("a-first", git_branch="erasure", taken_at=now - 3 * MINUTE, size_bytes=2),
        described.record("C3", git_commit="a1b2c3", taken_at=now - MINUTE, size_bytes=4),
    )

    def listed(query: str) -> list[str]:
        return names(root.get(f"{page('changelist')}{query}"))

    # Columns are counted from 0; the actions' boxes are the first.
    assert listed("") == listed("?o=3") == ["C3", "b/second", "a-first"]
    assert sorted(listed("?o=no-such")) == ["C3", "a-first", "b/second"]
    assert listed("?o=1") == ["a-first", "b/second", "C3"]
    assert listed("?o=-4") == ["C3", "b/second", "a-first"]
    assert listed("?o=4&q=ERASURE") == ["a-first", "b/second"]
    assert listed("?q=ada+erasure") == ["b/second"]
    assert listed("?q=a1b2") == ["C3"]
    assert listed("?q=nothing") == []


def test_filters(lives: dict[str, str], sql: RunSql) -> None:
    """One can see those of one database, and those whose migrations are of one kind."""
    root = superuser()
    both = take("both", spare=False)
    take("one", databases=["other"], spare=False)
    for member in both.members:
        changed = replace(member.record, migrations=(*member.record.migrations, ("app", "0001")))
        sql(
            pg.SQL("COMMENT ON DATABASE {} IS {}").format(
                pg.Identifier(member.database.name), pg.Literal(encode_record(changed))
            )
        )

    def listed(query: str) -> list[str]:
        return names(root.get(f"{page('changelist')}{query}"))

    assert listed("?database=default") == ["both"]
    assert listed("?database=other") == ["one", "both"]
    assert listed("?drift=unknown") == ["both"]
    assert listed("?drift=current&database=other") == ["one"]
    assert listed("?drift=behind") == []
    assert "default, other" in text(root.get(page("changelist")))


def test_filters_offer_what_there_is(root: Client, described: Describe) -> None:
    """A filter that would show all or nothing is not there."""
    described(described.record("one", git_branch="main"), described.record("two"))
    few = [spec.parameter_name for spec in root.get(page("changelist")).context["cl"].filter_specs]
    described(described.record("three", git_branch="erasure", pinned=True))

    shown = root.get(page("changelist")).context["cl"]
    offered = {spec.parameter_name: dict(spec.lookup_choices) for spec in shown.filter_specs}

    assert few == ["branch"]
    assert offered == {
        "pinned": {"no": "No", "yes": "Yes"},
        "branch": {"-": "none", "erasure": "erasure", "main": "main"},
    }
    for name, choices in offered.items():
        for value in choices:
            assert names(root.get(f"{page('changelist')}?{name}={value}")), (name, value)
    assert names(root.get(f"{page('changelist')}?branch=erasure&pinned=yes")) == ["three"]


def test_addresses_that_were_made_up(root: Client, described: Describe) -> None:
    """What Django's change list would ask a database for leads back to the list."""
    described(described.record("seeded"))

    answers = [root.get(f"{page('changelist')}?{query}") for query in ("name=x", "set_id__in=1")]

    assert [(each.status_code, each["Location"]) for each in answers] == [
        (302, f"{page('changelist')}?e=1")
    ] * 2


def test_hundreds(root: Client, described: Describe, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the server is asked the same, and a page shows a hundred."""
    described(described.record("first"))
    with counted(monkeypatch) as asked_for_one:
        root.get(page("changelist"))
    described(*(described.record(f"snap{number}") for number in range(MANY)))

    with counted(monkeypatch) as asked:
        first = root.get(page("changelist"))
    last = root.get(f"{page('changelist')}?p=4")
    everything = root.get(f"{page('changelist')}?all=")

    assert len(asked) == len(asked_for_one)
    assert [len(names(each)) for each in (first, last, everything)] == [100, 1, 100]
    assert "301 snapshots" in text(first)
    assert 'href="?p=2"' in first.content.decode()


def test_nothing_yet(root: Client) -> None:
    """Where there is no snapshot, the list says so and offers to take one."""
    shown = root.get(page("changelist"))

    assert "There is no snapshot yet." in text(shown)
    assert page("add") in shown.content.decode()


def test_spare_undo_and_what_is_under_way(root: Client, live: str, server: Server) -> None:
    """The list shows what the last restore left, and what other processes are doing."""
    snapshot = take("seeded")
    confirm(root, page("restore", snapshot.set_id))
    application = "pgsnap take big (ada@workstation:4711)"
    with server.connect(application_name=application) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [lock_key(live)])
        shown = text(root.get(page("changelist")))

    assert "Replaced states, newest first Your own data, until the restore of “seeded” on " in shown
    assert "At work on default for 0 s: take big (ada@workstation:4711)." in timeless(shown)


def test_head_says_what_is_live(root: Client) -> None:
    """It says which snapshot is live and what was written since, and that a redo is none."""
    heads = [text(root.get(page("changelist")))]
    snapshot = take("seeded", spare=False)
    write("Lem")
    confirm(root, of("restore", snapshot))
    heads.append(text(root.get(page("changelist"))))
    undo(root)
    heads.append(text(root.get(page("changelist"))))

    assert "Live in default: your own data, as far as is known." in heads[0]
    assert "Live in default: &#x27;seeded&#x27;, restored " in heads[1]
    assert "Replaced states, newest first Your own data, until the restore of “seeded”" in heads[1]
    assert "Live in default: your own data, brought back by undo " in heads[2]
    assert "&#x27;seeded&#x27;, perhaps changed since, until an undo on " in heads[2]


def test_two_of_one_name(root: Client, described: Describe) -> None:
    """Where a name means two snapshots, neither is touched: actions go by name."""
    one, two = described.record("twin"), described.record("twin")
    described(one, two)

    shown = root.get(page("changelist"))
    answer = confirm(root, page("delete", one.set_id))

    assert names(shown) == ["twin", "twin"]
    assert answer.status_code == 409
    assert "There are two snapshots “twin”, since a replacement was interrupted." in text(answer)


def test_odd_names_do_no_harm(root: Client, described: Describe) -> None:
    """What others write into notes and branches is text, on one line, in one direction."""
    described(
        described.record(
            "seeded", note="<script>alert(1)</script>\n\u202eevil", git_branch="<b>", git_commit="1"
        )
    )

    shown = root.get(page("changelist")).content.decode()

    assert "&lt;script&gt;alert(1)&lt;/script&gt; \ufffdevil" in shown
    assert "&lt;b&gt;" in shown


def test_pages_obey_a_strict_content_security_policy() -> None:
    """No template brings a script or a style of its own."""
    templates = Path(django_pgsnap.__file__).parent / "templates"

    for template in templates.rglob("*.html"):
        source = template.read_text()
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:", source), (
            template
        )


def test_delete_several(root: Client) -> None:
    """Those that are chosen in the list are named with what is lost, and then deleted."""
    first, second, third = (take(name, pin=name == "a", spare=False) for name in ("a", "b", "c"))
    chosen = {"action": "delete_selected", "_selected_action": [first.set_id, third.set_id]}

    asked = root.post(page("changelist"), chosen)
    still_there = [each.name for each in list_snapshots()]
    answer = root.post(page("changelist"), {**chosen, "post": "yes"})

    assert all(describe_snapshot(each) in text(asked) for each in (first, third))
    assert describe_snapshot(second) not in text(asked)
    assert "Databases: 2" in text(asked)
    assert "pinned" in describe_snapshot(first)
    assert still_there == ["c", "b", "a"]
    assert [each.name for each in list_snapshots()] == ["b"]
    assert told(answer) == ["Deleted: “c”, “a”."]
    assert sorted(map(str, LogEntry.objects.all())) == ["Deleted “a.”", "Deleted “c.”"]
