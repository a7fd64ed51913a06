"""Names: which ones a snapshot may have, and those of its databases."""

import string
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_pgsnap.clones.names import (
    SUBCOMMAND_NAMES,
    copy_name,
    first_free_name,
    is_identity,
    is_valid_name,
    nearest_names,
    new_identity,
    parse_database_names,
    record_name,
    spare_name,
    to_drop_name,
    unfinished_name,
    validate_name,
)
from django_pgsnap.errors import InvalidNameError
from django_pgsnap.management.arguments import SUBCOMMANDS
from django_pgsnap.postgres.advisory_locks import lock_key

FIRST = string.ascii_letters + string.digits
ALLOWED = FIRST + "._-/"
MAX_IDENTIFIER_BYTES = 63

identities = st.text("0123456789abcdef", min_size=16, max_size=16)
KINDS: dict[Callable[[str], str], str] = {
    copy_name: "copy",
    partial(record_name, "undo"): "undo",
    partial(record_name, "template"): "template",
    partial(record_name, "run"): "run",
    spare_name: "spare",
    unfinished_name: "new",
    to_drop_name: "drop",
}
NAMERS = list(KINDS)


@given(st.builds(str.__add__, st.sampled_from(FIRST), st.text(ALLOWED, max_size=99)))
@example("a" * 100)
@example("feature/x-1.2_b")
def test_takes_valid_names(name: str) -> None:
    """1 to 100 letters, digits and ``._-/`` that start with a letter or digit are a name."""
    assert is_valid_name(name)
    if name not in SUBCOMMAND_NAMES:
        validate_name(name)


@given(st.text() | st.text(ALLOWED, max_size=110))
@example("")
@example("a" * 101)
@example("-rf")
@example(".hidden")
@example("seeded\n")
@example("ünicode")
@example("\N{ARABIC-INDIC DIGIT ONE}")
def test_refuses_all_others(name: str) -> None:
    """Nothing else is a name, whatever it is."""
    valid = 1 <= len(name) <= 100 and set(name) <= set(ALLOWED) and name[0] in FIRST

    assert is_valid_name(name) == valid


def test_says_what_a_name_may_be() -> None:
    """A name that cannot be is quoted, with what can be."""
    with pytest.raises(InvalidNameError) as caught:
        validate_name("my snapshot")

    assert caught.value.message == "A snapshot cannot be called 'my snapshot'."
    assert caught.value.hint == (
        "Use 1-100 letters (A-Z, a-z), digits, '.', '_', '-' or '/', starting with a letter or "
        "digit. For example: 'my-snapshot'."
    )


def test_suggests_nothing_where_nothing_is_left() -> None:
    """A name without any letter or digit has none that looks like it."""
    with pytest.raises(InvalidNameError) as caught:
        validate_name("?!")

    assert caught.value.hint.endswith("starting with a letter or digit.")


def test_names_of_subcommands_are_refused() -> None:
    """Nothing new is called like a subcommand, and the list of these is complete."""
    words = {word for name, each in SUBCOMMANDS.items() for word in (name, *each.aliases)}

    assert words <= SUBCOMMAND_NAMES
    with pytest.raises(InvalidNameError, match="'list': that is a subcommand of pgsnap"):
        validate_name("list")


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        ([], "snap1"),
        (["seeded"], "snap1"),
        (["snap1", "snap2"], "snap3"),
        (["snap3", "snap1"], "snap2"),
        (["snap01"], "snap1"),
    ],
)
def test_first_free(taken: list[str], free: str) -> None:
    """A snapshot without a name gets the lowest number that is not taken."""
    assert first_free_name(taken) == free


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("SEEDED", ["seeded"]),
        ("seded", ["seeded"]),
        ("xyz", []),
        ("snap", ["snap3", "snap2", "snap1"]),
    ],
)
def test_nearest(name: str, found: list[str]) -> None:
    """At most three similar names are found, whatever their case."""
    known = ["seeded", "snap1", "snap2", "snap3", "snap44", "before-import"]

    assert nearest_names(name, known) == found


def test_identities_are_new() -> None:
    """Each identity is another one, and is recognised."""
    made = {new_identity() for _ in range(100)}

    assert len(made) == 100
    assert all(map(is_identity, made))


@pytest.mark.parametrize("text", ["", "0" * 15, "0" * 17, "A" * 16, "0" * 16 + "\n", "g" * 16])
def test_is_no_identity(text: str) -> None:
    """An identity is exactly 16 lower-case hexadecimal digits."""
    assert not is_identity(text)


@given(identities)
def test_database_names_differ(identity: str) -> None:
    """Each stage of the same identity has a name of its own, which the server does not cut."""
    made = [namer(identity) for namer in NAMERS]

    assert len(set(made)) == len(NAMERS)
    assert all(len(name.encode()) <= MAX_IDENTIFIER_BYTES for name in made)


@pytest.mark.parametrize("namer", NAMERS)
def test_stage_is_told_from_the_whole_name(namer: Callable[[str], str]) -> None:
    """Names of ours are told from all others, and what they say from the whole of them."""
    identity = "0123456789abcdef"
    name = namer(identity)

    others = ["live", name + "0", name[:-1], "x" + name, name.upper(), name + "\n"]
    found = parse_database_names([name, *others])

    kind = KINDS[namer]
    shown = to_drop_name(identity).rpartition("_")[2] if kind == "drop" else identity
    assert found == {name: (kind, shown)}


@given(st.text())
def test_lock_key_fits_the_server(database: str) -> None:
    """Any database has a lock key that fits into a bigint."""
    assert -(2**63) <= lock_key(database) < 2**63


def test_lock_key_never_changes() -> None:
    """Two versions of the package that work on the same server meet at the same lock."""
    assert lock_key("live") == -341928136767870241
    assert lock_key("app") == 1204346485971833068


def test_name_to_drop_by_cannot_be_told() -> None:
    """What waits to be dropped is not called after what every role can read."""
    identity = new_identity()

    assert identity not in to_drop_name(identity)
    assert to_drop_name(identity) == to_drop_name(identity)  # where it is to be found again
