"""Operations in the background: where their progress is kept, and how they end."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import FileField
from django.db.models.fields.files import FieldFile

from django_pgsnap.admin import background
from django_pgsnap.admin.background import (
    CancelledError,
    ProgressReporter,
    forget_progress,
    read_progress,
    request_cancel,
    start_work,
)

TOKEN = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which progress is kept, which is not there yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"django_pgsnap-{os.geteuid()}"


def test_nobody_else_may_look(store: Path) -> None:
    """Progress lies where only our own user may look, and is removed once it has been told."""
    reporter = ProgressReporter("Take")

    found = read_progress(reporter.token)
    kept = list(store.iterdir())
    forget_progress(reporter.token)

    assert store.stat().st_mode & 0o777 == 0o700
    assert found == reporter.progress
    assert len(kept) == 1
    assert read_progress(reporter.token) is None
    assert list(store.iterdir()) == []


def test_attributes_that_no_file_can_hold(store: Path) -> None:
    """They are left out of the user, and so is what leads back to the password."""
    user = User(username="ada", password="pbkdf2_sha256$1$salt$hash")
    kept = {*vars(user)}
    vars(user).update(lock=threading.Lock(), avatar=SimpleNamespace(instance=user))

    found = read_progress(ProgressReporter("Take", user).token)

    assert found is not None
    assert found.user.username == "ada"
    assert {*vars(found.user)} - {"_django_version"} == kept


def test_users_whose_relatives_lead_back(store: Path) -> None:
    """A profile that was read knows its user, and so the password. Other relatives are kept."""
    user = User(username="ada", password="pbkdf2_sha256$1$salt$hash")
    user._state.fields_cache.update(
        profile=SimpleNamespace(user=user), team=SimpleNamespace(name="Engines")
    )

    found = read_progress(ProgressReporter("Take", user).token)

    assert found is not None
    assert found.user.username == "ada"
    assert found.user._state.fields_cache == {"team": SimpleNamespace(name="Engines")}
    assert [*user._state.fields_cache] == ["profile", "team"]


def test_files_of_users(store: Path) -> None:
    """A file knows its user, and so the password. Its name is kept: a page may show it."""
    user = User(username="ada", password="pbkdf2_sha256$1$salt$hash")
    vars(user).update(avatar=FieldFile(user, FileField(), "ada.png"))

    found = read_progress(ProgressReporter("Take", user).token)

    assert found is not None
    assert vars(found.user)["avatar"] == "ada.png"


@pytest.mark.parametrize("word", ["!", "a", "-"])
def test_words_in_place_of_a_password(word: str, store: Path) -> None:
    """One that stands elsewhere, too, leaves nothing out: pages would look for it."""
    user = User(username="ada", password=word, email="ada@a-b.example")

    found = read_progress(ProgressReporter("Take", user).token)

    assert found is not None
    assert found.user.get_deferred_fields() == set()
    assert found.user.has_usable_password() is user.has_usable_password()


def test_no_password_is_kept(store: Path) -> None:
    """Who asked for it is kept for the page's header, without the hash of their password."""
    user = User(username="ada")
    user.set_password("correct horse")

    reporter = ProgressReporter("Take", user)

    found = read_progress(reporter.token)
    assert found is not None
    assert (found.user.username, found.user.password) == ("ada", "")
    assert found.user.has_usable_password()
    assert user.check_password("correct horse")


def test_user_that_no_file_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done for a user who cannot be written down, too."""
    monkeypatch.setattr(User, "__reduce__", None)

    found = read_progress(ProgressReporter("Take", User(username="ada")).token)

    assert found is not None
    assert (found.title, found.user) == ("Take", None)


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o710])
def test_directory_that_others_may_open_is_not_read(mode: int, store: Path) -> None:
    """What others could have written is not unpickled."""
    reporter = ProgressReporter("Take")
    store.chmod(mode)

    assert read_progress(reporter.token) is None


def test_directory_that_leads_elsewhere_is_not_read(store: Path) -> None:
    """A link in place of the directory is not followed."""
    reporter = ProgressReporter("Take")
    store.rename(store.with_name("elsewhere"))
    store.symlink_to(store.with_name("elsewhere"))

    assert read_progress(reporter.token) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_not_read(store: Path) -> None:
    """What somebody else put where ours would be is not read."""
    reporter = ProgressReporter("Take")
    os.chown(store, 65534, 65534)

    assert read_progress(reporter.token) is None


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle at all", b"\x80\x04N."])
def test_broken_file_is_no_error(content: bytes, store: Path) -> None:
    """A file that was cut short, or that another release wrote, counts as none."""
    reporter = ProgressReporter("Take")
    (file,) = store.iterdir()
    file.write_bytes(content)

    assert read_progress(reporter.token) is None


@pytest.mark.parametrize("value", [None, "text", {"title": "Take", "colour": "green"}, {}])
def test_entry_of_another_release_is_no_error(value: object) -> None:
    """What is not progress as this release writes it counts as none."""
    background._store().set(TOKEN, value)

    assert read_progress(TOKEN) is None


def test_work_goes_on_unseen(store: Path) -> None:
    """Where neither progress nor a wish to cancel can be written down, the work is done."""
    store.write_text("in the way")
    reporter = ProgressReporter("Take")

    def work() -> str:
        request_cancel(reporter.token)
        reporter.step("Copying")
        return ""

    start_work(reporter, work).join(10)

    assert (reporter.progress.ended, reporter.progress.error) == (True, None)


@pytest.mark.parametrize("token", ["", "..", "x" * 32, "0" * 31, "../../etc/passwd"])
def test_tokens_that_are_none(token: str) -> None:
    """No other file is read, whatever is asked for."""
    assert read_progress(token) is None


def test_cancelled_work_stops_at_its_next_report() -> None:
    """To begin a step is the place to stop; what has been done is told all the same."""
    reporter = ProgressReporter("Take")
    request_cancel(reporter.token)

    reporter.note("Ended 2 sessions.")
    with pytest.raises(CancelledError, match="Cancelled"):
        reporter.step("Copying")


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expected ends the progress, and is raised for the log."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    reporter = ProgressReporter("Take")

    def work() -> str:
        raise ZeroDivisionError

    start_work(reporter, work).join(10)

    assert str(reporter.progress.error) == "This failed unexpectedly. The server's log says why."
    assert [each.exc_type for each in raised] == [ZeroDivisionError]
