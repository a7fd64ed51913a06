"""The rows that the hammer's clients write, made so that every state can be checked.

A client's transaction adds one to its counter, then a row with the new number, a token that no
other transaction has, and a digest of all that. In a sound state each client's rows are numbered
from one to its counter, and each digest fits.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

CREATE = (
    "CREATE TABLE hammer_counter (client int PRIMARY KEY, n int NOT NULL)",
    """CREATE TABLE hammer_row (
        client int, seq int, token bigint NOT NULL UNIQUE, digest text NOT NULL,
        PRIMARY KEY (client, seq))""",
)
NEW_CLIENT = "INSERT INTO hammer_counter VALUES (%s, 0)"

_COUNT = "UPDATE hammer_counter SET n = n + 1 WHERE client = %s RETURNING n"
_ADD = "INSERT INTO hammer_row VALUES (%s, %s, %s, %s)"
# One statement sees one state.
_READ = (
    "SELECT d.oid::bigint, c.client, c.n, r.seq, r.token, r.digest"
    " FROM pg_database d, hammer_counter c LEFT JOIN hammer_row r USING (client)"
    " WHERE d.datname = current_database()"
)
OID = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"


class Cursor(Protocol):
    """What psycopg's and Django's cursors have in common."""

    def execute(self, query: Any, params: Any = None) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


def write(cursor: Cursor, client: int, token: int) -> None:
    """Do the writes of one transaction, in as many statements."""
    cursor.execute(_COUNT, [client])
    (seq,) = cursor.fetchone()
    cursor.execute(_ADD, [client, seq, token, _digest(client, seq, token)])


def read(cursor: Cursor) -> tuple[int, frozenset[int]]:
    """Return the oid of the database and the tokens in it.

    Raises:
        AssertionError: no client can have written this state.
    """
    cursor.execute(_READ)
    rows = cursor.fetchall()
    (oid,) = {row[0] for row in rows}
    counters = {client: n for _, client, n, *_ in rows}
    written = [row[1:2] + row[3:] for row in rows if row[3] is not None]
    for client, n in counters.items():
        numbers = sorted(seq for owner, seq, *_ in written if owner == client)
        assert numbers == list(range(1, n + 1)), f"client {client} counted {n}, has {numbers}"
    _check_digests(written)
    return oid, frozenset(token for _, _, token, _ in written)


def _check_digests(written: Iterable[tuple[int, int, int, str]]) -> None:
    for client, seq, token, digest in written:
        assert digest == _digest(client, seq, token), f"row {client, seq, token} is damaged"


def _digest(client: int, seq: int, token: int) -> str:
    return hashlib.sha256(f"{client}:{seq}:{token}".encode()).hexdigest()
