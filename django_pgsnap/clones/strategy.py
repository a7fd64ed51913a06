"""How the server copies: which strategy is the quickest, and which it has at all."""

from dataclasses import replace
from typing import Final

import psycopg
from psycopg import sql

from ..errors import ConfigurationError
from ..postgres.data_directory import read_free_bytes
from ..postgres.session import Session
from .records import CopyRecord, Strategy

# Up to here writing every block to the write-ahead log is quicker than copying files, which
# forces two checkpoints. See benchmarks/crossover.py and its figures in docs/performance.md.
WAL_LOG_MAX_BYTES: Final = 12 * 1024**2
# A file that is copied is written to the disk at once: of 5,000 tables, that is 25,000 files,
# FILE_COPY made a copy in 43 to 62 s, WAL_LOG in 12 to 27 s. So each file more than the server's
# own makes up for some bytes.
_OWN_RELATIONS: Final = 350
_BYTES_PER_RELATION: Final = 128 * 1024
_WAL_LOG_NEVER_ABOVE: Final = 1024**3
# The copy, its log, and as much again for others.
_ROOM_FOR_LOG: Final = 4
# Before this release WAL_LOG could corrupt the database that it copies from (release notes of
# PostgreSQL 15.3).
_WAL_LOG_SAFE_SINCE: Final = 150003
# A strategy that copies every block does not come near this rate, nor does one that shares
# blocks stay below it once the database is large enough for the difference to matter.
_SHARED_BLOCKS_BYTES_PER_S: Final = 5 * 1024**3
# Below this, how long a copy takes says little about how fast bytes are copied.
_TELLING_BYTES: Final = 128 * 1024**2
# What a strategy that the file system refuses counts as: slower than any other, but known.
_REFUSED: Final = 1.0


def quicker_strategy(newest: CopyRecord | None) -> Strategy:
    """Return the quicker of two strategies by the newest copy's rates, or the one to try next.

    Whether its file system shares blocks can only be tried. Where it does not, the server copies
    by another system call, which can be slower than reading and writing.
    """
    if newest is None or not newest.clone_rate or newest.clone_rate >= _SHARED_BLOCKS_BYTES_PER_S:
        return "clone"
    return "clone" if newest.clone_rate > newest.file_copy_rate > 0 else "file_copy"


def note_rates(record: CopyRecord, wanted: Strategy) -> CopyRecord:
    """Return the record of a copy with what that has shown of how fast the server copies."""
    if wanted == "clone" and record.strategy != "clone":
        record = replace(record, clone_rate=_REFUSED)
    if record.size_bytes >= _TELLING_BYTES:
        if record.strategy == "clone":
            record = replace(record, clone_rate=record.bytes_per_s)
        elif record.strategy == "file_copy":
            record = replace(record, file_copy_rate=record.bytes_per_s)
    return record


def choose_strategy(
    session: Session, size_bytes: int | None, newest: CopyRecord | None = None, relations: int = 0
) -> Strategy:
    """Return the quickest strategy that the server has for a database; its size may be unknown."""
    most = WAL_LOG_MAX_BYTES + max(relations - _OWN_RELATIONS, 0) * _BYTES_PER_RELATION
    if (
        size_bytes is not None
        and size_bytes <= min(most, _WAL_LOG_NEVER_ABOVE)
        and is_wal_log_safe(session)
        and _has_room_for_log(session, size_bytes)
    ):
        return "wal_log"
    return quicker_strategy(newest) if can_share_blocks(session) else "file_copy"


def _has_room_for_log(session: Session, size_bytes: int) -> bool:
    """Tell whether the disk is large enough, as far as one can see, for a copy and its log.

    Where it is not, WAL_LOG succeeds all the same, and the server cannot write what it has copied
    any more. FILE_COPY fails, and nothing has happened.
    """
    free = read_free_bytes(session)
    return free is None or free > _ROOM_FOR_LOG * size_bytes


def check_strategy(session: Session, strategy: Strategy) -> None:
    """Refuse a strategy that the server has not, or should not use."""
    if strategy == "wal_log" and not is_wal_log_safe(session):
        raise ConfigurationError(
            "The strategy wal_log can corrupt the database that it copies on PostgreSQL "
            "{server_release}.",
            hint="Use file_copy, or upgrade to 15.3 or later.",
            server_release=session.server_release,
        )
    if strategy == "clone" and not can_share_blocks(session):
        raise ConfigurationError(
            "PostgreSQL {server_release} has no strategy clone on this platform.",
            hint="Use file_copy, or upgrade to 18 or later.",
            server_release=session.server_release,
        )


def is_wal_log_safe(session: Session) -> bool:
    """Tell whether ``wal_log`` copies this server's databases without harm."""
    return session.server_version >= _WAL_LOG_SAFE_SINCE


_HAS_CLONE: Final = sql.SQL(
    "SELECT count(*) FROM pg_settings WHERE name = 'file_copy_method' AND 'clone' = ANY(enumvals)"
)


def can_share_blocks(session: Session) -> bool:
    """Tell whether the server can have the file system share blocks, on this platform."""
    return bool(session.value(_HAS_CLONE))


def is_refusal_to_share_blocks(error: BaseException | None) -> bool:
    """Tell whether the file system, rather than anything else, made strategy ``clone`` fail.

    The server gives what it has no code for, such as "operation not supported", as an internal
    error (source, errcode_for_file_access).
    """
    return isinstance(error, psycopg.errors.InternalError_ | psycopg.errors.IoError)


def shares_blocks(strategy: str, size_bytes: int, seconds: float) -> bool:
    """Tell from how a copy went whether the file system shares blocks between copies."""
    return strategy == "clone" and size_bytes > seconds * _SHARED_BLOCKS_BYTES_PER_S
