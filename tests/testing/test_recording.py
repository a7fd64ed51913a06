"""What a template was made from: how it is kept, and what counts as a change."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from django.urls import NoReverseMatch
from django.urls import base as urls

from django_pgsnap.errors import ConfigurationError
from django_pgsnap.testing.databases import recording as module
from django_pgsnap.testing.databases.facts import Facts, name_file
from django_pgsnap.testing.databases.file_reads import FileReads, digest_file, file_reads
from django_pgsnap.testing.databases.observer import observer
from django_pgsnap.testing.databases.recording import find_change, record, seal, unseal
from tests.suites.wanted import COUNTERS, FACTS, wanted


def record_uses(work: Any) -> Facts:
    with record(FACTS) as recorded:
        work()
    return recorded()


def uses(recording: Facts, kind: str) -> set[str]:
    return {name for each, name in recording.digests if each == kind}


def test_sealed() -> None:
    """What was sealed is read again, and says nothing to those who lack the key."""
    sealed = seal(FACTS)

    assert unseal(sealed) == FACTS
    assert "server" not in sealed
    assert seal(FACTS) != sealed
    with override_settings(SECRET_KEY="another"):
        assert unseal(sealed) is None


@pytest.mark.parametrize("change", ["", "~", "0123456789" * 20])
def test_not_sealed_by_us(change: str) -> None:
    """What somebody else wrote is no recording."""
    sealed = seal(FACTS)

    assert unseal(change) is None
    # Not the last character, some of whose bits may mean nothing.
    middle = len(sealed) // 2
    other = "0" if sealed[middle] != "0" else "1"
    assert unseal(sealed[:middle] + other + sealed[middle + 1 :]) is None


def test_no_secret_key() -> None:
    """Without a key nothing is kept, rather than for everybody to read."""
    with override_settings(SECRET_KEY=""), pytest.raises(ConfigurationError) as caught:
        seal(FACTS)
    assert caught.value.hint == "Give the settings of the tests a SECRET_KEY."


def test_unchanged(tmp_path: Path) -> None:
    """What was used is compared by its contents, whatever else happens to it."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")
    recording = record_uses(rows.read_text)

    os.utime(rows, (1, 1))

    assert find_change(recording, FACTS) is None
    rows.write_text("new")
    assert find_change(recording, FACTS) == f"{name_file(str(rows))} changed"
    assert find_change(recording, FACTS, with_files=False) is None
    rows.unlink()
    assert find_change(recording, FACTS) == f"{name_file(str(rows))} changed"


def test_changed_before_the_end(tmp_path: Path) -> None:
    """What counts is what was read, not what was there afterwards."""
    rows = tmp_path / "rows.csv"
    rows.write_text("old")

    recording = record_uses(lambda: (rows.read_text(), rows.write_text("new")))

    assert find_change(recording, FACTS) == f"{name_file(str(rows))} changed"


def test_files_of_an_editor(tmp_path: Path) -> None:
    """What editors and Python leave in a directory is none of what was found in it."""
    (tmp_path / "rows.csv").touch()
    recording = record_uses(lambda: os.listdir(tmp_path))  # noqa: PTH208

    for name in ("rows.csv~", "#rows.csv#", ".rows.csv.swp", "__pycache__"):
        (tmp_path / name).touch()
    assert find_change(recording, FACTS) is None
    (tmp_path / "more.csv").touch()
    assert find_change(recording, FACTS) is not None


def test_of_no_account(tmp_path: Path) -> None:
    """What migrations make themselves, what is installed, and what is no file, does not count."""

    def work() -> None:
        for name in ("journal.txt", "temporary.txt"):
            (tmp_path / name).write_text("written here")
            (tmp_path / name).read_text()
        (tmp_path / "temporary.txt").unlink()
        for path in (pytest.__file__, "/proc/self/status", os.devnull):
            Path(path).read_bytes()

    found = uses(record_uses(work), "file")

    assert not {name for name in found if name.endswith(("txt", "status", "null"))}
    assert not {name for name in found if "site-packages" in name}


def test_saved_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was saved after the process began may not be what ran, so it proves nothing."""
    recording = Facts(
        digests={**FACTS.digests, ("source", name_file(__file__)): digest_file(__file__)},
        counters=COUNTERS,
    )
    assert find_change(recording, FACTS) is None

    monkeypatch.setattr(module, "_started_s", lambda: Path(__file__).stat().st_ctime - 1)

    expected = (
        "tests/testing/test_recording.py cannot be compared: it was saved after this run began, so "
        "run the tests again"
    )
    assert find_change(recording, FACTS) == expected


def test_beginning_of_the_process() -> None:
    """When this process began is known: no later than the time on the processor tells."""
    assert time.time() - 86_400 < module._started_s() <= time.time() - time.process_time()


def test_facts() -> None:
    """Each fact that is another one, new or gone, is named."""
    assert find_change(FACTS, wanted(server="19").facts) == "the server changed"


def read_seed() -> object:
    return getattr(settings, "SEED")  # noqa: B009  # mypy knows what settings there are


class Broken:
    def deconstruct(self) -> None:
        raise RuntimeError("no such column")


def test_values_that_cannot_be_told() -> None:
    """Where code of the project fails, nothing is kept and nothing used; the run goes on."""
    with override_settings(SEED=Broken()):
        recording = record_uses(read_seed)

        with pytest.raises(ConfigurationError) as caught:
            seal(recording)

        expected = "the setting SEED cannot be compared: RuntimeError: no such column"
        assert caught.value.message == expected
        assert find_change(recording, FACTS) == expected
    with override_settings(SEED=1):
        recording = record_uses(read_seed)
    with override_settings(SEED=Broken()):
        assert find_change(recording, FACTS) == expected


def test_what_migrations_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable counts as it was before: the next run finds it so."""
    monkeypatch.delenv("SEED", raising=False)

    def set_and_read() -> str:
        monkeypatch.setenv("SEED", "1")
        return os.environ["SEED"]

    recording = record_uses(set_and_read)

    monkeypatch.delenv("SEED")
    assert ("variable", "SEED") in recording.digests
    assert find_change(recording, FACTS) is None


def test_templates_of_other_aliases(tmp_path: Path) -> None:
    """What a template in use was made from counts for others: migrations may read across."""
    (tmp_path / "seed").write_text("old")
    used = record_uses((tmp_path / "seed").read_text)
    vars(file_reads).update(vars(FileReads()))

    assert find_change(used, FACTS) is None
    made = record_uses(list)

    (tmp_path / "seed").write_text("new")
    assert find_change(made, FACTS) == f"{name_file(str(tmp_path / 'seed'))} changed"


@pytest.mark.versions
def test_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python tells of a function once, however often it runs."""
    told: list[str] = []

    def note(ran: Iterable[CodeType | str]) -> None:
        told.extend(code.co_name for code in ran if isinstance(code, CodeType))

    def called_often() -> int:
        return 1

    monkeypatch.setattr(observer, "_note_code", note)
    record_uses(lambda: [called_often() for _ in range(1000)])

    assert told.count("called_often") == 1


def test_function_that_a_package_has_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code cannot be replaced by other code, and still it tells of its calls."""
    theirs = urls.reverse

    def wrapper(*arguments: Any) -> str:
        return theirs(*arguments)

    def reverse() -> None:
        with suppress(NoReverseMatch):
            urls.reverse("nowhere")

    monkeypatch.setattr(urls, "reverse", wrapper)

    assert "ROOT_URLCONF" in uses(record_uses(reverse), "setting")
    assert urls.reverse.__code__.co_freevars == ("theirs",)


def test_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a thousand files takes at most 60 ms of the processor's time."""
    kinds = {"source": ".py", "file": ".csv"}
    digests = {}
    for number in range(1000):
        kind = "source" if number % 2 else "file"
        path = tmp_path / f"{number}{kinds[kind]}"
        path.write_bytes(os.urandom(8_000))
        digests[kind, name_file(str(path))] = digest_file(str(path))
    recording = Facts(digests={**FACTS.digests, **digests}, counters=COUNTERS)
    sealed = seal(recording)
    monkeypatch.setattr(module, "_LOOKS", {**module._LOOKS, "source": module._LOOKS["file"]})

    def look() -> float:
        began = time.process_time()
        then = unseal(sealed)
        assert then
        assert find_change(then, FACTS) is None
        return time.process_time() - began

    # Whoever shares the processor's core makes some of them slower.
    assert min(look() for _ in range(5)) < 0.06


@pytest.fixture(autouse=True)
def _nothing_noted() -> Any:
    noted = vars(file_reads).copy()
    vars(file_reads).update(vars(FileReads()))
    observer.unchanged.clear()
    module.read_beginning.cache_clear()
    yield
    vars(file_reads).update(noted)
