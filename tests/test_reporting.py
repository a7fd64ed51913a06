"""The reporter that a program gets: the log."""

import logging

import pytest

from django_pgsnap.reporting import Reporter


def test_logs_by_weight(caplog: pytest.LogCaptureFixture) -> None:
    """Steps, notes and warnings go to the package's log, each at its level."""
    caplog.set_level(logging.DEBUG, logger="django_pgsnap")
    reporter = Reporter()

    reporter.step("Copying")
    reporter.wait("Waiting for the spare")
    reporter.copied(1, 2)
    reporter.note("Ended 1 session")
    reporter.warn("Not carried over")

    assert caplog.record_tuples == [
        ("django_pgsnap", logging.DEBUG, "Copying"),
        ("django_pgsnap", logging.DEBUG, "Waiting for the spare"),
        ("django_pgsnap", logging.INFO, "Ended 1 session"),
        ("django_pgsnap", logging.WARNING, "Not carried over"),
    ]
