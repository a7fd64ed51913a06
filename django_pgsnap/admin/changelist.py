"""Rows: what the pages show of one snapshot, in words.

The list of snapshots: searched, filtered, sorted, a page at a time.

All of it is worked out from one look at the server, and one at the migrations on disk, however many
snapshots there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.core.paginator import Page, Paginator
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from .. import formatting as plain
from ..migration_drift import Drift, KnownMigrations
from ..snapshots.queries import Overview
from ..snapshots.types import Snapshot
from . import text

_SHORT_COMMIT: Final = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """One snapshot, as the pages show it.

    Attributes:
        snapshot: The snapshot.
        drift: How far its migrations are from this checkout's.
        percent: Its size in per cent of the largest one's.
    """

    snapshot: Snapshot
    drift: Drift
    percent: int = 100

    @property
    def age(self) -> str:
        """How long ago it was taken."""
        return text.ago(self.snapshot.taken_at)

    @property
    def size(self) -> str:
        """What it occupies."""
        return plain.format_size(self.snapshot.size_bytes)

    @property
    def databases(self) -> str:
        """Its databases, by alias."""
        return ", ".join(map(plain.printable, self.snapshot.aliases))

    @property
    def note(self) -> str:
        """Its note, on one line."""
        return plain.printable(self.snapshot.note)

    @property
    def branch(self) -> str:
        """The branch of the code that it was taken with."""
        return plain.printable(self.snapshot.git_branch)

    @property
    def commit(self) -> str:
        """The commit of that code, as git abbreviates it."""
        return plain.printable(self.snapshot.git_commit[:_SHORT_COMMIT])

    @property
    def drift_badges(self) -> list[tuple[str, str]]:
        """The drift in kinds (``current``, ``behind``, ``unknown``), each in words."""
        return text.drift(self.drift)

    @property
    def spare(self) -> str:
        """The state of its spare, in words."""
        return text.spare(self.snapshot)


def rows(overview: Overview) -> Iterator[Row]:
    """Return all snapshots as rows, each compared with the others and with this checkout."""
    code = KnownMigrations()
    largest = max((each.size_bytes for each in overview.snapshots), default=0)
    for each in overview.snapshots:
        percent = round(100 * each.size_bytes / largest) if largest else 0
        yield Row(snapshot=each, drift=code.drift(each.migrations), percent=percent)


PER_PAGE: Final = 100
_SEARCH: Final = "q"
_ORDER: Final = "o"
_PAGE: Final = "p"
_DATABASE: Final = "database"
_DRIFT: Final = "drift"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading.

    Attributes:
        label: What it says.
        css: Its class, if it has one.
        link: Where to go to sort by it, empty where one cannot.
        sorted: ``ascending``, ``descending`` or empty: by which order it is sorted now.
    """

    label: Any
    css: str
    link: str
    sorted: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice of a filter."""

    label: Any
    link: str
    selected: bool


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter above the list."""

    title: Any
    choices: tuple[Choice, ...]


# Label, class, and by what it is sorted.
_COLUMNS: Final[dict[str, tuple[Any, str, Callable[[Row], Any] | None]]] = {
    "name": (_("Name"), "", lambda row: row.snapshot.name.casefold()),
    "taken": (_("Taken"), "", lambda row: row.snapshot.taken_at),
    "size": (_("Size"), "pgsnap-number", lambda row: row.snapshot.size_bytes),
    "databases": (_("Databases"), "", None),
    "branch": (_("Code"), "", lambda row: row.branch.casefold()),
    "migrations": (
        _("Migrations"),
        "",
        lambda row: (len(row.drift.unknown), len(row.drift.missing)),
    ),
    "spare": (_("Spare"), "", None),
}
_NEWEST_FIRST: Final = "-taken"
_DRIFTS: Final = {
    "current": _("Current"),
    "behind": _("Behind"),
    "unknown": _("Unknown here"),
}


class ChangeList:
    """What the list shows for a query string."""

    def __init__(self, overview: Overview, query: QueryDict) -> None:
        """Work it out.

        Args:
            overview: What there is.
            query: The request's parameters.
        """
        self._query = query
        self._all = list(rows(overview))
        self.text = query.get(_SEARCH, "").strip()
        self._order = self._known_order(query.get(_ORDER, _NEWEST_FIRST))
        found = [row for row in self._all if self._matches(row)]
        self.total = len(self._all)
        self.count = len(found)
        self.page: Page[Row] = Paginator(self._sorted(found), PER_PAGE).get_page(query.get(_PAGE))

    @property
    def columns(self) -> list[Column]:
        """The headings, with links to sort by them."""
        return [
            Column(
                label=label,
                css=css,
                link=self._link(**{_ORDER: self._next_order(name)}) if by else "",
                sorted={name: "ascending", f"-{name}": "descending"}.get(self._order, ""),
            )
            for name, (label, css, by) in _COLUMNS.items()
            if name != "databases" or self.has_several_databases
        ]

    @property
    def has_several_databases(self) -> bool:
        """Whether it says anything which databases are in a snapshot."""
        return len({alias for row in self._all for alias in row.snapshot.aliases}) > 1

    @property
    def filters(self) -> list[Filter]:
        """The filters that there is anything to choose in."""
        aliases = {alias: alias for row in self._all for alias in row.snapshot.aliases}
        given = [
            self._filter(_("Database"), _DATABASE, dict(sorted(aliases.items()))),
            self._filter(_("Migrations"), _DRIFT, _DRIFTS),
        ]
        return [each for each in given if len(each.choices) > 2]  # noqa: PLR2004  # all, and one

    @property
    def is_filtered(self) -> bool:
        """Whether a filter is on."""
        return bool(self._query.get(_DATABASE) or self._query.get(_DRIFT))

    @property
    def kept(self) -> list[tuple[str, str]]:
        """Parameters that a new search leaves as they are."""
        names = (_ORDER, _DATABASE, _DRIFT)
        return [(name, value) for name in names if (value := self._query.get(name))]

    @property
    def pages(self) -> Iterator[tuple[int | str, str]]:
        """Numbers of pages, each with its link; that of the present page is empty."""
        paginator = self.page.paginator
        for number in paginator.get_elided_page_range(self.page.number):
            here = number == self.page.number or not isinstance(number, int)
            yield number, "" if here else self._link(**{_PAGE: str(number)})

    def _matches(self, row: Row) -> bool:
        database, drift = self._query.get(_DATABASE), self._query.get(_DRIFT)
        snapshot = row.snapshot
        looked_into = (snapshot.name, snapshot.note, snapshot.git_branch, snapshot.git_commit)
        text = "\n".join(looked_into).casefold()
        return (
            all(word in text for word in self.text.casefold().split())
            and (not database or database in snapshot.aliases)
            and (drift not in _DRIFTS or drift in dict(row.drift_badges))
        )

    def _sorted(self, found: list[Row]) -> Sequence[Row]:
        by = _COLUMNS[self._order.removeprefix("-")][2]
        return sorted(found, key=by, reverse=self._order.startswith("-")) if by else found

    @staticmethod
    def _known_order(order: str) -> str:
        _label, _css, by = _COLUMNS.get(order.removeprefix("-"), ("", "", None))
        return order if by else _NEWEST_FIRST

    def _next_order(self, name: str) -> str:
        # The newest and the largest are what one looks for first.
        first = f"-{name}" if name in {"taken", "size", "migrations"} else name
        return {first: f"-{name}" if first == name else name}.get(self._order, first)

    def _filter(self, title: Any, parameter: str, labels: dict[str, Any]) -> Filter:
        present = self._query.get(parameter, "")
        return Filter(
            title=title,
            choices=tuple(
                Choice(
                    label=label,
                    link=self._link(**{parameter: value}),
                    selected=value == (present if present in labels else ""),
                )
                for value, label in {"": _("All"), **labels}.items()
            ),
        )

    def _link(self, **changes: str) -> str:
        query = self._query.copy()
        # What is chosen anew begins on the first page.
        query.pop(_PAGE, None)
        for name, value in changes.items():
            query[name] = value
            if not value:
                del query[name]
        return f"?{query.urlencode()}"
