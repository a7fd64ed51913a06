"""The model: what each command promises to leave live, as snapshots, and as undo.

A value stands for all that one database holds. The commands move values; they never mix them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

Value = str


@dataclass(frozen=True, kw_only=True)
class State:
    """What one database holds.

    Attributes:
        value: its content.
        written: whether anybody but pgsnap has been there since it was cloned from a copy, or
            something kept pgsnap from seeing that nobody was.
        clone_of: the set id of the copy of which it is a clone, as far as the server can tell: it
            has counted no written row since. Empty where it has, or where there was no such copy.
    """

    value: Value
    written: bool = True
    clone_of: str = ""


# By the name of the live database that it belongs to.
Parts = dict[str, State]


@dataclass(frozen=True, kw_only=True)
class Copies:
    """A snapshot: a whole, whatever part of it a settings file names."""

    name: str
    parts: Parts
    note: str = ""
    pinned: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """All that there is.

    Attributes:
        live: what is live, by live database.
        snapshots: by set id; a new one, whose id nobody knows yet, has the empty id.
        undos: what was replaced and is kept, newest first.
        gone: the part of `undos` that need not be kept, whatever else holds.
        is_front_kept: whether the first of `undos` must be there, since redo leads to it.
        reached: the live databases that a command reached which lets superfluous states go.
    """

    live: Parts
    snapshots: dict[str, Copies] = field(default_factory=dict)
    undos: tuple[Parts, ...] = ()
    gone: tuple[Parts, ...] = ()
    is_front_kept: bool = False
    reached: frozenset[str] = frozenset()

    def taken(self, name: str, sources: Iterable[str], replaced: Iterable[str] = ()) -> "Model":
        """What is live becomes a snapshot, in the place of others."""
        kept = {key: each for key, each in self.snapshots.items() if key not in set(replaced)}
        parts = {source: self.live[source] for source in sources}
        return replace(self, snapshots=kept).with_snapshot(Copies(name=name, parts=parts))

    def with_snapshot(self, copies: Copies) -> "Model":
        """A snapshot is there that nobody knows the id of yet."""
        return replace(self, snapshots={**self.snapshots, "": copies})

    def restored(self, set_id: str, parts: Parts, *, keep: bool, in_doubt: bool = False) -> "Model":
        """A snapshot's parts become live, and what was live the newest undo."""
        clones = {
            source: State(value=state.value, written=False, clone_of=set_id)
            for source, state in parts.items()
        }
        replaced = self.replaced(parts, in_doubt=in_doubt)
        return replace(
            self,
            live={**self.live, **clones},
            undos=(replaced, *self.undos),
            gone=() if keep else (replaced,),
        )

    def undone(self, wanted: Parts, *, in_doubt: bool) -> "Model":
        """A replaced state becomes live again, and what was live the newest undo."""
        left = tuple(each for each in self.undos if each is not wanted)
        return replace(
            self,
            live={**self.live, **wanted},
            undos=(self.replaced(wanted, in_doubt=in_doubt), *left),
            is_front_kept=True,
        )

    def replaced(self, parts: Parts, *, in_doubt: bool) -> Parts:
        """Return what is live where these parts come in."""
        return {
            source: replace(self.live[source], written=self.live[source].written or in_doubt)
            for source in parts
        }

    def without(self, set_id: str) -> "Model":
        """A snapshot is gone."""
        left = {key: each for key, each in self.snapshots.items() if key != set_id}
        return replace(self, snapshots=left)

    def changed(self, set_id: str, changed: Copies) -> "Model":
        """A snapshot is called otherwise, pinned or annotated."""
        return replace(self, snapshots={**self.snapshots, set_id: changed})

    def written(self, source: str, value: Value, *, is_seen: bool = True) -> "Model":
        """Somebody was on a live database, and left it like this.

        Args:
            source: the live database.
            value: what it holds now.
            is_seen: whether the server has counted a written row.
        """
        clone_of = "" if is_seen else self.live[source].clone_of
        return replace(self, live={**self.live, source: State(value=value, clone_of=clone_of)})

    def doubted(self, sources: Iterable[str]) -> "Model":
        """What these live databases are clones of is known no longer."""
        unknown = {source: replace(self.live[source], written=True) for source in sources}
        return replace(self, live={**self.live, **unknown})


def broken_promises(promised: Model, kept: list[dict[str, Value]], most: int) -> Iterator[str]:
    """Say which states should have been kept, and which should not.

    Args:
        promised: what there should be, with all states that were ever replaced and kept so far.
        kept: the values of those that are kept, newest first.
        most: how many are kept of each live database: the setting UNDO.
    """
    left = _matched(promised.undos, kept)
    if left is None:
        yield f"undo would lead to what it should not: {kept}, of {_values(promised.undos)}"
        return
    if promised.is_front_kept and 0 not in left:
        yield "what undo replaced is not the next to come back"
    for index, parts in enumerate(promised.undos):
        newer = [promised.undos[other] for other in left if other < index]
        is_overfull = all(_count(source, newer) >= most for source in parts)
        if index in left:
            if is_overfull and parts.keys() <= promised.reached:
                yield f"more than {most} states are kept: {kept}"
        elif parts in promised.gone or _exists_elsewhere(parts, promised):
            continue
        elif _looks_like_a_clone(parts, promised) and all(
            _count(source, [promised.undos[other] for other in left]) >= most for source in parts
        ):
            continue  # more than are kept were there, and it may go before its turn
        elif not is_overfull:
            yield f"work is lost: {_values([parts])}"
        elif any(
            _is_clean(promised.undos[other], parts, promised)
            for other in left
            if not _is_newest(other, promised.undos)
        ):
            yield f"work went though a clean clone stayed: {_values([parts])} of {kept}"


def _matched(all_of_them: tuple[Parts, ...], kept: list[dict[str, Value]]) -> set[int] | None:
    """Return which of the states those kept are, in their order; None if they are others."""
    values = _values(all_of_them)
    found: list[int] = []
    # From the oldest on: of two that are the same, any may have gone, and it is the older one.
    candidates = list(range(len(values)))
    for each in kept:
        match = next((at for at in candidates if values[at] == each), None)
        if match is None:
            return None
        found.append(match)
        candidates = [at for at in candidates if at > match]
    assert all(one < other for one, other in pairwise(found))
    return set(found)


def _values(undos: Iterable[Parts]) -> list[dict[str, Value]]:
    return [{source: state.value for source, state in parts.items()} for parts in undos]


def _count(source: str, undos: Iterable[Parts]) -> int:
    return sum(source in parts for parts in undos)


def _exists_elsewhere(parts: Parts, promised: Model) -> bool:
    """Tell whether each part is also in a snapshot."""
    copies = {
        (source, state.value)
        for snapshot in promised.snapshots.values()
        for source, state in snapshot.parts.items()
    }
    return all((source, state.value) in copies for source, state in parts.items())


def _looks_like_a_clone(parts: Parts, promised: Model) -> bool:
    """Tell whether the server has counted no row in what was cloned from a copy that is there."""
    return all(
        state.clone_of in promised.snapshots and source in promised.snapshots[state.clone_of].parts
        for source, state in parts.items()
    )


def _is_newest(index: int, undos: tuple[Parts, ...]) -> bool:
    """Tell whether a state is the newest of one of its databases, which always stays."""
    return any(not _count(source, undos[:index]) for source in undos[index])


def _is_clean(parts: Parts, instead_of: Parts, promised: Model) -> bool:
    return (
        parts.keys() == instead_of.keys()
        and not any(state.written for state in parts.values())
        and _looks_like_a_clone(parts, promised)
    )
