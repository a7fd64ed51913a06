"""What a copy knows of itself, and what is made of comments that others wrote."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_pgsnap.clones.records import (
    STRATEGIES,
    CopyRecord,
    Part,
    Record,
    TemplateRecord,
    UndoRecord,
    decode_record,
    encode_record,
    validate_note,
)
from django_pgsnap.errors import ConfigurationError
from tests.records import CHANGES, comment_with, copy_record, template_record, undo_record

integers = st.integers(-1, 2**63 - 1)
seconds = st.floats(0, 2**63, exclude_max=True)
identities = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
texts = st.text()
common = {
    "identity": identities,
    "set_id": identities,
    "members": st.integers(1, 2**63 - 1),
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", fullmatch=True),
    "alias": texts,
    "source": texts,
    "taken_at": st.datetimes(timezones=st.just(UTC)),
    "size_bytes": integers,
    "strategy": st.sampled_from(["", *STRATEGIES]) | texts,
    "seconds": seconds,
    "django": texts,
    "postgresql": texts,
    "comment": st.none() | texts,
    "connection_limit": integers,
    "parts": st.lists(st.builds(Part, texts, texts, texts, integers)).map(tuple),
}
migrations = st.sets(st.tuples(texts, texts)).map(lambda keys: tuple(sorted(keys)))
copies = st.builds(
    CopyRecord,
    **common,
    note=texts,
    pinned=st.booleans(),
    clone_rate=seconds,
    file_copy_rate=seconds,
    git_branch=texts,
    git_commit=texts,
    git_dirty=st.booleans(),
    migrations=migrations,
    knows_migrations=st.booleans(),
)
undos = st.builds(
    UndoRecord,
    **common,
    by_undo=st.booleans(),
    based_on=texts,
    clone_of=texts,
    copy_of=texts,
    successor_oid=integers,
    successor_clone_of=texts,
    successor_copy_of=texts,
    successor_based_on=texts,
    successor_since=st.none() | st.datetimes(timezones=st.just(UTC)),
    statistics_epoch=texts,
    successor_sessions=integers,
    successor_transactions=integers,
    successor_rows=integers,
)
templates = st.builds(
    TemplateRecord,
    **common,
    used_at=texts,
    used_by=texts,
    recording=texts,
)
records = copies | undos | templates

# What the first versions wrote: one set of keys for all.
OLD = (
    '{{"pgsnap":1,"kind":"{kind}","identity":"0123456789abcdef","set_id":"fedcba9876543210",'
    '"members":1,"name":"seeded","alias":"default","source":"live",'
    '"taken_at":"2024-02-29T12:00:00+00:00","size_bytes":8388608,"note":"before","pinned":true,'
    '"strategy":"wal_log","seconds":0.041,"clone_rate":1.0,"file_copy_rate":2.0,'
    '"git_branch":"main","git_commit":"abc","git_dirty":true,"django":"5.2.8",'
    '"postgresql":"18.4","migrations":{{"app":["0001"]}},"sequences":"5eed","comment":"ours",'
    '"connection_limit":7,"successor_oid":16384,"successor_sequences":"5eed",'
    '"statistics_epoch":"2024-01-01","environment":"e","history":"h","history_length":1,'
    '"used_at":"2024-03-01T12:00:00+00:00","files":{{"genres.csv":"f"}},"ground_sessions":3,'
    '"ground_written":4}}'
)
OLD_VALUES = {
    "strategy": "wal_log",
    "seconds": 0.041,
    "django": "5.2.8",
    "postgresql": "18.4",
    "comment": "ours",
    "connection_limit": 7,
}


def comment_without(key: str) -> str:
    data = json.loads(encode_record(copy_record()))
    del data[key]
    return json.dumps(data)


@given(records)
def test_round_trip(record: Record) -> None:
    """Whatever a record says is read back from its comment."""
    assert decode_record(encode_record(record)) == record


@given(records)
def test_comment_can_be_stored(record: Record) -> None:
    """A comment holds nothing that PostgreSQL has no room for: no NUL, no half characters."""
    comment = encode_record(record)

    assert "\0" not in comment
    assert comment.encode().decode() == comment


@given(st.text(st.characters()) | st.text('{}[]":,0123456789eE+-.\\ud pgsna').map("{".__add__))
@example("{")
@example("{}")
@example('{"pgsnap":1}')
@example('{"pgsnap":' + "[" * 100_000)
@example('{"pgsnap":1,"migrations":' + '{"a":' * 100_000)
@example('{"pgsnap":' + "1" * 10_000 + "}")
@example('{"pgsnap":1e999}')
@example('{"pgsnap":NaN}')
@example("[1]")
@example("null")
@example('"pgsnap"')
def test_any_text_is_no_record(text: str) -> None:
    """A comment that somebody wrote is nothing of ours, and never an error."""
    assert decode_record(text) is None


def test_no_comment_is_no_record() -> None:
    """A database without a comment is none of ours."""
    assert decode_record(None) is None


@given(CHANGES)
@example({"size_bytes": float("nan")})
@example({"seconds": float("inf")})
@example({"seconds": 10**400})
@example({"taken_at": "0001-01-01T00:00:00+14:00"})
@example({"taken_at": "9999-12-31T23:59:59-14:00"})
@example({"note": "\ud800"})
@example({"migrations": {"\udfff": ["0001"]}})
def test_a_record_bent_in_any_way(changes: dict[str, Any]) -> None:
    """A comment like ours with anything in it is none of ours, or a record that can be written."""
    record = decode_record(comment_with(**changes))

    assert record is None or decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"pgsnap": 2},
        {"pgsnap": 0},
        {"pgsnap": True},
        {"pgsnap": 1.0},
        {"pgsnap": "1"},
        {"kind": "spare"},
        {"kind": ["copy"]},
        {"identity": "0123456789ABCDEF"},
        {"set_id": ""},
        {"members": 0},
        {"members": True},
        {"members": 2**63},
        {"name": "no name"},
        {"name": None},
        {"alias": 1},
        {"source": None},
        {"taken_at": "2024-01-01T00:00:00"},
        {"taken_at": "yesterday"},
        {"taken_at": 0},
        {"taken_at": "0001-01-01T00:00:00+14:00"},
        {"size_bytes": -2},
        {"size_bytes": 1.5},
        {"size_bytes": float("nan")},
        {"note": "\ud800"},
        {"pinned": 1},
        {"pinned": None},
        {"seconds": -0.1},
        {"seconds": 2**63},
        {"seconds": 1e300},
        {"seconds": 10**400},
        {"seconds": True},
        {"seconds": float("inf")},
        {"comment": 7},
        {"migrations": []},
        {"migrations": {"app": "0001"}},
        {"migrations": {"app": [1]}},
        {"migrations": {"app": {"0001": True}}},
    ],
    ids=str,
)
def test_values_of_the_wrong_kind(changes: dict[str, Any]) -> None:
    """One value of the wrong kind, or out of range, and the comment is none of ours."""
    assert decode_record(comment_with(**changes)) is None


@pytest.mark.parametrize(
    "key",
    [
        *("pgsnap", "kind", "identity", "set_id", "members"),
        *("name", "alias", "source", "taken_at", "size_bytes"),
    ],
)
def test_required_value_is_missing(key: str) -> None:
    """A comment that lacks what every record has is none of ours."""
    assert decode_record(comment_without(key)) is None


def test_values_that_older_versions_did_not_write() -> None:
    """What need not be there has its default."""
    assert decode_record(comment_without("note")) == copy_record()
    assert decode_record(comment_without("migrations")) == copy_record()


@pytest.mark.parametrize(
    "record",
    [
        copy_record(
            **OLD_VALUES,
            note="before",
            pinned=True,
            clone_rate=1.0,
            file_copy_rate=2.0,
            git_branch="main",
            git_commit="abc",
            git_dirty=True,
            migrations=(("app", "0001"),),
        ),
        undo_record(
            **OLD_VALUES,
            successor_oid=16384,
            statistics_epoch="2024-01-01",
        ),
        template_record(
            **OLD_VALUES,
            used_at="2024-03-01T12:00:00+00:00",
        ),
    ],
    ids=["copy", "undo", "template"],
)
def test_what_the_first_versions_wrote(record: Record) -> None:
    """Comments of the first versions are read: they had all keys, whatever the kind."""
    assert decode_record(OLD.format(kind=record.kind)) == record


def test_parts_that_an_earlier_version_wrote() -> None:
    """It told the address of each part's server, and not the owner."""
    read = decode_record(comment_with(parts=[["default", "live", "localhost:5432", "7412"]]))

    assert read == copy_record(parts=(Part("default", "live", "7412", 0),))


def test_keys_that_newer_versions_write() -> None:
    """A key that this version does not know changes nothing."""
    assert decode_record(comment_with(colour="green", database="x")) == copy_record()


def test_moments_are_told_in_utc() -> None:
    """A moment of another time zone is the same moment in UTC."""
    east = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2024, 2, 29, 12, tzinfo=east)

    record = decode_record(encode_record(copy_record(taken_at=moment)))

    assert record is not None
    assert (record.taken_at, record.taken_at.tzinfo) == (moment, UTC)


def test_an_enormous_comment_is_not_read() -> None:
    """Nobody can make us read a comment without end."""
    assert decode_record(encode_record(copy_record()) + " " * 4 * 1024 * 1024) is None


@pytest.mark.parametrize("note", ["", "before the import", "x" * 10_000, "two\nlines \0 \u2028"])
def test_notes(note: str) -> None:
    """A note is any text of a reasonable length: it is not refused."""
    validate_note(note)


@pytest.mark.parametrize(
    ("note", "message", "hint"),
    [
        ("x" * 10_001, "The note has 10,001 characters.", "Use at most 10,000."),
        (
            "caf\udce9",
            "The note cannot be stored: surrogates not allowed at position 3.",
            "Give it in UTF-8.",
        ),
    ],
    ids=["long", "broken"],
)
def test_notes_that_cannot_be(note: str, message: str, hint: str) -> None:
    """A note that is too long, or was typed in another encoding, is refused."""
    with pytest.raises(ConfigurationError) as caught:
        validate_note(note)

    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("values", [{"comment": "x" * 4 * 1024 * 1024}, {"name": "no name"}])
def test_nothing_is_written_that_could_not_be_read(values: dict[str, Any]) -> None:
    """What would make a copy that nobody finds again is refused."""
    with pytest.raises(ConfigurationError, match="What there is to say about 'live' makes"):
        encode_record(copy_record(**values))


def test_migrations_are_sorted_and_grouped() -> None:
    """An app is spelled once, whatever the number of its migrations."""
    record = copy_record(migrations=(("app", "0001"), ("app", "0002"), ("blog", "0001")))

    assert '"migrations":{"app":["0001","0002"],"blog":["0001"]}' in encode_record(record)
    assert (
        decode_record(comment_with(migrations={"blog": ["0001"], "app": ["0002", "0001"]}))
        == record
    )


def test_says_nothing_secret() -> None:
    """What is written is exactly the record's attributes and the version."""
    keys = {"pgsnap", "kind", *asdict(copy_record())}

    assert json.loads(encode_record(copy_record())).keys() == keys


@pytest.mark.parametrize(
    ("record", "prefix"),
    [
        (copy_record(), "pgsnap_"),
        (undo_record(), "pgsnap_undo_"),
        (template_record(), "pgsnap_template_"),
    ],
)
def test_database(record: Record, prefix: str) -> None:
    """A record knows what its database is called."""
    assert record.database == prefix + record.identity
