"""The ``PGSNAP`` setting: defaults, values, and what may not be in it."""

from dataclasses import fields
from typing import Any

import pytest
from django.conf import settings

from django_pgsnap.conf import GIB, KEYS, Config, config, problems
from django_pgsnap.conf import TestConfig as RunnerConfig
from django_pgsnap.errors import ConfigurationError

VALUES: dict[str, Any] = {
    "ENABLED": False,
    "DATABASES": ["other", "default"],
    "SPARES": 1,
    "SPARE_MAX_BYTES": 7 * GIB,
    "UNDO": 5,
    "UNDO_MAX_BYTES": 6 * GIB,
    "BEFORE_MIGRATE": True,
    "WAIT_S": 2.5,
    "KEEP_SESSIONS": True,
    "MAINTENANCE": {"dbname": "template1"},
    "DIFF": {"MASK": ["pin"]},
    "TEST": {"BASELINE": "flushed"},
}


@pytest.mark.parametrize("given", [{}, {"UNKNOWN": 1}, {"spares": 0}])
def test_defaults(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not set has its default; keys that are unknown change nothing."""
    monkeypatch.setattr(settings, "PGSNAP", given)

    assert config() == Config(
        enabled=None,
        databases=None,
        spares=2,
        spare_max_bytes=10 * GIB,
        undo=3,
        before_migrate=False,
        wait_s=10.0,
        maintenance={},
        diff={},
        test=RunnerConfig(),
    )


def test_defaults_without_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project need not have the setting at all."""
    monkeypatch.delattr(settings, "PGSNAP")

    assert config() == Config()


def test_all_keys_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key has its attribute, and each attribute its key."""
    monkeypatch.setattr(settings, "PGSNAP", VALUES)

    read = config()

    assert set(KEYS) == set(VALUES)
    assert read.databases == ("other", "default")
    assert read.test == RunnerConfig(baseline="flushed")
    for field in fields(Config):
        if field.name not in ("databases", "test"):
            assert getattr(read, field.name) == VALUES[field.name.upper()]


def test_is_read_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that a test overrides counts from then on."""
    monkeypatch.setattr(settings, "PGSNAP", {"WAIT_S": 1})
    before = config().wait_s
    monkeypatch.setattr(settings, "PGSNAP", {"WAIT_S": 2})

    assert (before, config().wait_s) == (1, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *VALUES.items(),
        ("ENABLED", None),
        ("ENABLED", True),
        ("DATABASES", None),
        ("DATABASES", ()),
        ("SPARE_MAX_BYTES", 0),
        ("WAIT_S", 0),
        ("UNDO", 0),
        ("UNDO", True),
    ],
)
def test_good_values(key: str, value: object) -> None:
    """Values of the right kind are no problem."""
    assert problems({key: value}) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ENABLED", "yes", "True, False or None"),
        ("ENABLED", 1, "True, False or None"),
        ("SPARES", None, "a number of snapshots, True or False"),
        ("SPARE_MAX_BYTES", "10 GB", "a number of bytes"),
        ("SPARE_MAX_BYTES", True, "a number of bytes"),
        ("UNDO", -1, "a number of states, True or False"),
        ("UNDO", 1.5, "a number of states, True or False"),
        ("UNDO_MAX_BYTES", -1, "a number of bytes"),
        ("WAIT_S", -1, "a number of seconds"),
        ("WAIT_S", float("nan"), "a number of seconds"),
        ("WAIT_S", None, "a number of seconds"),
        ("DIFF", {"MASK": "pin"}, "a dict whose MASK is a list of texts"),
        ("DIFF", {"HIDE": []}, "a dict whose MASK is a list of texts"),
        ("TEST", [], "a dict"),
    ],
)
def test_bad_values(
    key: str, value: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of the wrong kind is named, with what is expected, and is not used."""
    monkeypatch.setattr(settings, "PGSNAP", {key: value})
    problem = f"PGSNAP[{key!r}] must be {expected}, not {value!r}."

    assert problems({key: value}) == [problem]
    with pytest.raises(ConfigurationError) as caught:
        config()
    assert caught.value.message == problem
    assert caught.value.hint == "See the settings in django_pgsnap's README."


@pytest.mark.parametrize(("given", "number"), [(True, 3), (False, 0), (2, 2)])
def test_number_of_replaced_states(
    given: object, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Yes and no stand for the usual number and none."""
    monkeypatch.setattr(settings, "PGSNAP", {"UNDO": given})

    assert config().undo == number


@pytest.mark.parametrize("value", [None, [], "ENABLED", True])
def test_something_else_than_a_dict(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no dict is refused as a whole."""
    monkeypatch.setattr(settings, "PGSNAP", value)

    with pytest.raises(ConfigurationError) as caught:
        config()
    assert caught.value.message == f"PGSNAP must be a dict, not {type(value).__name__}."


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("BASELINE", "seeded", "'migrated' or 'flushed'"),
        ("REQUIRE_SNAPSHOTS", 1, "True or False"),
        ("KEEP", -1, "a number of templates"),
        ("KEEP", 1.5, "a number of templates"),
        ("MAX_AGE_S", "1d", "a number of seconds"),
    ],
)
def test_bad_values_of_the_test_runner(key: str, value: object, expected: str) -> None:
    """A value that the test runner cannot use is told with what it must be."""
    assert problems({"TEST": {key: value}}) == [
        f"PGSNAP['TEST'][{key!r}] must be {expected}, not {value!r}."
    ]


def test_settings_of_the_test_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runner's settings have defaults, and are read at each use."""
    assert config().test == RunnerConfig()

    monkeypatch.setattr(settings, "PGSNAP", {"TEST": {"KEEP": 5, "FINGERPRINT": "x"}})

    assert config().test == RunnerConfig(keep=5, fingerprint="x")
