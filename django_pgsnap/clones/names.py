"""Names: which ones a snapshot may have, and what its databases are called on the server."""

import difflib
import hashlib
import re
import secrets
from collections.abc import Iterable
from functools import partial
from itertools import count
from typing import Final

from ..errors import InvalidNameError
from ..messages import message

# On the command line they would be taken for something else.
SUBCOMMAND_NAMES: Final = frozenset(
    (
        *("annotate", "completion", "delete", "diff", "doctor", "list", "ls", "pin", "prune"),
        *("purge", "refill", "rename", "restore", "rm", "run", "save", "show", "status", "take"),
        *("undo", "unpin"),
    )
)
_SNAPSHOT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9._/-]+")
_MAX_LENGTH: Final = 100
_IDENTITY: Final = re.compile(r"[0-9a-f]{16}")
_MANAGED: Final = re.compile(
    r"pgsnap_(?:(?P<kind>undo|spare|template|run|new|drop)_)?(?P<identity>[0-9a-f]{16})"
)


def is_valid_name(name: str) -> bool:
    """Tell whether a snapshot may have this name."""
    return _SNAPSHOT.fullmatch(name) is not None


def validate_name(name: str) -> None:
    """Refuse a name that no new snapshot may have."""
    if not is_valid_name(name):
        similar = _UNUSABLE.sub("-", name).strip("._-/")[:_MAX_LENGTH]
        example = message(" For example: {name!r}.", name=similar)
        raise InvalidNameError(
            "A snapshot cannot be called {name!r}.",
            hint="Use 1-100 letters (A-Z, a-z), digits, '.', '_', '-' or '/', starting with a "
            "letter or digit.{suggestion}",
            name=name,
            suggestion=example if is_valid_name(similar) else "",
        )
    if name in SUBCOMMAND_NAMES:
        raise InvalidNameError(
            "A snapshot cannot be called {name!r}: that is a subcommand of pgsnap.",
            hint="Use another name.",
            name=name,
        )


def first_free_name(taken: Iterable[str]) -> str:
    """Return ``snap1``, or the first of ``snap2``, ``snap3``, … that is not taken."""
    used = set(taken)
    return next(name for name in map("snap{}".format, count(1)) if name not in used)


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that look like ``name``, most similar first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    return [by_folded[match] for match in difflib.get_close_matches(name.casefold(), by_folded)]


def new_identity() -> str:
    """Return 16 random hexadecimal digits: the identity of one copy, undo or set."""
    return secrets.token_hex(8)


def is_identity(text: str) -> bool:
    """Tell whether the text could have come from `new_identity`."""
    return _IDENTITY.fullmatch(text) is not None


# A database's name says what stage it is at and whose identity it has. It is compared as a whole
# with what the catalog says, and never taken apart to learn a snapshot's name or age.


def record_name(kind: str, identity: str) -> str:
    """Name of a database of ours by its kind, see `parse_database_names`, and its identity."""
    return f"pgsnap_{identity}" if kind == "copy" else f"pgsnap_{kind}_{identity}"


copy_name: Final = partial(record_name, "copy")
spare_name: Final = partial(record_name, "spare")
unfinished_name: Final = partial(record_name, "new")

# Only this process knows it.
_KEY: Final = secrets.token_bytes(16)


def to_drop_name(identity: str) -> str:
    """Name of a database that is published no longer and waits to be dropped.

    Nobody can tell it beforehand, since another database of this name would be in our way. It
    follows from the identity, which every role can read, and a key of this process.
    """
    digest = hashlib.blake2s(identity.encode(), key=_KEY, digest_size=8)
    return f"pgsnap_drop_{digest.hexdigest()}"


def parse_database_names(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return kind and identity of the databases that are called exactly like ours, by name.

    The kind is that of its record, or ``spare``, or ``new`` and ``drop`` for an unfinished one and
    one that waits to be dropped.
    """
    found = {name: match for name in names if (match := _MANAGED.fullmatch(name))}
    return {name: (match["kind"] or "copy", match["identity"]) for name, match in found.items()}
