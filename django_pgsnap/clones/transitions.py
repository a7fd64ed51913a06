"""The statements that move a database of ours from one stage to the next.

Each is transactional and takes milliseconds at any size, so several of them sent as one message
happen together or not at all:

    unfinished --publish--> copy --unpublish--> to be dropped
    copy's clone --become_live--> live --rename, shut--> undo --unpublish--> to be dropped
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from ..postgres.session import Query
from .names import to_drop_name
from .records import Record, encode_record


def join_statements(statements: Iterable[Query]) -> Query:
    """Return one message of these statements, which the server runs as one transaction."""
    return sql.SQL("; ").join(statements)


def publish_copy(unfinished: str, record: Record) -> Query:
    """Make a finished clone the copy that the record describes."""
    return join_statements([rename_database(unfinished, record.database), rewrite_comment(record)])


def unpublish(record: Record) -> Query:
    """Make a copy or an undo a database that nobody needs, to be dropped at leisure."""
    to_drop = to_drop_name(record.identity)
    return join_statements(
        [rename_database(record.database, to_drop), comment_on_database(to_drop, None)]
    )


def rewrite_comment(record: Record) -> Query:
    """Write down what changed about a copy or an undo."""
    return comment_on_database(record.database, encode_record(record))


def make_live(
    database: str,
    live: str,
    *,
    connection_limit: int,
    is_template: bool,
    user_comment: str | None,
) -> Query:
    """Give a shut database the live database's name, and open it to clients."""
    return join_statements(
        [
            rename_database(database, live),
            sql.SQL(
                "ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT {} IS_TEMPLATE {}"
            ).format(sql.Identifier(live), sql.Literal(connection_limit), sql.Literal(is_template)),
            comment_on_database(live, user_comment),
        ]
    )


def shut_database(database: str, text: str | None) -> Query:
    """Close a database to clients, and give it a comment."""
    return join_statements(
        [
            sql.SQL(
                "ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0 IS_TEMPLATE false"
            ).format(sql.Identifier(database)),
            comment_on_database(database, text),
        ]
    )


def comment_on_database(database: str, text: str | None) -> Query:
    """Set or remove a database's comment."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(
        sql.Identifier(database), sql.Literal(text)
    )


def rename_database(database: str, name: str) -> Query:
    """Give a database another name."""
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
        sql.Identifier(database), sql.Identifier(name)
    )
