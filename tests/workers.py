"""Real workers of other packages: each is asked, again and again, how many authors there are."""

import os
import sys
from pathlib import Path
from typing import Any, Final

# Where the tasks of Celery and their results are, as files.
TASKS_IN: Final = "PGSNAP_TEST_TASKS"
ANSWER_S: Final = 60


def count() -> str:
    """Return how many authors there are, or the error."""
    from tests.testapp.models import Author

    try:
        return str(Author.objects.count())
    except Exception as error:  # noqa: BLE001  # whatever it is, it is to be seen
        return f"{type(error).__name__}: {error}"


def _answer(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def make_celery(directory: Path) -> Any:
    """Return the Celery app, which both sides have."""
    from celery import Celery  # type: ignore[import-untyped,import-not-found,unused-ignore]

    for name in ("sent", "tasks", "results"):
        (directory / name).mkdir(exist_ok=True)
    app = Celery("tests")
    app.conf.update(
        broker_url="filesystem://",
        broker_transport_options={
            "data_folder_in": str(directory / "tasks"),
            # A worker reads files that are still being written, so they come from elsewhere.
            "data_folder_out": str(directory / "sent"),
            "control_folder": str(directory),
            "polling_interval": 0.02,
        },
        result_backend=(directory / "results").as_uri(),
        worker_hijack_root_logger=False,
    )
    app.task(name="count")(count)
    return app


def run_scheduler() -> None:
    """Count in a thread of APScheduler, for each line on stdin."""
    from concurrent.futures import Future

    from apscheduler.schedulers.background import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        BackgroundScheduler,
    )

    scheduler = BackgroundScheduler()
    scheduler.start()
    for _ in sys.stdin:
        found: Future[str] = Future()
        scheduler.add_job(lambda found=found: found.set_result(count()), misfire_grace_time=None)
        _answer(found.result())


def run_listener() -> None:
    """Wait for a notification for each line on stdin, then count."""
    import psycopg
    from django.db import connection

    for _ in sys.stdin:
        while True:
            with connection.cursor() as cursor:
                cursor.execute("LISTEN news")
                cursor.execute("NOTIFY news")
            try:
                next(connection.connection.notifies(timeout=ANSWER_S))
                break
            except psycopg.OperationalError:
                continue
        _answer(count())


if TASKS_IN in os.environ:
    import django

    django.setup()
    if __name__ == "__main__":
        {"scheduler": run_scheduler, "listener": run_listener}[sys.argv[1]]()
    else:
        app = make_celery(Path(os.environ[TASKS_IN]))
