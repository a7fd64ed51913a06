"""One database of each kind that we make, beside a live one."""

from collections.abc import Callable
from dataclasses import replace

from django_pgsnap.clones.for_tests import TestDatabaseComment
from django_pgsnap.clones.records import CopyRecord
from django_pgsnap.postgres.session import Session
from django_pgsnap.snapshots.restore import restore
from django_pgsnap.snapshots.take import take
from django_pgsnap.snapshots.throwaway import open_throwaway
from django_pgsnap.testing.databases import clones, templates
from django_pgsnap.testing.databases.facts import Facts
from django_pgsnap.testing.databases.recording import seal
from tests.servers import Server
from tests.suites.wanted import wanted
from tests.watching import settle


def make_one_of_each(
    live: str, server: Server, open_session: Callable[[], Session], facts: Facts
) -> CopyRecord:
    """Make one of each kind, and return the record of the snapshot's copy.

    That is a snapshot ``seeded`` with its spare, a replaced state, a template and one made of the
    snapshot, a clone for a command that is kept, and a test database that a killed run left.
    """
    copy = take("seeded", note="for the demo").members[0].record
    settle(server)
    restore("seeded")
    with open_throwaway("seeded", keep=True):
        pass
    with open_session() as session:
        for snapshot in ("", copy.identity):
            new = replace(wanted(source=live), snapshot=snapshot)
            templates.publish_template(session, live, new, seal(facts))
        test = f"test_{live}"
        said = TestDatabaseComment(database=test, source=live, complete=True, kept=False)
        said = replace(said, recording=seal(facts))
        clones.turn_into_test_database(session, clones.make_shut_clone(session, live), said)
    settle(server)
    return copy
