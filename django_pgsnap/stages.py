"""The statements that move a database of ours from one stage to the next.

Each is transactional and takes milliseconds at any size, so several of them sent as one message
happen together or not at all:

    unfinished --publish--> copy --retire--> doomed
    copy's clone --become_live--> live --rename, shut--> undo --retire--> doomed
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from . import metadata, names
from .metadata import Record
from .session import Query


def together(statements: Iterable[Query]) -> Query:
    """Return one message of these statements, which the server runs as one transaction."""
    return sql.SQL("; ").join(statements)


def publish(unfinished: str, record: Record) -> Query:
    """Make a finished clone the copy that the record describes."""
    return together([rename(unfinished, record.database), recomment(record)])


def retire(record: Record) -> Query:
    """Make a copy or an undo a database that nobody needs, to be dropped at leisure."""
    doomed = names.doomed_name(record.identity)
    return together([rename(record.database, doomed), comment(doomed, None)])


def recomment(record: Record) -> Query:
    """Write down what changed about a copy or an undo."""
    return comment(record.database, metadata.encode(record))


def become_live(
    database: str,
    live: str,
    *,
    connection_limit: int,
    is_template: bool,
    user_comment: str | None,
) -> Query:
    """Give a shut database the live database's name, and open it to clients."""
    return together(
        [
            rename(database, live),
            sql.SQL(
                "ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT {} IS_TEMPLATE {}"
            ).format(sql.Identifier(live), sql.Literal(connection_limit), sql.Literal(is_template)),
            comment(live, user_comment),
        ]
    )


def shut(database: str, text: str | None) -> Query:
    """Close a database to clients, and give it a comment."""
    return together(
        [
            sql.SQL(
                "ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0 IS_TEMPLATE false"
            ).format(sql.Identifier(database)),
            comment(database, text),
        ]
    )


def comment(database: str, text: str | None) -> Query:
    """Set or remove a database's comment."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(
        sql.Identifier(database), sql.Literal(text)
    )


def rename(database: str, name: str) -> Query:
    """Give a database another name."""
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
        sql.Identifier(database), sql.Identifier(name)
    )
