"""What our databases know of themselves: the JSON in their comments.

The comment is the commit record: a database is a copy, an undo or a template only if
`decode_record` can read its comment. Anyone who owns a database can write one, so nothing here is
trusted to be well-formed. There are no secrets in it, since every role of the server can read it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar, get_args

from ..errors import ConfigurationError
from ..messages import Message, message
from ..postgres.inspection import Migrations
from .names import is_identity, is_valid_name, record_name

VERSION: Final = 1
_VERSION_KEY: Final = "pgsnap"
MAX_CHARACTERS: Final = 4 * 1024 * 1024
# Other roles' comments: every operation reads them, and anybody may write many. A copy of a live
# database of another role has room for some 5,000 migrations.
MAX_FOREIGN_CHARACTERS: Final = 256 * 1024
_USUAL_CHARACTERS: Final = 16 * 1024
_MAX_NOTE_CHARACTERS: Final = 10_000

Kind = Literal["copy", "undo", "template", "run"]
Strategy = Literal["wal_log", "file_copy", "clone"]
Value = TypeVar("Value")
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)


def parse_strategy(name: str) -> Strategy:
    """Return the strategy of that name; plain copying, which always works, for any other name."""
    return next((strategy for strategy in STRATEGIES if strategy == name), "file_copy")


class Part(NamedTuple):
    """One database's part of a set, as its live database was when the set was made."""

    alias: str
    database: str
    system: str = ""  # identifier of the server; empty for one that is in reach
    owner: int = 0  # oid of the role that the live database belonged to; 0 where it does not matter

    def __str__(self) -> Message:
        """Return which database it is, and whether it is on another server."""
        return message(
            "{database!r} (alias {alias!r}) on another server"
            if self.system
            else "{database!r} (alias {alias!r})",
            database=self.database,
            alias=self.alias,
        )


Parts = tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a copy, an undo and a template have in common."""

    kind: ClassVar[Kind]

    identity: str  # 16 hexadecimal digits that no other has; part of the database's name
    set_id: str  # what all parts of the same snapshot, or of the same undo, share
    members: int
    name: str  # the snapshot's name; for an undo, that of the restore it belongs to
    alias: str
    source: str
    taken_at: datetime
    size_bytes: int
    strategy: str = ""
    seconds: float = 0.0
    django: str = ""
    postgresql: str = ""
    comment: str | None = None
    connection_limit: int = -1  # the live database's connection limit, -1 for none
    parts: Parts = ()  # what each of them is; the same in all of them

    @cached_property
    def database(self) -> str:
        """Name of the database that holds this part."""
        return record_name(self.kind, self.identity)

    @property
    def bytes_per_s(self) -> float:
        """How fast the server made it; 0 for unknown."""
        return self.size_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class CopyRecord(Record):
    """One database's part of a snapshot."""

    kind = "copy"

    note: str = ""
    pinned: bool = False
    # How many bytes a second each of these strategies last copied on the server; 0 for unknown.
    clone_rate: float = 0.0
    file_copy_rate: float = 0.0
    git_branch: str = ""
    git_commit: str = ""
    git_dirty: bool = False
    # Applied migrations as (app, name), sorted.
    migrations: Migrations = field(default=(), repr=False)
    knows_migrations: bool = True


@dataclass(frozen=True, kw_only=True)
class UndoRecord(Record):
    """One database's part of a state that a restore or an undo replaced.

    What begins with ``successor_`` tells of the database that took its place, at that moment. -1
    counts and an oid of 0 are unknown.
    """

    kind = "undo"

    by_undo: bool = False
    based_on: str = ""  # the snapshot that it was restored from, or empty
    # Identity of the copy that it is a clone of, where the server has counted no row that was
    # written since, or empty.
    clone_of: str = ""
    copy_of: str = ""  # the same, where it has counted no session and no transaction either
    successor_oid: int = 0
    successor_clone_of: str = ""
    successor_copy_of: str = ""
    successor_based_on: str = ""
    successor_since: datetime | None = None  # when it took the place; None in older comments
    statistics_epoch: str = ""  # since when the server has counted what happens in this one
    successor_sessions: int = -1
    successor_transactions: int = -1
    successor_rows: int = -1


@dataclass(frozen=True, kw_only=True)
class TemplateRecord(Record):
    """A migrated test database that others are cloned from."""

    kind = "template"

    snapshot: str = ""  # identity of the snapshot's copy that it was made of, or empty
    used_at: str = ""
    used_by: str = ""  # the run of pytest-xdist that did, or empty
    recording: str = field(default="", repr=False)  # what it was made from, sealed


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """A clone of a snapshot that ``pgsnap run`` made for a command."""

    kind = "run"

    kept: bool = False


_KINDS: Final[dict[str, type[Record]]] = {
    each.kind: each for each in (CopyRecord, UndoRecord, TemplateRecord, RunRecord)
}


def validate_note(note: str) -> None:
    """Refuse a note that is too long or cannot be stored."""
    if len(note) > _MAX_NOTE_CHARACTERS:
        raise ConfigurationError(
            "The note has {count:,} characters.",
            hint="Use at most {most:,}.",
            count=len(note),
            most=_MAX_NOTE_CHARACTERS,
        )
    try:
        note.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            "The note cannot be stored: {reason} at position {start}.",
            hint="Give it in UTF-8.",
            reason=error.reason,
            start=error.start,
        ) from error


def encode_record(record: Record) -> str:
    """Return the comment that says what the record says, or refuse what could not be read again."""
    data = {_VERSION_KEY: VERSION, "kind": record.kind, **asdict(record)}
    if "migrations" in data:
        grouped: dict[str, list[str]] = {}
        for app, migration in data["migrations"]:
            grouped.setdefault(app, []).append(migration)
        data["migrations"] = grouped
    comment = json.dumps(
        data, ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat
    )
    # A copy whose comment cannot be read is none. Better no copy than one that is lost.
    may_be_foreign = isinstance(record, CopyRecord | UndoRecord)
    if decode_record(comment) is None or (may_be_foreign and len(comment) > MAX_FOREIGN_CHARACTERS):
        raise ConfigurationError(
            "What there is to say about {source!r} makes a comment of {count:,} characters, "
            "which could not be read again.",
            hint="Shorten the database's own comment, which is part of it.",
            source=record.source,
            count=len(comment),
        )
    return comment


def decode_record(comment: str | None) -> Record | None:
    """Return the record that a comment holds, None if it is not one of ours."""
    if comment is None or not comment.startswith("{") or len(comment) > MAX_CHARACTERS:
        return None
    # An operation looks at the catalog more than once, and little of it changes in between.
    return (_decode_again if len(comment) <= _USUAL_CHARACTERS else _decode)(comment)


def _decode(comment: str) -> Record | None:
    try:
        # Only Python takes NaN and such for JSON.
        data = json.loads(comment, parse_constant=_refuse)
        if _exactly(int, data[_VERSION_KEY]) != VERSION:
            return None
        kind = _KINDS[data["kind"]]
        known = [each for each in fields(kind) if each.name in data]
        record = kind(**{each.name: _READERS[each.type](data[each.name]) for each in known})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    is_sound = (
        is_identity(record.identity)
        and is_identity(record.set_id)
        and is_valid_name(record.name)
        and record.members > 0
    )
    return record if is_sound else None


_decode_again: Final = lru_cache(maxsize=1024)(_decode)


def _refuse(constant: str) -> float:
    raise ValueError(constant)


_INTEGERS_END: Final = 2**63


def _exactly(kind: type[Value], value: object) -> Value:
    if type(value) is not kind:
        raise TypeError
    return value


def _read_text(value: object) -> str:
    text = _exactly(str, value)
    text.encode()  # JSON can spell lone surrogates, which no terminal or server takes
    return text


def _read_integer(value: object) -> int:
    """Return a number of something, or -1."""
    number = _exactly(int, value)
    if not -1 <= number < _INTEGERS_END:
        raise ValueError(number)
    return number


def _read_number(value: object) -> float:
    """Return a finite number that is not negative."""
    number = value if type(value) is float else float(_exactly(int, value))
    if not 0 <= number < _INTEGERS_END:
        raise ValueError(number)
    return number


def _read_moment(value: object) -> datetime:
    """Return a moment in UTC; without a time zone it is none."""
    moment = datetime.fromisoformat(_read_text(value))
    if moment.utcoffset() is None:
        raise ValueError(value)
    return moment.astimezone(UTC)


def _read_migrations(value: object) -> Migrations:
    return tuple(
        sorted(
            (_read_text(app), _read_text(name))
            for app, names in _exactly(dict, value).items()
            for name in _exactly(list, names)
        )
    )


def _read_parts(value: object) -> Parts:
    found = []
    for each in _exactly(list, value):
        *texts, last = _exactly(list, each)
        # An earlier version told the server's address instead, and the owner not at all.
        system, owner = (texts.pop(), last) if type(last) is int else (last, 0)
        alias, database, *_ = map(_read_text, texts)
        found.append(Part(alias, database, _read_text(system), _read_integer(owner)))
    return tuple(found)


# By the types of the fields. With postponed annotations these would be text, and not be found.
_READERS: Final[dict[Any, Callable[[object], Any]]] = {
    str: _read_text,
    str | None: lambda value: None if value is None else _read_text(value),
    int: _read_integer,
    float: _read_number,
    bool: partial(_exactly, bool),
    datetime: _read_moment,
    datetime | None: lambda value: None if value is None else _read_moment(value),
    Migrations: _read_migrations,
    Parts: _read_parts,
}
