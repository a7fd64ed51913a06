"""Templates of test databases: which are kept, and which are used."""

from datetime import UTC, datetime, timedelta

from django_pgsnap.clones.for_tests import is_fresh_template
from tests.records import template_record


def test_clock_that_was_turned_back() -> None:
    """A template that was made in the future is of no known age, so it is not used."""
    now = datetime.now(UTC)

    assert is_fresh_template(template_record(taken_at=now))
    assert not is_fresh_template(template_record(taken_at=now + timedelta(minutes=1)))
