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


def test_log_is_not_steered(caplog: pytest.LogCaptureFixture) -> None:
    """What other roles wrote, and a message quotes, steers no terminal that shows the log."""
    caplog.set_level(logging.DEBUG, logger="django_pgsnap")
    reporter = Reporter()

    for hear in (reporter.step, reporter.wait, reporter.note, reporter.warn):
        hear("pid 1, '\x1b]0;title\x07'\nINFO: all is well")

    assert set(caplog.messages) == {"pid 1, '�]0;title�' INFO: all is well"}
